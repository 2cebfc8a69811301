"""All that stops a run, without I/O and in any order: two watchers that see each kind of object at their own pace and
restart, timeout-schedulers and terminators, which are the real machines, get bad answers and crash between any two.

What may happen next is an action; one that is not possible now does nothing. `cluster` knows what must never happen.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

from core.cluster import KINDS, STEPS, Cluster, Fault
from core.scheduling import OVERDUE_AFTER, Scheduler
from core.watching import Stream, Watcher
from exeunt import bobrapet
from exeunt.codec import read_fact
from exeunt.events import STOPPING_FACTS, Fact, Verdict
from exeunt.subjects import outcome_subject
from exeunt_terminator.commands import (
    Ack,
    AlreadyStored,
    DeadLetter,
    Delivered,
    End,
    Failed,
    Input,
    NotStored,
    Patch,
    Record,
    SecondLook,
    Stored,
)
from exeunt_terminator.machine import Stopping
from exeunt_timeout_scheduler.deadlines import LONGEST_SILENCE

_MOST_LIVES: Final = 3
_FAULTS: Final = tuple(Fault)


class Mesh:
    """All services, one effect at a time. `pending`: messages of RUNS that no terminator has acknowledged yet."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.stream = Stream()
        self.watchers = [self.new_watcher() for _ in range(2)]
        self.stops: list[Iterator[None]] = []
        self.deliveries: dict[int, int] = {}
        self.acknowledged: dict[str, int] = {}
        self.scheduler = Scheduler(self.cluster, self.stream, self.ack_floor, self.take_fault)
        self.fault: Fault | None = None
        """How the next request goes wrong."""
        self.given_up = False
        """Whether a stop of this life was dead-lettered, or opted out for a while: only the sweep comes back to it, and
        only bobrapet to StepRuns that come late.
        """

    def new_watcher(self) -> "LaggingWatcher":
        return LaggingWatcher(self.cluster, self.stream)

    def ack_floor(self) -> int:
        """Up to which sequence the terminators have acknowledged everything."""
        return min((self.stream.sequences[subject] for subject in self.pending), default=self.stream.last + 1) - 1

    def take_fault(self) -> Fault | None:
        fault, self.fault = self.fault, None
        return fault

    @property
    def facts(self) -> list[str]:
        return [subject for subject in self.stream.messages if subject.endswith(STOPPING_FACTS)]

    @property
    def pending(self) -> list[str]:
        return [subject for subject in self.facts if self.acknowledged.get(subject) != self.stream.sequences[subject]]

    # The terminator: the machine, with the world's answers; each `yield` is a moment for something else.

    def stop(self, subject: str) -> Iterator[None]:
        message, sequence = self.stream.messages[subject], self.stream.sequences[subject]
        event = read_fact(message.headers, message.payload)
        self.deliveries[sequence] = deliveries = self.deliveries.get(sequence, 0) + 1
        stopping = Stopping(event, dry_run=False, propagate_cancel=False)
        heard: Input = Delivered(sequence, deliveries, self.cluster.now)
        while not isinstance(command := stopping.receive(heard, self.cluster.now), End):
            if not isinstance(command, Patch):  # what comes between the look and the write is a request's time late
                yield
            fault = self.take_fault()
            if isinstance(command, Record):
                heard = self.record(command, outcome_subject(event.snapshot.run.episode, event.fact), fault)
            else:
                heard = self.cluster.answer(command, fault)
        # A second look is lost where another delivery of the same fact has been acknowledged meanwhile.
        lost = isinstance(command, SecondLook) and self.acknowledged.get(subject) == sequence
        self.given_up |= lost or isinstance(command, DeadLetter)
        if isinstance(command, Ack | DeadLetter):
            self.acknowledged[subject] = sequence

    def record(self, command: Record, subject: str, fault: Fault | None) -> Input:
        if command.outcome.verdict is Verdict.FINALIZE:
            written = command.outcome.finished_at
            assert written in self.cluster.ended_by_us, "what is recorded as written was written"
        if fault in (Fault.UNAVAILABLE, Fault.CONFLICT):
            return Failed(fault)
        if fault is Fault.REFUSED:
            return NotStored()
        if not self.stream.next(subject, after=command.after):
            return AlreadyStored(self.stream.sequences[subject])
        return Failed(fault) if fault is Fault.GIVEN_UP else Stored()

    # What may happen to the run.

    def cancel(self, _: int) -> None:
        if self.cluster.running and not self.cluster.canceled:
            self.cluster.cancel()

    def stamp_fence(self, _: int) -> None:
        cluster = self.cluster
        if cluster.stopping and bobrapet.FENCE not in cluster.annotations:
            cluster.stamp_fence()

    def churn(self, number: int) -> None:
        """Somebody else writes the conditions, as bobrapet and the hub do all the time."""
        if self.cluster.running and self.cluster.conditions:
            ready, *others = self.cluster.conditions
            said = ready | {"message": f"{number} {len(self.stops)}"}
            self.cluster.change("status", conditions=[said, *others])

    def hub_says_gone(self, number: int) -> None:
        if number == 0 and self.cluster.running and not self.cluster.topology_gone:
            self.cluster.hub_says_gone()

    def hub_takes_it_back(self, number: int) -> None:
        """Somebody writes the conditions from a copy without the hub's word."""
        if number == 0 and self.cluster.running:
            self.cluster.change("status", conditions=self.cluster.conditions[:1])

    def signal(self, number: int) -> None:
        """Somebody says that the topology is gone, or takes that back."""
        if number < 2 and self.cluster.running:
            self.cluster.signal(gone=number == 0)

    def connect(self, _: int) -> None:
        """Everybody connects, or whoever has left is back."""
        if self.cluster.running:
            for name in sorted(set(STEPS) & set(self.cluster.steps) - set(self.cluster.bindings)):
                self.cluster.connect(name)

    def disconnect(self, number: int) -> None:
        if self.cluster.bindings:
            self.cluster.disconnect(list(self.cluster.bindings)[number % len(self.cluster.bindings)])

    def opt(self, number: int) -> None:
        """Somebody opts the run out, or in again."""
        if number < 3 and self.cluster.document is not None:
            said = ("false", None, "true")[number]
            self.given_up |= said == "false"
            self.cluster.annotate(bobrapet.ENABLED, said)

    def hub_starts_late(self, number: int) -> None:
        """A StepRun that no fact knows; after the end it may come until the second look."""
        awaited = self.cluster.running or (self.cluster.finished and self.second_look_ahead and not self.stops)
        if awaited and f"late-{number}" not in self.cluster.steps and not self.cluster.redriving:
            self.cluster.create_step(f"late-{number}")

    @property
    def second_look_ahead(self) -> bool:
        episode = self.cluster.state().episode
        for subject in self.pending:
            message = self.stream.messages[subject]
            if (
                self.stream.sequences[subject] in self.deliveries
                and read_fact(message.headers, message.payload).snapshot.run.episode == episode
            ):
                return True
        return False

    def bobrapet_finishes(self, number: int) -> None:
        """Its own drain window is over: StepRuns gone, status written."""
        cluster = self.cluster
        if number == 0 and cluster.stopping and bobrapet.FENCE in cluster.annotations:
            cluster.clear()
            cluster.change("status", phase=bobrapet.FINISHED, message=bobrapet.CANCELED_MESSAGE)

    def ask_redrive(self, number: int) -> None:
        cluster = self.cluster
        if number < 4 and cluster.finished and not cluster.redriving and cluster.life < _MOST_LIVES:
            cluster.ask_redrive(uncancel=number < 3)

    def redrive(self, _: int) -> None:
        if self.cluster.document is not None and self.cluster.redriving:
            self.cluster.clear()
            for watcher in self.watchers:  # known weakness: a binding seen in the next life counts as one of it
                watcher.see_all("TransportBinding")
            self.cluster.redrive()
            self.given_up = not self.cluster.state().enabled

    def delete(self, number: int) -> None:
        if number == 0 and self.cluster.document is not None and self.cluster.life < _MOST_LIVES:
            self.cluster.delete()

    def recreate(self, number: int) -> None:
        if number < 4 and self.cluster.document is None:
            self.cluster.create()
            self.given_up = False

    # What may happen to the services.

    def watch(self, number: int) -> None:
        self.watchers[number % 2].see(KINDS[number // 2 % 4])

    def sweep(self, number: int) -> None:
        self.watchers[number % 2].sweep()

    def restart(self, number: int) -> None:
        self.watchers[number % 2] = self.new_watcher()

    def deliver(self, number: int) -> None:
        """Any stopping fact, also one that was answered before."""
        if self.facts:
            self.stops.append(self.stop(self.facts[number % len(self.facts)]))

    def schedule_what_is_heard(self, number: int) -> None:
        if unheard := self.scheduler.unheard:
            self.begin(self.scheduler.hear(unheard[number % len(unheard)]), number)

    def sweep_deadlines(self, number: int) -> None:
        """At any time, and long after the deadline once that was published."""
        if self.scheduler.is_published():
            self.cluster.now += 4 * OVERDUE_AFTER
        self.begin(self.scheduler.look_after(), number)

    def deadline(self, number: int) -> None:
        if number < 4 and (pending := list(self.scheduler.pending)):
            self.begin(self.scheduler.fire(pending[number % len(pending)]), number)

    def lose(self, _: int) -> None:
        """A bug acknowledges deadline-reached, and nobody acts on it."""
        for subject in self.pending:
            if subject.endswith(Fact.DEADLINE_REACHED):
                self.acknowledged[subject] = self.stream.sequences[subject]
                self.given_up = True

    def edit_story(self, number: int) -> None:
        self.scheduler.story_edited = number < 4

    def step(self, number: int) -> None:
        if self.stops:
            stop = self.stops[number % len(self.stops)]
            if next(stop, self) is self:
                self.stops.remove(stop)

    def crash(self, number: int) -> None:
        if self.stops:
            del self.stops[number % len(self.stops)]

    def fail(self, number: int) -> None:
        self.fault = _FAULTS[number % len(_FAULTS)]

    def wait(self, number: int) -> None:
        self.cluster.now += timedelta(seconds=number)

    def act(self, action: Callable[["Mesh", int], None], number: int) -> None:
        self.cluster.now += timedelta(milliseconds=1)
        action(self, number)

    def begin(self, one: Iterator[None], number: int) -> None:
        """In between everything else, or with nothing between."""
        if number % 2:
            self.to_the_end(one)
        else:
            self.stops.append(one)

    def to_the_end(self, one: Iterator[None]) -> None:
        for _ in one:
            pass

    def settle(self) -> None:
        """Faults cease, and everything that is under way comes to its end."""
        self.fault = None
        while self.stops:
            self.step(0)
        for watcher in self.watchers:
            for kind in KINDS:
                watcher.see_all(kind)
            watcher.sweep()
        for subject in self.scheduler.unheard:
            self.to_the_end(self.scheduler.hear(subject))
        self.to_the_end(self.scheduler.look_after())
        for _ in range(5):
            for subject in self.pending:
                self.to_the_end(self.stop(subject))
        cluster = self.cluster
        waits = cluster.running and cluster.canceled and not (cluster.topology_gone and self.topology_is_known)
        assert waits or not self.pending, "a message is never acknowledged"

    @property
    def topology_is_known(self) -> bool:
        """A binding that came and went between two looks of every watcher is not known to have been there; nor is one
        that came after the fact was said, on a word that was taken back: a fact is said once.
        """
        run = self.cluster.state()
        hub = any(each["reason"] == bobrapet.TOPOLOGY_TERMINATED_REASON for each in self.cluster.conditions)
        told = bool(self.cluster.signals) and self.cluster.signals[-1].gone
        seen = self.stream.said(run.life_episode, Fact.TOPOLOGY_ESTABLISHED)
        gone = self.stream.said(run.episode, Fact.TOPOLOGY_TERMINATED)
        return hub or told or (seen is not None and (gone is None or gone.topology.established))

    def check_the_end(self) -> None:
        """When faults cease, every stop ends: as soon as the topology is gone, and at the deadline at the latest."""
        cluster = self.cluster
        if cluster.document is not None and cluster.redriving:
            self.redrive(0)
        self.stamp_fence(0)
        self.settle()
        if cluster.document is None or not cluster.canceled:
            assert not cluster.finished
            assert cluster.document is None or set(cluster.steps) >= set(STEPS)
            return
        if cluster.running and cluster.topology_gone and self.topology_is_known:
            assert self.given_up, "topology gone and canceled is enough"
        for _ in range(2):  # what was acknowledged in vain is overdue
            while pending := list(self.scheduler.pending):
                self.to_the_end(self.scheduler.fire(pending[0]))
            self.settle()
            cluster.now += LONGEST_SILENCE + OVERDUE_AFTER
            self.settle()
        if cluster.state().enabled:
            assert cluster.ends.get(cluster.life) == 1, "every stop ends"
            assert cluster.there["status"]["phase"] == bobrapet.FINISHED
            assert self.given_up or cluster.steps == {}, "nothing is left"


class LaggingWatcher:
    """A watcher whose watches arrive one by one, each kind at its own pace."""

    def __init__(self, cluster: Cluster, stream: Stream) -> None:
        self._cluster = cluster
        self._watcher = Watcher(stream)
        self._read = {kind: len(events) for kind, events in cluster.history.items()}
        cluster.tell_all(self._watcher)
        self._watcher.recall(cluster.now)

    def see(self, kind: str) -> bool:
        """Take in the next event of a kind; whether there was one."""
        events = self._cluster.history[kind]
        if self._read[kind] == len(events):
            return False
        self._read[kind] += 1
        events[self._read[kind] - 1](self._watcher, self._cluster.now)
        return True

    def see_all(self, kind: str) -> None:
        while self.see(kind):
            pass

    def sweep(self) -> None:
        self._watcher.sweep(self._cluster.now)


Action = Callable[[Mesh, int], None]

ACTIONS: Final[Sequence[Action]] = (
    *(Mesh.watch,) * 8,
    *(Mesh.step,) * 10,
    *(Mesh.deliver,) * 4,
    *(Mesh.cancel,) * 2,
    *(Mesh.stamp_fence,) * 2,
    *(Mesh.connect,) * 2,
    *(Mesh.disconnect,) * 2,
    Mesh.signal,
    Mesh.opt,
    Mesh.churn,
    Mesh.crash,
    Mesh.sweep,
    Mesh.restart,
    Mesh.wait,
    *(Mesh.deadline,) * 2,
    *(Mesh.sweep_deadlines,) * 2,
    Mesh.edit_story,
    Mesh.lose,
    *(Mesh.schedule_what_is_heard,) * 2,
    Mesh.hub_says_gone,
    Mesh.hub_takes_it_back,
    Mesh.hub_starts_late,
    Mesh.bobrapet_finishes,
    *(Mesh.fail,) * 2,
    *(Mesh.ask_redrive,) * 2,
    *(Mesh.redrive,) * 2,
    Mesh.delete,
    Mesh.recreate,
)


def simulate(actions: Sequence[tuple[Action, int]]) -> Mesh:
    """All of it, and then to its end."""
    mesh = Mesh()
    for action, number in actions:
        mesh.act(action, number)
    mesh.check_the_end()
    return mesh
