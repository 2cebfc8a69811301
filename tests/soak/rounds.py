"""One round: people and faults as the plan says, then calm, and then the promises."""

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from actors.recorder import Recorder
from soak.faults import happen
from soak.people import clear_away, open_stops, play
from soak.plan import FAULTS, Fault, Round
from soak.promises import GRACE, broken
from soak.stage import Stage
from soak.witness import look, look_for_step_runs, read_histories
from soak.witnessed import Played, Window

READY_WITHIN: Final = 120.0
"""Seconds after the last fault in which all services have to be ready again."""
_LONGEST_TIMEOUT: Final = 60.0
_LOOK: Final = 1.0
_SAYS: Final = 15.0
"""Seconds between two lines of progress."""

Say = Callable[[str], None]


class Ended(NamedTuple):
    """What came of a round."""

    runs: list[Played]
    faults: list[Window]
    broken: list[str]


async def play_round(on: Stage, number: int, planned: Round, say: Say) -> Ended:
    """Raises what people or faults did not expect."""
    runs: list[Played] = []
    faults: list[Window] = []
    async with Recorder(on.kubernetes, None) as recorder:
        async with asyncio.TaskGroup() as tasks:
            progress = tasks.create_task(_tell(runs, recorder, say))
            people = [
                tasks.create_task(play(on, stop, f"run-{number}-{each}", recorder, runs))
                for each, stop in enumerate(planned.stops)
            ]
            async with asyncio.TaskGroup() as domains:
                for domain in FAULTS.values():
                    own = [fault for fault in planned.faults if fault.kind in domain]
                    domains.create_task(_happen(on, own, planned.seconds, runs, faults, say))
            await asyncio.gather(*people)
            say("all faults have ceased, and all is done")
            found = await _until_ready(on)
            calm_at = datetime.now(UTC)
            left = await _until_ended(on)
            progress.cancel()
        found += [f"{name}: canceled, and not ended" for name in left]
        found += await _until_idle(on)
        await _look_at(on, runs, recorder, faults)
        found += list(broken(runs, faults, calm_at, datetime.now(UTC)))
        found += on.ended()
        found += await _dead_letters(on)
        try:
            await clear_away(on.kubernetes)
        except TimeoutError:
            found.append("runs are deleted and do not go")
    return Ended(runs, faults, found)


async def _happen(
    on: Stage, planned: list[Fault], seconds: float, runs: list[Played], faults: list[Window], say: Say
) -> None:
    """Those of one domain. What is put right may take longer than planned: the next then comes later, or not at all."""
    began = time.monotonic()
    for fault in planned:
        await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
        if time.monotonic() > began + seconds:
            return
        say(f"{fault.kind}, for {fault.lasts:.1f} s")
        faults.append(await happen(on, fault))
        say(f"{fault.kind}: over")
        if fault.kind == "etcd restored":
            for run in runs:  # what was done to them since the backup has never happened
                if run.made_at < on.restored_at:
                    run.given_up = run.given_up or "etcd was restored"


async def _until_ready(on: Stage) -> list[str]:
    end = time.monotonic() + READY_WITHIN
    while troubles := await on.unready():
        if time.monotonic() > end:
            return [f"not ready {READY_WITHIN:g} s after all faults: {name}: {why}" for name, why in troubles.items()]
        await asyncio.sleep(_LOOK)
    return []


async def _until_ended(on: Stage) -> list[str]:
    """The stops that are still open when all of them should have ended."""
    end = time.monotonic() + _LONGEST_TIMEOUT + GRACE.total_seconds()
    while left := await open_stops(on.kubernetes):
        if time.monotonic() > end:
            return left
        await asyncio.sleep(_LOOK)
    return []


async def _until_idle(on: Stage) -> list[str]:
    try:
        await on.bystander.wait_until_idle(within=GRACE.total_seconds())
    except AssertionError as error:
        return [f"messages are not settled: {error}"]
    return []


async def _look_at(on: Stage, runs: list[Played], recorder: Recorder, faults: list[Window]) -> None:
    """Again while something is on its way: a StepRun that is deleted, an event that is published."""
    end = time.monotonic() + GRACE.total_seconds()
    while True:
        for run in runs:
            look(run, recorder)
        await look_for_step_runs(on.kubernetes, runs)
        await read_histories(on, runs)
        now = datetime.now(UTC)
        if time.monotonic() > end or not list(broken(runs, faults, now, now)):
            return
        await asyncio.sleep(5)


async def _dead_letters(on: Stage) -> list[str]:
    """Nobody has published anything that has no place here."""
    info = await on.bystander.streams.stream_info("DEADLETTERS", subjects_filter=">")
    return [f"{number} dead letters: {subject}" for subject, number in (info.state.subjects or {}).items()]


async def _tell(runs: list[Played], recorder: Recorder, say: Say) -> None:
    while True:
        await asyncio.sleep(_SAYS)
        ended = sum(bool(recorder.terminal_transitions(run.uid)) for run in runs)
        say(f"{len(runs)} runs, {ended} ended; load {os.getloadavg()[0]:.1f}")
