"""One stop, as a machine: what was heard in, what to ask or do next out. Pure.

It goes by the table in `stop`; `decision` and `finalize` do the thinking. All that is known of the stop is here, its
whole trail, too. On the fast path nothing is read of Kubernetes but what has to be seen anew: bindings or StepRuns,
where the evidence is that there are none.
"""

from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from exeunt.clock import format_instant, format_status_time, parse_instant
from exeunt.events.codec import ReceivedEvent
from exeunt.events.event_types import MOST_NAMES, Decided, EventType, Outcome, Verdict
from exeunt.rules.step_runs import step_runs_to_delete
from exeunt.run.snapshot import EvidenceKind, Snapshot, StepRunRef
from exeunt_terminator.commands import (
    Ack,
    AlreadyStored,
    CancelChildren,
    ChildrenCanceled,
    Command,
    ConditionLost,
    DeadLetter,
    Delete,
    Deleted,
    Delivered,
    Failed,
    Forbidden,
    GetRun,
    GiveBack,
    Input,
    LastSignals,
    List,
    Listed,
    NotFound,
    NotStored,
    Patch,
    Record,
    Refused,
    RunRead,
    SecondLook,
    Signals,
    Stored,
    Written,
)
from exeunt_terminator.decision import (
    TOPOLOGY_UP,
    decide,
    leaves_leftovers,
    possible_evidence,
    still_no_bindings,
    still_no_step_runs,
    still_reported_by_the_hub,
    still_signaled,
)
from exeunt_terminator.finalize import finalizing_patch
from exeunt_terminator.stop import TRANSITIONS, Result, StopState

_FRESH: Final = timedelta(minutes=1)
"""An older event is not acted on before the run is read again: its conditional write would only be refused."""
_EARLY: Final = timedelta(seconds=1)
"""What two clocks that are kept may differ by: so much before its deadline a run may be ended by it."""
_LONGEST_WAIT: Final = timedelta(seconds=30)
"""For a deadline that has not come: a clock that is behind may be put right meanwhile."""
_MOST_WRITES: Final = 5
"""Lost conditions in a row after which the event goes back to the stream for a while."""
_LONGEST_WHY: Final = 1024
"""Characters: a refusal may quote what it refuses."""


