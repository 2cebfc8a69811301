"""Carries out what a stop asks for, but for recording it: calls to the kube-apiserver, and reads of SIGNALS."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from exeunt.bus.connection import Bus
from exeunt.bus.errors import BusUnavailable
from exeunt.bus.recall import last_signals
from exeunt.errors import ExeuntError
from exeunt.events.codec import ReceivedEvent
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import (
    ApiError,
    ApiUnavailable,
    Conflict,
    Forbidden,
    NotFound,
    ResourceVersionTooLarge,
    Undecodable,
    Unprocessable,
)
from exeunt.kube.resources import STEP_RUNS, STORY_RUNS, TRANSPORT_BINDINGS, Resource, T
from exeunt.kube.stories import find_story
from exeunt.run.managed_fields import FIELD_MANAGER, ended_by
from exeunt.run.snapshot import RunState, read_run, read_story, story_key
from exeunt.settings import Settings
from exeunt_terminator import commands
from exeunt_terminator.commands import (
    CancelChildren,
    ChildrenCanceled,
    ConditionLost,
    Delete,
    Deleted,
    Delivered,
    End,
    Failed,
    GetRun,
    Input,
    LastSignals,
    List,
    Listed,
    Patch,
    Question,
    Record,
    Refused,
    RunRead,
    Signals,
    Written,
)
from exeunt_terminator.machine import Stopping
from exeunt_terminator.measures import stop_ended
from exeunt_terminator.sub_stories import cancel_children

_TO_BE_TRIED_AGAIN: Final = (ApiUnavailable, ApiError, BusUnavailable, Undecodable)

log = structlog.get_logger()


class Calls:
    """The calls of one stop, which ends its run in a name of its own (`managed_fields`). Without a `bus` there are no
    signals. `error` is the last answer that was none, or not the one that was hoped for.
    """

    def __init__(self, kube: KubeClient, bus: Bus | None, settings: Settings) -> None:
        self.error: ExeuntError | None = None
        self._kube = kube
        self._bus = bus
        self._fence_wait = settings.fence_wait
        self._name = f"{FIELD_MANAGER}/{secrets.token_hex(4)}"

    async def carry_out(
        self,
        stopping: Stopping,
        event: ReceivedEvent,
        delivered: Delivered,
        record: Callable[[Record], Awaitable[Input]],
    ) -> End:
        """All that the stop asks for, as far as this delivery brings it; `record` stores what it wants recorded."""
        heard: Input = delivered
        measured = False
        while not isinstance(command := stopping.receive(heard, datetime.now(UTC)), End):
            if stopping.written_at is not None and not measured:
                stop_ended(event, delivered.stored_at, stopping.snapshot, at=datetime.now(UTC))
                measured = True
            heard = await (record(command) if isinstance(command, Record) else self.answer(command))
        return command

    async def answer(self, asked: Question) -> Input:
        try:
            return await self._ask(asked)
        except _TO_BE_TRIED_AGAIN as error:
            return self._failed(error)

    async def _ask(self, asked: Question) -> Input:
        match asked:
            case Patch():
                return await self._patch(asked)
            case GetRun():
                return await self._get(asked)
            case List():
                return await self._list(asked)
            case LastSignals(run):
                token, bus = run.trigger_token, self._bus
                return Signals(tuple(await last_signals(bus, run.namespace, run.name, token)) if bus else ())
            case Delete():
                return await self._delete(asked)
            case CancelChildren(run):
                return ChildrenCanceled(await cancel_children(self._kube, run))

    async def _patch(self, asked: Patch) -> Input:
        run = asked.run
        try:
            await self._kube.patch(
                STORY_RUNS, run.namespace, run.name, asked.body, field_manager=self._name, subresource="status"
            )
        except NotFound:
            return commands.NotFound()
        except Forbidden as error:
            self.error = error
            return commands.Forbidden(str(error))
        except (Conflict, Unprocessable) as error:
            if isinstance(error, Unprocessable) and not error.failed_test:
                return Refused(str(error))
            self.error = error
            return ConditionLost(str(error), error.perhaps_done)
        return Written()

    async def _get(self, asked: GetRun) -> Input:
        try:
            found = await self._kube.get(STORY_RUNS, asked.run.namespace, asked.run.name)
        except NotFound:
            return commands.NotFound()
        now = datetime.now(UTC)
        run = read_run(found, first_seen=asked.first_seen or now, now=now, fence_wait=self._fence_wait)
        story = await find_story(self._kube, *story_key(found)) if asked.story else None
        return RunRead(
            run,
            own=ended_by(found.metadata.managed_fields) == self._name,
            story=read_story(found, story) if story else None,
        )

    async def _list(self, asked: List) -> Listed:
        run, not_older_than = asked.run, None if asked.as_of_now else asked.run.resource_version
        if not asked.bindings:
            return Listed(step_runs=await self._list_of(STEP_RUNS, run, not_older_than))
        if not asked.step_runs:
            return Listed(bindings=await self._list_of(TRANSPORT_BINDINGS, run, not_older_than))
        both = await asyncio.gather(
            self._list_of(STEP_RUNS, run, not_older_than), self._list_of(TRANSPORT_BINDINGS, run, not_older_than)
        )
        return Listed(*both)

    async def _list_of(self, resource: Resource[T], run: RunState, not_older_than: str | None) -> tuple[T, ...]:
        """What has seen that version need not ask etcd how things are now (ADR 23); None asks for that."""
        try:
            found = await self._kube.list(
                resource, run.namespace, field_selector=_of(run), not_older_than=not_older_than
            )
        except ResourceVersionTooLarge:
            return await self._list_of(resource, run, None)
        for error in found.undecodable:
            log.warning("object not usable", error=str(error))
        return tuple(found.items)

    async def _delete(self, asked: Delete) -> Deleted | Failed:
        run, refs = asked.run, asked.step_runs
        answers = await asyncio.gather(
            *(self._kube.delete(STEP_RUNS, run.namespace, ref.name, uid=ref.uid, where=_of(run)) for ref in refs),
            return_exceptions=True,
        )
        deleted = tuple(ref.name for ref, answer in zip(refs, answers, strict=True) if answer is True)
        for answer in answers:
            if isinstance(answer, Conflict):
                continue  # another StepRun of the same name: not ours to delete (contract §10)
            if isinstance(answer, _TO_BE_TRIED_AGAIN):
                return self._failed(answer, deleted)
            if isinstance(answer, BaseException):
                raise answer
        return Deleted(deleted)

    def _failed(self, error: ExeuntError, deleted: tuple[str, ...] = ()) -> Failed:
        self.error = error
        asked = error.retry_after if isinstance(error, ApiUnavailable) else None
        return Failed(str(error), deleted, timedelta(seconds=asked) if asked else None)


def _of(run: RunState) -> str:
    """The field selector of what names the run (contract §3)."""
    return f"spec.storyRunRef.name={run.name}"
