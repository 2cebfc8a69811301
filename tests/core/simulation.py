"""All that stops a run, without I/O and in any order: two watchers that see each kind of object at their own pace and
restart, a timeout-scheduler, and terminators, which are the real machine, get bad answers and crash between any two.

What may happen next is an action; one that is not possible now does nothing. `cluster` knows what must never happen.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Final

from msgspec.structs import replace

from core.cluster import CALL, KINDS, STEPS, TIMEOUT, Cluster, Fault
from core.objects import story
from core.watching import Stream, Watcher
from exeunt import bobrapet
from exeunt.codec import fact_message, read_fact
from exeunt.events import STOPPING_FACTS, Fact, Verdict
from exeunt.kube.changes import Changed, Relisted
from exeunt.kube.resources import STORIES, TRANSPORT_BINDINGS
from exeunt.snapshot import Snapshot
from exeunt.subjects import outcome_subject
from exeunt_terminator import commands
from exeunt_terminator.commands import (
    Ack,
    AlreadyStored,
    DeadLetter,
    Delivered,
    End,
    Failed,
    NotStored,
    Patch,
    Record,
    SecondLook,
    Stored,
)
from exeunt_terminator.machine import Stopping
from exeunt_timeout_scheduler.deadlines import closed
from exeunt_watcher.commands import Input, Seen

_MOST_LIVES: Final = 3
_FAULTS: Final = tuple(Fault)


class Mesh:
    """All services, one effect at a time. `pending`: messages of RUNS that no terminator has acknowledged yet."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.stream = Stream()
        self.watchers = [self.new_watcher() for _ in range(2)]
        self.stops: list[Iterator[None]] = []
        self.deliveries: dict[str, int] = {}
        self.acknowledged: set[str] = set()
        self.outcomes: dict[str, int] = {}
        """The sequence of the last outcome on each subject."""
        self.fault: Fault | None = None
        """How the next request goes wrong."""
        self.given_up = False
        """Whether a stop of this life was dead-lettered, or opted out for a while: only the sweep comes back to it, and
        only bobrapet to StepRuns that come late.
        """

    def new_watcher(self) -> "LaggingWatcher":
        return LaggingWatcher(self.cluster, self.stream)

    @property
    def facts(self) -> list[str]:
        return [subject for subject in self.stream.messages if subject.endswith(STOPPING_FACTS)]

    @property
    def pending(self) -> list[str]:
        return [subject for subject in self.facts if subject not in self.acknowledged]

    # The terminator: the machine, with the world's answers; each `yield` is a moment for something else.

    def stop(self, subject: str) -> Iterator[None]:
        message = self.stream.messages[subject]
        event = read_fact(message.headers, message.payload)
        self.deliveries[subject] = self.deliveries.get(subject, 0) + 1
        stopping = Stopping(event, dry_run=False, propagate_cancel=False)
        heard: commands.Input = Delivered(1 + self.facts.index(subject), self.deliveries[subject], self.cluster.now)
        while not isinstance(command := stopping.receive(heard, self.cluster.now), End):
            if not isinstance(command, Patch):  # what comes between the look and the write is a request's time late
                yield
            fault, self.fault = self.fault, None
            if isinstance(command, Record):
                heard = self.record(command, outcome_subject(event.snapshot.run.episode, event.fact), fault)
            else:
                heard = self.cluster.answer(command, fault)
        # A second look is lost where another delivery of the same fact has been acknowledged meanwhile.
        lost = isinstance(command, SecondLook) and subject in self.acknowledged
        self.given_up |= lost or isinstance(command, DeadLetter)
        if isinstance(command, Ack | DeadLetter):
            self.acknowledged.add(subject)

    def record(self, command: Record, subject: str, fault: Fault | None) -> commands.Input:
        if command.outcome.verdict is Verdict.FINALIZE:
            written = command.outcome.finished_at
            assert written in self.cluster.ended_by_us, "what is recorded as written was written"
        if fault in (Fault.UNAVAILABLE, Fault.CONFLICT):
            return Failed(fault)
        if fault is Fault.REFUSED:
            return NotStored()
        last = self.outcomes.get(subject, 0)
        if last != command.after:
            return AlreadyStored(last)
        self.outcomes[subject] = last + len(self.stream.messages) + 1  # later than the fact
        return Failed(fault) if fault is Fault.GIVEN_UP else Stored()

    # The timeout-scheduler: arms what it hears of, fires when the deadline comes, checks, says; and says again.

    def fire(self) -> Iterator[None]:
        for subject in list(self.stream.messages):
            if not subject.endswith(Fact.CANCEL_REQUESTED) or self.cluster.document is None:
                continue
            message = self.stream.messages[subject]
            armed = read_fact(message.headers, message.payload).snapshot
            if armed.deadline is None:
                continue  # what was opted out at the cancel, and is no more, is armed by the sweep
            self.cluster.now = max(self.cluster.now, armed.deadline)
            reread = replace(armed, run=self.cluster.state())
            if closed(reread, armed) is None:
                yield
                self.reached(reread)

    def reached(self, snapshot: Snapshot) -> None:
        message = fact_message(Fact.DEADLINE_REACHED, snapshot, source="/s", now=self.cluster.now, context={})
        if not self.stream.publish(message) and message.subject in self.acknowledged:
            self.stream.messages[message.subject] = message  # overdue again (ADR 16)
            self.acknowledged.discard(message.subject)
            self.deliveries.pop(message.subject)

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
                subject in self.deliveries
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

    def deadline(self, number: int) -> None:
        if number == 0:
            self.stops.append(self.fire())

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

    def settle(self) -> None:
        """Faults cease, and everything that is under way comes to its end."""
        self.fault = None
        while self.stops:
            self.step(0)
        for watcher in self.watchers:
            for kind in KINDS:
                watcher.see_all(kind)
            watcher.sweep()
        run = self.cluster.state() if self.cluster.running and not self.cluster.redriving else None
        if run is not None and any((run.uid, run.life) in watcher.bound for watcher in self.watchers):
            established = self.stream.said(run.life_episode, Fact.TOPOLOGY_ESTABLISHED)
            assert established, "what was seen of a topology is known"
        for _ in range(5):
            for subject in self.pending:
                for _ in self.stop(subject):
                    pass
        cluster = self.cluster
        waits = cluster.running and cluster.canceled and not (cluster.topology_gone and self.topology_is_known)
        assert waits or not self.pending, "a message is never acknowledged"

    @property
    def topology_is_known(self) -> bool:
        """A binding that no watcher saw while it was there is not known to have been; nor is one that came after the
        fact was said, on a word that was taken back: a fact is said once.
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
        cluster.now += TIMEOUT
        self.stops.append(self.fire())
        self.settle()
        self.settle()
        if cluster.state().enabled:
            assert cluster.ends.get(cluster.life) == 1, "every stop ends"
            assert cluster.there["status"]["phase"] == bobrapet.FINISHED
            assert self.given_up or cluster.steps == {}, "nothing is left"


class LaggingWatcher:
    """A watcher whose lists and watches arrive one by one, each kind at its own pace.

    `bound`: uid and life of the runs of which it saw a binding, as far as it could know the life then.
    """

    def __init__(self, cluster: Cluster, stream: Stream) -> None:
        self.bound: set[tuple[str, str]] = set()
        self._cluster = cluster
        self._watcher = Watcher(stream)
        self._read: dict[str, int] = {}
        self._hear(Seen(STORIES, None, Relisted([story()])))

    def see(self, kind: str) -> bool:
        """List a kind, or take in its next event; whether there was one."""
        events = self._cluster.history[kind]
        if kind not in self._read:
            self._read[kind] = len(events)
            for heard in self._cluster.listed(kind):
                self._hear(heard)
            return True
        if self._read[kind] == len(events):
            return False
        self._read[kind] += 1
        self._hear(events[self._read[kind] - 1])
        return True

    def _hear(self, heard: Input) -> None:
        run = self._watcher.machine.peek(CALL, self._cluster.now)
        self._watcher.hear(heard, self._cluster.now)
        match heard:
            case Seen(resource, _, Changed(item)) if resource == TRANSPORT_BINDINGS:
                bindings = [item]
            case Seen(resource, _, Relisted(items)) if resource == TRANSPORT_BINDINGS:
                bindings = items
            case _:
                bindings = []
        for binding in bindings:
            uid = binding.spec.story_run_ref.uid
            known = run is not None and run.run.uid == uid
            self.bound.add((uid, run.run.life if run and known else bobrapet.FIRST_LIFE))

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
    Mesh.deadline,
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
