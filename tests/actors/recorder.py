"""Watches the StoryRuns of a namespace and keeps every state, so that tests can say what happened, and how often.

It writes nothing. A watch tells each state of an object once; only what changes while the kube-apiserver is away is
reported as one change.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from actors.kubernetes import STORY_RUN, Kubernetes, Object
from actors.names import CANCEL_OBSERVED_AT, TERMINAL


@dataclass(frozen=True)
class State:
    """A run as it was seen at a time; `deleted` with its last content."""

    at: datetime
    run: Object
    deleted: bool = False

    @property
    def phase(self) -> str | None:
        phase: str | None = self.run.get("status", {}).get("phase")
        return phase

    @property
    def cancel_observed_at(self) -> datetime:
        """When bobrapet took note of the cancel; raises KeyError when it has not."""
        return datetime.fromisoformat(self.run["metadata"]["annotations"][CANCEL_OBSERVED_AT])

    @property
    def written_by(self) -> str | None:
        """The field manager that last wrote `status.phase`; of a terminator's stop the terminator."""
        for entry in self.run["metadata"].get("managedFields", []):
            if "f:phase" in entry["fieldsV1"].get("f:status", {}):
                manager: str = entry["manager"]
                return manager.partition("/")[0]
        return None


class Recorder:
    """All states of all runs of `namespace`, or of all namespaces (None), from the moment it is entered as an async
    context manager.
    """

    def __init__(self, kubernetes: Kubernetes, namespace: str | None) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._states: dict[str, list[State]] = {}
        self._changed = asyncio.Condition()
        self._synced = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run(), name="recorder")
        async with asyncio.timeout(30):
            await self._synced.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._running is not None
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    async def _run(self) -> None:
        async for event in self._kubernetes.follow(STORY_RUN, self._namespace):
            if event.type == "SYNCED":
                self._synced.set()
                continue
            state = State(datetime.now(UTC), event.object, deleted=event.type == "DELETED")
            async with self._changed:
                self._states.setdefault(event.object["metadata"]["uid"], []).append(state)
                self._changed.notify_all()

    def states(self, uid: str) -> list[State]:
        """What was seen of one run, in order."""
        return self._states.get(uid, [])

    def terminal_transitions(self, uid: str) -> list[State]:
        """Each state in which the run's phase had become terminal, or another terminal one."""
        states = self.states(uid)
        phases = [None, *(state.phase for state in states)]
        return [
            state
            for before, state in zip(phases, states, strict=False)
            if state.phase in TERMINAL and state.phase != before
        ]

    async def wait_until_seen(self, run: Object) -> None:
        """Returns when this state of a run was seen, or a later one."""
        uid, version = run["metadata"]["uid"], int(run["metadata"]["resourceVersion"])
        await self.wait_for(lambda: int(self.states(uid)[-1].run["metadata"]["resourceVersion"]) >= version)

    async def wait_for(self, holds: Callable[[], bool], within: float = 10) -> None:
        """Returns when it holds, asked at every change; raises AssertionError when it does not in time."""
        try:
            async with asyncio.timeout(within), self._changed:
                await self._changed.wait_for(holds)
        except TimeoutError:
            last = {uid: states[-1].phase for uid, states in self._states.items()}
            raise AssertionError(f"not within {within:g} s; last phases seen: {last}") from None
