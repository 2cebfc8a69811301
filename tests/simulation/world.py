"""Everything together: servers, bobrapet, people, and two or more processes of each service, which run until what was
planned is over, nothing fails any more, and everything has come to its end.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, NamedTuple

from msgspec import Struct

from exeunt_terminator import commands
from simulation.apiserver import ApiServer, is_terminal
from simulation.bridge import Bridge
from simulation.clockwork import Clockwork
from simulation.faults import Fault, Trouble, Troubles
from simulation.invariants import Invariants
from simulation.jetstream import JetStream
from simulation.livekit import LiveKit, Room
from simulation.operator import Operator
from simulation.people import People
from simulation.processes import Process
from simulation.scheduler import Scheduler
from simulation.terminator import Terminator
from simulation.watcher import Watcher

CALM: Final = 45.0
"""Seconds after which nothing fails any more, and nobody does anything any more."""
_STEP: Final = 7.5
_LEAK_AFTER: Final = 75.0
"""Seconds of calm without an unfinished stop: longer than the longest back-off and the next sweep."""


class Action(NamedTuple):
    """What somebody does, or what fails, `at` that second. `whom` is a run or a process."""

    at: float
    what: str
    whom: str = ""
    number: int = 0
    lasting: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.lasting:.1f} s" if self.lasting else ""
        return f"{self.at:7.3f}  {self.what} {self.whom} {self.number}{lasting}"


class World(Clockwork):
    def __init__(self, seed: int | str, *, instances: int = 2, propagates: bool = False, traced: bool = False) -> None:
        super().__init__(seed, traced=traced)
        self.troubles = Troubles(self)
        self.api = ApiServer(self, self.troubles)
        self.nats = JetStream(self, self.troubles)
        self.livekit = LiveKit(self)
        self.operator = Operator(self, self.api)
        self.people = People(self, self.api, self.nats, self.operator, self.livekit)
        self.invariants = Invariants(self, self.api, self.nats, self.operator, self.livekit)
        each = range(1, instances + 1)
        api, nats, troubles = self.api, self.nats, self.troubles
        self.watchers = [Watcher(self, troubles, f"watcher-{i}", api, nats) for i in each]
        self.terminators = [
            Terminator(self, troubles, f"terminator-{i}", api, nats, propagates=propagates) for i in each
        ]
        self.schedulers = [Scheduler(self, troubles, f"scheduler-{i}", api, nats) for i in each]
        self.bridges = [Bridge(self, troubles, f"bridge-{i}", self.livekit, nats) for i in each]
        every: Iterable[Process] = (*self.watchers, *self.terminators, *self.schedulers, *self.bridges)
        self.processes = {process.name: process for process in every}
        for process in self.processes.values():
            self.after(self.little(0, 0.5), process.start)
        for bridge in self.bridges:
            bridge.on_signal.append(self.invariants.said)
        for watcher in self.watchers:
            watcher.on_publish.append(self.invariants.published)
        self.livekit.on_event.append(self._webhook)
        self.traps: list[Action] = []
        for terminator in self.terminators:
            terminator.on_command(self._trap)

    def _webhook(self, event: str, room: Room) -> None:
        """It goes to one of the bridges; one that is down loses it, with those that LiveKit repeats."""
        bridge = self.chance.choice(self.bridges)
        if bridge.alive:
            bridge.webhook(event, room)

    def _trap(self, command: object, name: str) -> float:
        """Something happens to the run just when a terminator asks for this, and the request takes long."""
        for trap in self.traps:
            asked, deed = TRAPS[trap.number % len(TRAPS)]
            if isinstance(command, asked) and self._is_possible(deed, name):
                self.traps.remove(trap)
                self.happened["trap"] += 1
                self.act(Action(self.now, deed, name, trap.number))
                return trap.lasting
        return 0.0

    def _is_possible(self, deed: str, name: str) -> bool:
        document = self.api.documents.get(name)
        after_the_end = deed in ("redrive", "make anew")
        return document is not None and (deed == "requests fail" or is_terminal(document) is after_the_end)

    def act(self, action: Action) -> None:
        self.happened[f"action: {action.what}"] += 1
        self.note("*", f"{action.what} {action.whom} {action.number or ''} {action.lasting or ''}")
        ACTIONS[action.what](self, action)

    def clock_offset(self, whom: str, offset: float) -> None:
        """Set the clock of a process, or of NATS or the operator, so much ahead."""
        clocked: Process | Operator | JetStream = self.processes.get(whom, self.operator)
        if whom == "nats":
            clocked = self.nats
        clocked.offset = offset
        self.invariants.most_ahead = max(self.invariants.most_ahead, offset)

    def live(self, plan: Iterable[Action]) -> None:
        """What is planned, and then to its end."""
        for action in plan:
            self.after(action.at, partial(self.act, action))
        self.run(CALM)
        self._calm_down()
        done_since = self.now
        while True:
            self.run(self.now + _STEP)
            set_aside = set[str]().union(*(terminator.set_aside for terminator in self.terminators))
            held_back = set[str]().union(*(scheduler.deadlines.held_back for scheduler in self.schedulers))
            self.invariants.check_stops(CALM, set_aside, held_back)
            if self.invariants.stops():
                done_since = self.now
                continue
            if self.nats.dead:  # nobody has waited for it
                self.nats.revive()
                done_since = self.now
                continue
            leak = self.invariants.leaks(self.watchers, self.terminators)
            if leak is None:
                return
            assert self.now - done_since < _LEAK_AFTER, leak

    def _calm_down(self) -> None:
        self.note("*", "nothing fails any more")
        self.troubles.cease()
        for process in self.processes.values():
            process.start()
        for document in list(self.api.documents):
            self.people.settle(document)


def _run(do: Callable[[People, Action], None]) -> Callable[[World, Action], None]:
    return lambda world, action: do(world.people, action)


def _trouble(fault: Fault) -> Callable[[World, Action], None]:
    def begin(world: World, action: Action) -> None:
        likelihood = (0.2, 0.5, 1.0)[action.number % 3]
        world.troubles.begin(Trouble(fault, likelihood, action.whom or None), action.lasting)

    return begin


def _break_watches(world: World, _: Action) -> None:
    """The kube-apiserver starts anew."""
    whose = [watcher.watches for watcher in world.watchers if watcher.watches]
    whose += [terminator.stand_in.watches for terminator in world.terminators if terminator.stand_in]
    for watches in whose:
        watches.break_off()


def _restore_etcd(world: World, action: Action) -> None:
    world.api.restore(min(action.lasting, world.now))
    _break_watches(world, action)


def _operator_down(world: World, action: Action) -> None:
    world.operator.down_until = max(world.operator.down_until, world.now + action.lasting)


_STORIES: Final[tuple[str, ...]] = (
    "talk",
    "talk",
    "patient",
    "patient",
    "quick",
    "patient",
    "talk",
    "batch",
    "left",
    "talk",
)


def _fail(*faults: Fault) -> Callable[[World, Action], None]:
    def begin(world: World, _: Action) -> None:
        for fault in faults:
            world.troubles.begin(Trouble(fault, 1.0, None), 2.0)

    return begin


PEOPLE: Final[dict[str, Callable[[World, Action], None]]] = {
    "cancel": _run(lambda people, action: people.cancel(action.whom)),
    "opt out": _run(lambda people, action: people.opt(action.whom, "false")),
    "opt in": _run(lambda people, action: people.opt(action.whom, ("true", None)[action.number % 2])),
    "delete": _run(lambda people, action: people.delete(action.whom)),
    "create": _run(lambda people, action: people.create(action.whom, _STORIES[action.number % len(_STORIES)])),
    "recreate": _run(
        lambda people, action: people.create(
            action.whom, _STORIES[action.number % len(_STORIES)], recreated=action.number % 2 == 0
        )
    ),
    "make anew": _run(lambda people, action: people.make_anew(action.whom, action.number)),
    "redrive": _run(lambda people, action: people.redrive(action.whom, uncancel=action.number % 2 == 0)),
    "delete bindings": _run(lambda people, action: people.delete_bindings(action.whom, action.number)),
    "stop engrams": _run(lambda people, action: people.stop_engrams(action.whom)),
    "complete": _run(lambda people, action: people.complete(action.whom, action.number)),
    "late StepRun": _run(lambda people, action: people.late_step_run(action.whom, action.number)),
    "hub says gone": _run(lambda people, action: people.hub_says_gone(action.whom)),
    "stale conditions": _run(lambda people, action: people.stale_conditions(action.whom, action.number)),
    "signal gone": _run(lambda people, action: people.signal(action.whom, gone=True, of_uid=action.number % 2 == 0)),
    "signal up": _run(lambda people, action: people.signal(action.whom, gone=False, of_uid=action.number % 2 == 0)),
    "edit Story": _run(lambda people, action: people.edit_story(action.whom, action.number)),
    "opt Story out": _run(lambda people, action: people.opt_story(action.whom, "false")),
    "opt Story in": _run(lambda people, action: people.opt_story(action.whom, ("true", None)[action.number % 2])),
    "delete Story": _run(lambda people, action: people.delete_story(action.whom)),
    "restore Story": _run(lambda people, action: people.restore_story(action.whom)),
    "end and redrive": _run(lambda people, action: people.end_and_redrive(action.whom)),
    "create sub-story": _run(lambda people, action: people.create_child(action.whom, action.number)),
    "signal up, and gone later": _run(lambda people, action: people.flap(action.whom)),
    "come back, and signal gone later": _run(lambda people, action: people.come_back(action.whom)),
    "leave room": lambda world, action: world.livekit.leave(action.whom),
    "join room": lambda world, action: world.livekit.join(action.whom),
    "close room": lambda world, action: world.livekit.close(action.whom),
    "poison": _run(lambda people, action: people.poison(action.whom, action.number)),
}

TRAPS: Final[tuple[tuple[type[Struct], str], ...]] = (
    (commands.Patch, "opt out"),
    (commands.List, "end and redrive"),
    (commands.List, "redrive"),
    (commands.Patch, "end and redrive"),
    (commands.Delete, "redrive"),
    (commands.LastSignals, "signal up, and gone later"),
    (commands.List, "redrive"),
    (commands.List, "requests fail"),
    (commands.List, "come back, and signal gone later"),
    (commands.Patch, "writes are refused"),
    (commands.LastSignals, "requests fail"),
    (commands.Patch, "delete"),
    (commands.Delete, "requests fail"),
    (commands.GetRun, "requests fail"),
    (commands.CancelChildren, "requests fail"),
    (commands.List, "requests fail"),
    (commands.GetRun, "opt Story out"),
    (commands.List, "make anew"),
)
"""When a terminator asks for the first, the second happens, and the request takes long. Even ones uncancel."""


DISASTERS: Final[dict[str, Callable[[World, Action], None]]] = {
    "crash": lambda world, action: world.processes[action.whom].crash(action.lasting),
    "freeze": lambda world, action: world.processes[action.whom].freeze(action.lasting),
    "set clock": lambda world, action: world.clock_offset(action.whom, (action.number % 9 - 4) * 0.7),
    "restart kube-apiserver": _break_watches,
    "restore etcd": _restore_etcd,
    "wipe NATS": lambda world, _: world.nats.wipe(),
    "NATS dies": lambda world, _: world.nats.die(),
    "stop NATS": lambda world, action: world.nats.stop(action.lasting),
    "lose consumer": lambda world, action: world.nats.lose_consumer(action.number),
    "operator down": _operator_down,
    "requests fail": _fail(Fault.UNAVAILABLE, Fault.READ_FAILED),
    "writes are refused": _fail(Fault.REFUSED),
    "trap": lambda world, action: world.traps.append(action),
}
ACTIONS: Final = PEOPLE | DISASTERS | {f"fault: {fault}": _trouble(fault) for fault in Fault}