class Stopping:
    """One stop, from the delivery of its event to the answer. One question at a time, each command answered by an
    input.

    `snapshot` is what is known of the run, `trail` what was decided, `failure` why something has to be tried again.
    `recorded` tells whether the outcome is news, `next_at` when a write that is forbidden is tried again (RFC 3339).
    """

    def __init__(self, event: ReceivedEvent, *, dry_run: bool, propagate_cancel: bool) -> None:
        self.snapshot = event.snapshot
        self.trail: list[Decided] = []
        self.failure: str | None = None
        self.recorded = False
        self.next_at: str | None = None
        self.written_at: datetime | None = None  # the time in the write that has ended the run
        self._event = event
        self._cancellation = event.snapshot.run.cancellation
        self._dry_run = dry_run
        self._propagate_cancel = propagate_cancel and not dry_run
        self._state = StopState.DELIVERED
        self._delivered: Delivered | None = None
        self._reread: Snapshot | None = None
        self._evidence: list[EvidenceKind] = []  # what may still show that the topology is gone
        self._not_due_for: timedelta | None = None
        self._asked: timedelta | None = None  # how long whoever failed wants to be left alone
        self._writes = 0
        self._sent_at: datetime | None = None
        self._unanswered: datetime | None = None  # the time in a write that may be stored, though told that it is not
        self._to_delete: tuple[StepRunRef, ...] = event.snapshot.step_runs or ()
        self._deleted: list[str] = []
        self._canceled_children: tuple[str, ...] = ()
        self._outcome_at: int | None = None  # the sequence of an outcome that ours comes after

    def receive(self, heard: Input, now: datetime) -> Command:
        """What to do next, after what was heard at `now`. After an End nothing more may come."""
        ahead = self._hear(heard, now)
        while isinstance(ahead, Result):
            self._state = TRANSITIONS[self._state][ahead]
            ahead = self._go_on(now)
        return ahead

    def _hear(self, heard: Input, now: datetime) -> Command | Result:  # noqa: PLR0912 - a line for each answer
        """What came of what was being done."""
        match self._state, heard:
            case _, Failed(why, deleted, asked):
                self._deleted += deleted
                self._asked = asked
                return self._fail(why)
            case StopState.DELIVERED, Delivered():
                self._delivered = heard
                old = heard.deliveries > 1 or now - heard.stored_at > _FRESH
                old = old or self._event.event_type is EventType.STEP_RUNS_LEFT
                return Result.AGAIN if old else Result.FIRST
            case StopState.CHECKING, Listed(step_runs, bindings):
                run = self.snapshot.run  # what was not asked for is empty
                still = still_no_step_runs(run, step_runs) and still_no_bindings(run, bindings)
                return Result.STILL_GONE if still else self._check()
            case StopState.CHECKING, Signals(signals):
                gone = self.snapshot.topology.gone
                before = gone is not None and gone.kind == "signal"
                still = still_signaled(self.snapshot.run, signals, before=before)
                return Result.STILL_GONE if still else self._check()
            case StopState.PATCHING, Written():
                self.written_at = self._sent_at
                known = self.snapshot.step_runs is not None
                return self._came(Result.WRITTEN if known else Result.WRITTEN_STEP_RUNS_UNKNOWN)
            case StopState.PATCHING, ConditionLost(why, perhaps_done):
                if self._writes >= _MOST_WRITES:
                    return self._fail(why)
                self._unanswered = self._sent_at if perhaps_done else self._unanswered
                return self._came(Result.CONDITION_LOST)
            case StopState.PATCHING, Refused(why):
                return self._refuse(Result.REFUSED, why, now)
            case StopState.PATCHING, Forbidden(why):
                self.failure, self.next_at = why, format_instant(now + self._back_off)
                return self._refuse(Result.FORBIDDEN, why, now)
            case StopState.PATCHING, NotFound():
                self._came(Result.NOT_FOUND)
                return self._note(Result.NOT_FOUND, Verdict.GONE, "deleted", "the StoryRun is gone", now)
            case StopState.READING, NotFound():
                return self._note(Result.NOT_FOUND, Verdict.GONE, "deleted", "the StoryRun is gone", now)
            case StopState.READING, RunRead():
                return self._read(heard)
            case StopState.LISTING, Listed(step_runs, bindings):
                self._to_delete = step_runs_to_delete(self.snapshot.run.uid, step_runs, bindings)
                return Result.LISTED if self._to_delete else Result.NOTHING_LEFT
            case StopState.CONFIRMING, RunRead(run) if leaves_leftovers(
                self._cancellation, replace(self.snapshot, run=run)
            ):
                return Result.STILL_ENDED
            case StopState.CONFIRMING, RunRead() | NotFound():
                return Result.ENDED_NO_MORE
            case StopState.DELETING, Deleted(names):
                self._deleted += names
                return Result.DELETED
            case StopState.PASSING_ON, ChildrenCanceled(names):
                self._canceled_children = names
                return Result.PASSED_ON
            case StopState.RECORDING, Stored() | AlreadyStored() | NotStored():
                return self._record(heard)
        raise AssertionError(f"{heard} is no answer to what was asked while {self._state}")

    def _go_on(self, now: datetime) -> Command | Result:
        """What the new state is for: a question, or at once what came of it."""
        run = self.snapshot.run
        match self._state:
            case StopState.DECIDING:
                return self._decide(now)
            case StopState.CHECKING:
                self._evidence = possible_evidence(self.snapshot.topology)
                return self._check()
            case StopState.PATCHING:
                self._writes, self._sent_at = self._writes + 1, now
                return Patch(run, finalizing_patch(run, now))
            case StopState.READING | StopState.CONFIRMING:
                first_seen = parse_instant(run.canceled_at) if run.canceled_at else None
                return GetRun(run, first_seen, story=self._state is StopState.READING)
            case StopState.LISTING:
                return List(run, step_runs=True, bindings=True, as_of_now=True)
            case StopState.DELETING:
                return Delete(run, self._to_delete)
            case StopState.PASSING_ON:
                return self._pass_on()
            case StopState.RECORDING:
                return self._to_record()
            case StopState.DONE if self.trail[-1].verdict is Verdict.FAILED:
                return DeadLetter(self.trail[-1].why)
            case StopState.DONE:
                again = self.written_at is not None and self._propagate_cancel
                return SecondLook() if again else Ack()
            case StopState.GIVEN_BACK:
                return self._give_back()
        raise AssertionError(f"nothing leads back to {self._state}")

    def _decide(self, now: datetime) -> Result:
        decision = decide(self._event.event_type, self._cancellation, self.snapshot)
        self.trail.append(Decided(format_instant(now), *decision, reread=self._reread))
        leftovers = decision.verdict is Verdict.ALREADY_TERMINAL and leaves_leftovers(self._cancellation, self.snapshot)
        if decision.verdict is not Verdict.FINALIZE and not leftovers:
            return Result.LEAVE
        if leftovers and self._reread is None:
            return self._came(Result.UNREAD)
        by_deadline = self._event.event_type is EventType.DEADLINE_REACHED and not leftovers
        if by_deadline and not self._is_due(now):
            return self._came(Result.NOT_DUE)
        if self._dry_run:
            return self._came(Result.DRY_RUN)
        if leftovers:
            known = self.snapshot.step_runs is not None
            return Result.CLEAN_UP if known else Result.CLEAN_UP_STEP_RUNS_UNKNOWN
        return Result.FINALIZE_AT_DEADLINE if by_deadline else Result.FINALIZE

    def _is_due(self, now: datetime) -> bool:
        """Whether our own clock agrees that the deadline has come, and is one to go by (ADR 13)."""
        if self._delivered is not None and self._delivered.clock_trouble is not None:
            self.failure = f"no run is ended by its deadline here: {self._delivered.clock_trouble}"
            return False
        deadline = self.snapshot.deadline
        if deadline is not None and deadline - now > _EARLY:
            self._not_due_for = deadline - now
        return self._not_due_for is None

    def _give_back(self) -> GiveBack:
        if self.failure is not None:
            return GiveBack(self.failure, self._back_off)
        if self._not_due_for is not None:
            why = f"{self._event.event_type} was published, but by this machine's clock it has not come"
            return GiveBack(why, min(self._not_due_for, _LONGEST_WAIT), not_yet=True)
        return GiveBack(
            f"{self._event.event_type} was published, but the topology is up again", self._back_off, not_yet=True
        )

    def _check(self) -> Command | Result:
        """Look at what is left of the evidence, one after the other."""
        run = self.snapshot.run
        while self._evidence:
            match self._evidence.pop(0):
                case "bindings-gone":
                    return List(run, bindings=True)
                case "step-runs-done":
                    return List(run, step_runs=True)
                case "signal":
                    return LastSignals(run)
                case "heartbeats-stale":
                    return Result.STILL_GONE
                case "hub-condition" if still_reported_by_the_hub(run):
                    return Result.STILL_GONE
        return Result.UP_AGAIN

    def _read(self, read: RunRead) -> Result:
        """Of a Story that is not there, or cannot be read, what is known of it stands."""
        run = read.run
        self.snapshot = replace(self.snapshot, run=run, story=read.story or self.snapshot.story)
        self._reread = replace(self.snapshot, step_runs=None)
        # Of several writes it was the one whose time is there.
        if read.own and self._unanswered and run.finished_at == format_status_time(self._unanswered):
            self.written_at = self._unanswered
            return self._came(Result.ANSWER_LOST)
        return Result.READ

    def _pass_on(self) -> Command | Result:
        """Only while this run's stop is Exeunt's business, as the run itself says."""
        last = self.trail[-1]
        own = last.verdict is Verdict.FINALIZE or last.rule in ("topology-up", "ended-by-exeunt")
        if not (self._propagate_cancel and own):
            return Result.NOT_PASSED_ON
        if self.written_at is None and self._reread is None:
            return self._came(Result.UNREAD)
        return CancelChildren(self.snapshot.run)

    def _to_record(self) -> Record | Result:
        if self.next_at is not None and not _is_recorded(self._deliveries):
            return Result.NOT_FOR_GOOD
        if self._is_self_evident():
            self.recorded = True
            return Result.SELF_EVIDENT
        return Record(self.outcome(), self._outcome_at or 0)

    def _record(self, heard: Stored | AlreadyStored | NotStored) -> Result:
        """What a stop was answered with stands, unless it came to nothing (an earlier publication of the event, ADR 16,
        a dry run, a write that was forbidden, or somebody who knew less without the bus, ADR 25) and this one has ended
        the run, or was refused once more.
        """
        self.recorded = isinstance(heard, Stored)
        anew = self.written_at is not None or self.trail[-1].verdict is Verdict.FAILED
        if isinstance(heard, AlreadyStored) and anew and self._outcome_at is None:
            self._outcome_at = heard.sequence
            return Result.IN_VAIN
        if self.next_at is None:
            return Result.RECORDED if self.failure is None else Result.RECORDED_UNDONE
        self.recorded = self.recorded and self._outcome_at is None  # that it is forbidden still is no news
        return Result.NOT_FOR_GOOD

    def _is_self_evident(self) -> bool:
        """Whether all that came of it is that the topology is up, as its event says."""
        (*others, last) = self.trail
        waits = last.rule == TOPOLOGY_UP.rule and last.reread is None
        return waits and not others and self._event.event_type is EventType.CANCEL_REQUESTED

    def _fail(self, why: str) -> Result:
        self.failure = why
        written = self.written_at is not None and self._state is not StopState.RECORDING
        return Result.FAILED_WRITTEN if written else Result.FAILED

    def _came(self, result: Result) -> Result:
        """Note what came of the last decision."""
        self.trail[-1] = replace(self.trail[-1], result=str(result))
        return result

    def _refuse(self, result: Result, why: str, now: datetime) -> Result:
        self._came(result)
        return self._note(result, Verdict.FAILED, "refused", f"the write was refused: {why}"[:_LONGEST_WHY], now)

    def _note(self, result: Result, verdict: Verdict, rule: str, why: str, now: datetime) -> Result:
        """Note what the kube-apiserver has decided."""
        self.trail.append(Decided(format_instant(now), verdict, rule, why))
        return result

    @property
    def _deliveries(self) -> int:
        return self._delivered.deliveries if self._delivered else 1

    @property
    def _back_off(self) -> timedelta:
        return self._asked or (self._delivered.back_off if self._delivered else timedelta())

    def outcome(self) -> Outcome:
        """What to record, as far as it has come."""
        canceled_at = self.snapshot.run.canceled_at
        latency = None
        if self.written_at is not None and canceled_at is not None:
            latency = round((self.written_at - parse_instant(canceled_at)) / timedelta(milliseconds=1), 3)
        return Outcome(
            cause_sequence=self._delivered.sequence if self._delivered else 0,
            trail=tuple(self.trail),
            finished_at=format_status_time(self.written_at) if self.written_at else None,
            stop_latency_ms=latency,
            deleted_step_runs=tuple(self._deleted[:MOST_NAMES]),
            more_deleted_step_runs=max(0, len(self._deleted) - MOST_NAMES),
            canceled_children=self._canceled_children[:MOST_NAMES],
            more_canceled_children=max(0, len(self._canceled_children) - MOST_NAMES),
            attempt=self._deliveries,
            next_at=self.next_at,
        )


def _is_recorded(attempt: int) -> bool:
    """The first, second, fourth, eighth try and so on: a right that is missing for days must not fill the history."""
    return attempt & (attempt - 1) == 0
