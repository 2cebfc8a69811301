"""Makes realtime runs by the hundred, as bobrapet has them while a call goes on, and ends their calls.

Two StepRuns and two TransportBindings each. They have no finalizers: where no operator is played, nobody would remove
them, and what is measured is Exeunt.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, TypeVar

from actors.kubernetes import BINDING, STEP_RUN, STORY, STORY_RUN, Kubernetes, Object, Refused, Unreachable
from actors.names import CANCEL_OBSERVED_AT, RUN_LABEL, TRIGGER_TOKEN
from actors.statuses import now, unfinished
from exeunt.clock import format_instant

STEPS = ("listen", "speak")
NO_DEADLINE = "1h"
"""A shutdown timeout that no measurement lives to see."""
_AT_ONCE = 64

T = TypeVar("T")
R = TypeVar("R")


class Run(NamedTuple):
    """A run that was made, with the shutdown timeout that it has."""

    namespace: str
    name: str
    shutdown_timeout: str

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class World:
    """Everybody around Exeunt. Make one with `create`."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._kubernetes = kubernetes
        self._bobrapet = kubernetes.acting_as("bobrapet")

    async def add_story(self, namespace: str) -> None:
        """The Story of all runs of a namespace."""
        steps = [{"name": step, "ref": {"name": step}, "transport": "voice"} for step in STEPS]
        lifecycle = {"lifecycle": {"drainTimeoutSeconds": 120}}
        transports = [{"name": "voice", "transportRef": "voice", "settings": lifecycle}]
        spec = {"pattern": "realtime", "steps": steps, "transports": transports}
        await self._kubernetes.create(STORY, namespace, "call", spec)

    async def start(self, namespace: str, prefix: str, shutdown_timeouts: Iterable[str]) -> list[Run]:
        """One running call for each shutdown timeout (Go duration text)."""
        runs = [
            Run(namespace, f"{prefix}-{number}", timeout) for number, timeout in enumerate(shutdown_timeouts, start=1)
        ]
        await each(self._start_run, runs)
        return runs

    async def start_in_room(self, namespace: str, name: str, sid: str) -> Run:
        """A running call of that opening of a room, without a deadline."""
        run = Run(namespace, name, NO_DEADLINE)
        await self._start_run(run, sid)
        return run

    async def _start_run(self, run: Run, sid: str | None = None) -> None:
        made = await self._kubernetes.create(
            STORY_RUN,
            run.namespace,
            run.name,
            {"storyRef": {"name": "call"}},
            annotations={
                "exeunt.bubustack.io/shutdown-timeout": run.shutdown_timeout,
                **({TRIGGER_TOKEN: sid} if sid else {}),
            },
        )
        status = unfinished("Running", made["metadata"]["generation"], now())
        await self._bobrapet.patch_status(STORY_RUN, run.namespace, run.name, status)
        for step in STEPS:
            await self._start_step(run, made, step)

    async def _start_step(self, run: Run, made: Object, step: str) -> None:
        step_run = await self._bobrapet.create(
            STEP_RUN,
            run.namespace,
            f"{run.name}-{step}",
            {"storyRunRef": {"name": run.name}, "stepId": step},
            labels={RUN_LABEL: run.name},
            ownerReferences=[_owner(made)],
        )
        await self._bobrapet.create(
            BINDING,
            run.namespace,
            _binding(run, step),
            {
                "transportRef": "voice",
                "driver": "bobravoz-grpc",
                "stepName": step,
                "engramName": step_run["metadata"]["name"],
                "storyRunRef": {"name": run.name, "namespace": run.namespace, "uid": made["metadata"]["uid"]},
            },
            ownerReferences=[_owner(step_run)],
        )

    async def cancel(self, run: Run) -> datetime:
        """The user's cancel and the operator's cancel_observed_at, in one write; returns cancel_observed_at."""
        cancel_observed_at = datetime.now(UTC)
        change = {
            "spec": {"cancelRequested": True},
            "metadata": {"annotations": {CANCEL_OBSERVED_AT: format_instant(cancel_observed_at)}},
        }
        await _insist(lambda: self._bobrapet.patch(STORY_RUN, *run.key, change))
        return cancel_observed_at

    async def finish(self, run: Run) -> None:
        """The run and its StepRuns have succeeded."""
        ended = {"phase": "Succeeded", "finishedAt": now()}
        for step in STEPS:
            await self._bobrapet.patch_status(STEP_RUN, run.namespace, f"{run.name}-{step}", {**ended, "retries": 0})
        await self._bobrapet.patch_status(STORY_RUN, *run.key, ended)

    async def leave(self, run: Run, steps: tuple[str, ...] = STEPS) -> None:
        """The bindings of some steps go, of all unless told otherwise."""
        for step in steps:
            await _insist(partial(self._delete_binding, run, step))

    async def _delete_binding(self, run: Run, step: str) -> None:
        try:
            await self._kubernetes.delete(BINDING, run.namespace, _binding(run, step))
        except Refused as refused:
            if refused.status != 404:  # the answer to an earlier one was late
                raise


async def _insist(act: Callable[[], Awaitable[object]]) -> None:
    """A machine that is very busy answers late: a measurement is worth no less for it, as long as all sides wait."""
    for pause in (1, 2, 4):
        try:
            await act()
        except Unreachable:
            await asyncio.sleep(random.uniform(0.5, 1) * pause)
        else:
            return
    await act()


async def each(act: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """Acts on all items, as fast as one client can; returns what came of it, in order."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def in_turn(item: T) -> R:
        async with slots:
            return await act(item)

    async with asyncio.TaskGroup() as tasks:
        acting = [tasks.create_task(in_turn(item)) for item in items]
    return [task.result() for task in acting]


def _binding(run: Run, step: str) -> str:
    return f"{run.name}-{step}-transport"


def _owner(item: Object) -> dict[str, str]:
    metadata = item["metadata"]
    return {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }
