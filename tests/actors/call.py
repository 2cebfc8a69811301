"""Plays the user of a voice call: its Story, its StoryRun, the cancel, the redrive (contract §1, 4.5).

And the hand that moves the others: `engine` starts the call, `hub` may say that its streams have ended. When everyone
leaves, nothing of this changes (measured on a real call): the engrams and their bindings stay, the hub is silent, the
bot sits in the room. Only somebody who asks LiveKit knows (`signaling`).
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from actors import hub
from actors.engine import Staging, start_run
from actors.kubernetes import BINDING, STEP_RUN, STORY, STORY_RUN, Kubernetes, Object, Refused, Unreachable
from actors.names import (
    CANCEL_OBSERVED_AT,
    REDRIVE_OBSERVED,
    REDRIVE_TOKEN,
    RUN_FINALIZER,
    STEP_CANCEL_REQUESTED,
    TERMINAL,
    TRIGGER_TOKEN,
    compose_name,
)

_POLL = 0.01


_AS_USUAL = Staging()


@dataclass(frozen=True)
class Call:
    """One StoryRun and what belongs to it. Make one with `start`."""

    kubernetes: Kubernetes
    namespace: str
    name: str
    uid: str
    story: str
    staging: Staging
    sid: str = ""
    """Of the room that an impulse has started the run for: its trigger token."""

    @classmethod
    async def start(
        cls,
        kubernetes: Kubernetes,
        namespace: str,
        name: str = "call",
        *,
        staging: Staging = _AS_USUAL,
        story: str | None = None,
        pattern: str = "realtime",
        drain: int = 120,
        shutdown_timeout: str | None = None,
        story_annotations: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        sid: str | None = None,
    ) -> Self:
        """Starts a call and returns when everyone is connected.

        `story` names an existing Story; otherwise the call gets one of its own: `drain` is its drainTimeoutSeconds,
        `shutdown_timeout` its gracefulShutdownTimeout as written (Go duration text, or anything else). Its room is
        a new one, unless `sid` says which.
        """
        sid = sid or f"RM_{uuid.uuid4().hex[:12]}"
        if story is None:
            story = compose_name(name, "story")
            await create_story(
                kubernetes,
                namespace,
                story,
                steps=staging.steps,
                pattern=pattern,
                drain=drain,
                shutdown_timeout=shutdown_timeout,
                annotations=story_annotations,
            )
        run = await kubernetes.create(
            STORY_RUN,
            namespace,
            name,
            {"storyRef": {"name": story}},
            annotations={TRIGGER_TOKEN: sid, **(annotations or {})},
            finalizers=[RUN_FINALIZER],
        )
        await start_run(kubernetes, run, staging)
        return cls(kubernetes, namespace, name, run["metadata"]["uid"], story, staging, sid)

    async def cancel(self) -> datetime:
        """Asks for the end of the call; returns the time at which it did."""
        asked = datetime.now(UTC)
        await self._change({"spec": {"cancelRequested": True}})
        return asked

    async def lose_bindings(self) -> None:
        """Somebody deletes the call's bindings. That is no end of a real call: they stay when everyone has left.

        A real bobrapet would make them anew for a living StepRun (contract §2.6 F); the played one does not.
        """
        for binding in await self.bindings():
            try:
                await self.kubernetes.delete(BINDING, self.namespace, binding["metadata"]["name"])
            except Refused as refusal:
                if refusal.status != 404:  # the call has ended meanwhile, at its deadline perhaps
                    raise

    async def signal_topology_terminated(self) -> None:
        """The hub says that all streams have ended. When everyone has left a room, a real one is silent."""
        await hub.signal_topology_terminated(self.kubernetes, self.namespace, self.name)

    async def lose_topology_terminated(self) -> None:
        """bobrapet writes the conditions as it knew them before the hub's word: the last writer wins (§9.2)."""
        conditions = (await self.get()).get("status", {}).get("conditions", [])
        others = [condition for condition in conditions if condition["reason"] != "TopologyTerminated"]
        await self.kubernetes.acting_as("bobrapet").patch_status(
            STORY_RUN, self.namespace, self.name, {"conditions": others}
        )

    async def observe_cancel(self, instant: datetime | None = None) -> str:
        """Observes the cancel by hand, where no operator is played; returns its value."""
        cancel_observed_at = (instant or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        await self.kubernetes.acting_as("bobrapet").patch(
            STORY_RUN,
            self.namespace,
            self.name,
            {"metadata": {"annotations": {CANCEL_OBSERVED_AT: cancel_observed_at}}},
        )
        return cancel_observed_at

    async def redrive(self, *, uncancel: bool = False, within: float = 10) -> None:
        """Redrives the run and waits until the operator has done it.

        With `uncancel`, which works where bobrapet's webhooks are off, the same run is then started as a call again;
        otherwise it stays canceled.
        """
        token = uuid.uuid4().hex
        change: dict[str, Any] = {"metadata": {"annotations": {REDRIVE_TOKEN: token}}}
        if uncancel:
            change["spec"] = {"cancelRequested": False}
        await self._change(change)
        await self.wait_until(lambda run: run["metadata"]["annotations"].get(REDRIVE_OBSERVED) == token, within)
        if uncancel:
            await start_run(self.kubernetes, await self.get(), self.staging)

    async def annotate(self, annotations: Mapping[str, str | None]) -> None:
        """Sets annotations of the run, or removes them (None)."""
        await self._change({"metadata": {"annotations": dict(annotations)}})

    async def delete(self) -> None:
        """Deletes the run; it is gone when the operator has cleaned up."""
        await self.kubernetes.delete(STORY_RUN, self.namespace, self.name)

    async def get(self) -> Object:
        """The run as it is now; raises Refused (404) when it is gone."""
        return await self.kubernetes.get(STORY_RUN, self.namespace, self.name)

    async def step_runs(self) -> list[Object]:
        """The StepRuns that name the run and are not another uid's."""
        found = await self.kubernetes.list(
            STEP_RUN, self.namespace, field_selector=f"spec.storyRunRef.name={self.name}"
        )
        return [
            step_run
            for step_run in found
            if all(owner["uid"] == self.uid for owner in step_run["metadata"].get("ownerReferences", []))
        ]

    async def bindings(self) -> list[Object]:
        """The TransportBindings of this very uid."""
        found = await self.kubernetes.list(BINDING, self.namespace, field_selector=f"spec.storyRunRef.name={self.name}")
        return [binding for binding in found if binding["spec"]["storyRunRef"]["uid"] == self.uid]

    async def wait_until(self, holds: Callable[[Object], bool], within: float = 10) -> Object:
        """The first state of the run seen for which it holds; raises AssertionError with the last one."""
        run: Object | None = None
        try:
            async with asyncio.timeout(within):
                while run is None or not holds(run):
                    await asyncio.sleep(_POLL if run else 0)
                    try:
                        run = await self.get()
                    except Unreachable:
                        await asyncio.sleep(_POLL)
        except TimeoutError:
            raise AssertionError(f"not within {within:g} s; last seen: {run}") from None
        return run

    async def wait_observed(self, within: float = 10) -> str:
        """The cancel_observed_at, once bobrapet has stamped it."""
        run = await self.wait_until(lambda run: CANCEL_OBSERVED_AT in run["metadata"].get("annotations", {}), within)
        cancel_observed_at: str = run["metadata"]["annotations"][CANCEL_OBSERVED_AT]
        return cancel_observed_at

    async def wait_finished(self, within: float = 10) -> Object:
        """The run when it is in a terminal phase."""
        return await self.wait_until(lambda run: run.get("status", {}).get("phase") in TERMINAL, within)

    async def wait_draining(self, within: float = 10) -> None:
        """Returns when the operator has told all StepRuns of a canceled call: it then waits for the drain to end."""
        reported: list[bool] = []
        try:
            async with asyncio.timeout(within):
                while not all(reported) or not reported:
                    await asyncio.sleep(_POLL)
                    annotations = [each["metadata"].get("annotations", {}) for each in await self.step_runs()]
                    reported = [STEP_CANCEL_REQUESTED in each for each in annotations]
        except TimeoutError:
            raise AssertionError(f"{reported.count(False)} StepRuns not told within {within:g} s") from None

    async def wait_cleaned_up(self, within: float = 10) -> datetime:
        """When none of the call's StepRuns and bindings was left; raises AssertionError with what is."""
        left: list[Object] = [{}]
        try:
            async with asyncio.timeout(within):
                while left:
                    await asyncio.sleep(_POLL)
                    with contextlib.suppress(Unreachable):
                        left = [*await self.step_runs(), *await self.bindings()]
        except TimeoutError:
            names = [f"{item['kind']} {item['metadata']['name']}" for item in left if item]
            raise AssertionError(f"still there after {within:g} s: {', '.join(names)}") from None
        return datetime.now(UTC)

    async def wait_deleted(self, within: float = 10) -> None:
        """Returns when there is no such run, or one with another uid."""
        try:
            await self.wait_until(lambda run: run["metadata"]["uid"] != self.uid, within)
        except Refused as refusal:
            if refusal.status != 404:
                raise

    async def _change(self, change: Mapping[str, Any]) -> None:
        await self.kubernetes.patch(STORY_RUN, self.namespace, self.name, change)


async def create_story(
    kubernetes: Kubernetes,
    namespace: str,
    name: str,
    *,
    steps: tuple[str, ...] = _AS_USUAL.steps,
    pattern: str = "realtime",
    drain: int = 120,
    shutdown_timeout: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> None:
    """A Story as calls have it; the parameters are those of `Call.start`."""
    spec: dict[str, Any] = {
        "pattern": pattern,
        "steps": [{"name": step, "ref": {"name": step}, "transport": "voice"} for step in steps],
        "transports": [
            {"name": "voice", "transportRef": "voice", "settings": {"lifecycle": {"drainTimeoutSeconds": drain}}}
        ],
    }
    if shutdown_timeout is not None:
        spec["policy"] = {"timeouts": {"gracefulShutdownTimeout": shutdown_timeout}}
    await kubernetes.create(STORY, namespace, name, spec, annotations=dict(annotations or {}))
