"""Plays the people of a round: each makes a run and does to it what the plan says, through every outage."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import nats.errors
from nats.js.errors import Error as JetStreamError

from actors.call import Call
from actors.kubernetes import STORY_RUN, Kubernetes, Object, Refused, Unreachable
from actors.names import TERMINAL
from actors.recorder import Recorder
from actors.signaling import everyone_leaves
from soak.plan import Stop
from soak.stage import BATCH, CALM, PROBED, REALTIME, TROUBLED, Stage
from soak.witnessed import Played

_INSISTS: Final = 90.0
"""Seconds for which somebody tries to do what the kube-apiserver does not answer."""

T = TypeVar("T")


async def insist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask until the kube-apiserver answers. Raises Refused, and TimeoutError."""
    async with asyncio.timeout(_INSISTS):
        while True:
            try:
                return await ask()
            except Unreachable:
                await asyncio.sleep(random.uniform(0.1, 0.4))


async def play(on: Stage, stop: Stop, name: str, recorder: Recorder, played: list[Played]) -> None:
    """From the run's making on until it is left to itself; what is known of it is in `played` from its beginning."""
    await asyncio.sleep(stop.at)
    try:
        call = await _start(on.kubernetes, stop, name)
    except TimeoutError:
        return  # there was no cluster to make a run in, and there is none to be judged
    run = Played(call.name, call.uid, stop.way, timedelta(seconds=stop.timeout), datetime.now(UTC))
    played.append(run)
    try:
        await asyncio.sleep(stop.runs)
        await _act(on, stop, call, run, recorder)
    except Refused as refused:
        run.given_up = run.given_up or f"refused: {refused.status}"
    except TimeoutError:
        run.given_up = run.given_up or "nobody answered"


async def _act(on: Stage, stop: Stop, call: Call, run: Played, recorder: Recorder) -> None:
    if stop.way == "bindings went before":
        await _end_topology(on, stop, call, run)
        await asyncio.sleep(stop.then)
        await _cancel(call, run)
        return
    if stop.way == "not canceled":
        await insist(call.lose_bindings)
        await insist(call.signal_topology_terminated)
        return
    await _cancel(call, run)
    await asyncio.sleep(stop.then)
    match stop.way:
        case "bindings go" | "the hub says so" | "a signal says so" | "opted out":
            await _end_topology(on, stop, call, run)
        case "redriven":
            with contextlib.suppress(AssertionError):  # whether it should have ended, others judge
                await recorder.wait_for(lambda: _is_over(run, recorder), within=_INSISTS)
            if not recorder.terminal_transitions(run.uid):
                return
            run.redriven_at, run.asked_at = datetime.now(UTC), None
            try:
                await call.redrive(uncancel=True, within=_INSISTS)
            except (Unreachable, AssertionError):
                run.given_up = "not redriven"  # nobody knows how far it has come
                return
            run.redriven_at = datetime.now(UTC)
            await asyncio.sleep(stop.runs)
            await _cancel(call, run)
        case "deleted":
            await insist(call.delete)
            run.deleted_at = datetime.now(UTC)


def _is_over(run: Played, recorder: Recorder) -> bool:
    return bool(recorder.terminal_transitions(run.uid)) or run.given_up is not None


async def _cancel(call: Call, run: Played) -> None:
    run.asked_at = datetime.now(UTC)  # it may be carried out although it is not answered
    await insist(call.cancel)


async def _end_topology(on: Stage, stop: Stop, call: Call, run: Played) -> None:
    run.evident_from = datetime.now(UTC)
    match stop.way:
        case "the hub says so" | "opted out":
            await insist(call.signal_topology_terminated)
        case "a signal says so":
            if not await _signal(on, call):
                return
        case _:
            await insist(call.lose_bindings)
    run.gone_at = datetime.now(UTC)


async def _signal(on: Stage, call: Call) -> bool:
    """Whether it was stored: it is tried for as long as a bridge would have to."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_INSISTS):
            while True:
                try:
                    await everyone_leaves(on.bystander.streams, call)
                except (JetStreamError, nats.errors.Error):
                    await asyncio.sleep(random.uniform(0.1, 0.4))
                else:
                    return True
    return False


async def _start(kubernetes: Kubernetes, stop: Stop, name: str) -> Call:
    """A call that has got as far as everybody being connected; one that has not is left as it is."""
    annotations = {"exeunt.bubustack.io/shutdown-timeout": f"{stop.timeout}s"}
    if stop.way == "opted out":
        annotations["exeunt.bubustack.io/enabled"] = "false"
    number = 0
    async with asyncio.timeout(_INSISTS):
        while True:
            number += 1
            try:
                return await Call.start(
                    kubernetes,
                    TROUBLED if stop.troubled else CALM,
                    f"{name}-{number}",
                    story=BATCH if stop.way == "batch" else REALTIME,
                    annotations=annotations,
                )
            except (Unreachable, Refused):  # Refused: etcd was restored in the middle of it
                await asyncio.sleep(random.uniform(0.5, 1))


async def clear_away(kubernetes: Kubernetes) -> None:
    """Delete all runs, and wait until they are gone. Raises TimeoutError when some are not after some minutes."""
    async with asyncio.timeout(_INSISTS):
        while runs := await _runs(kubernetes):
            for run in runs:
                with contextlib.suppress(Unreachable, Refused):
                    await kubernetes.delete(STORY_RUN, run["metadata"]["namespace"], run["metadata"]["name"])
            await asyncio.sleep(1)


async def _runs(kubernetes: Kubernetes) -> list[Object]:
    found = await insist(lambda: kubernetes.list(STORY_RUN))
    return [run for run in found if run["metadata"]["name"] != PROBED]


async def open_stops(kubernetes: Kubernetes) -> list[str]:
    """The canceled calls of the cluster that Exeunt has to end and that have not ended."""
    return [
        run["metadata"]["name"]
        for run in await insist(lambda: kubernetes.list(STORY_RUN))
        if run["spec"].get("cancelRequested")
        and run["spec"]["storyRef"]["name"] == REALTIME
        and run["metadata"].get("annotations", {}).get("exeunt.bubustack.io/enabled") != "false"
        and "deletionTimestamp" not in run["metadata"]
        and run.get("status", {}).get("phase") not in TERMINAL
    ]
