"""The watcher's machine: what waits for what, and what it asks for in the end. No clock, no I/O."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from core.objects import (
    CANCEL_OBSERVED_AT,
    FENCE_WAIT,
    NAMESPACE,
    NOW,
    a_signal,
    binding,
    snapshot,
    step_run,
    story,
    story_run,
    topology_terminated,
)
from exeunt.clock import format_instant
from exeunt.events.event_types import EventType
from exeunt.kube.changes import Changed, Missing, Page, Removed
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS, Resource
from exeunt.run import bobrapet
from exeunt.run.models import KubeObject, StoryRun
from exeunt.run.shutdown_timeout import RUN_ANNOTATION, ShutdownTimeout
from exeunt.run.snapshot import Snapshot, StepRunRef, Topology
from exeunt_watcher.commands import (
    AllSignalsHeard,
    AlreadyStored,
    Command,
    Covered,
    GetRun,
    GetStream,
    Input,
    MessageAt,
    MessageRead,
    Publish,
    Recall,
    Recalled,
    Refused,
    Restored,
    RunRead,
    RunUndecodable,
    Seen,
    SignalHeard,
    Stored,
    StreamRead,
    Tick,
)
from exeunt_watcher.machine import Watching
from exeunt_watcher.offers import StreamState
from exeunt_watcher.signals_heard import KEPT
from exeunt_watcher.strays import MOST_AT_ONCE

CALL = (NAMESPACE, "call")
SWEEP = timedelta(seconds=30)
SECOND_LOOK = timedelta(seconds=3)
REDRIVEN = {bobrapet.REDRIVE[0][1]: "again"}
ESTABLISHED, CANCEL, TERMINATED = (
    EventType.TOPOLOGY_ESTABLISHED,
    EventType.CANCEL_REQUESTED,
    EventType.TOPOLOGY_TERMINATED,
)


STREAM = StreamState("today", 1, 9, 0)


class Watched:
    """A machine, and what it is reported, all of it at the same moment where nothing else is said."""

    def __init__(self, *namespaces: str, stale_after: timedelta | None = None) -> None:
        self.machine = Watching(
            namespaces or (None,),
            default_timeout=timedelta(seconds=20),
            fence_wait=FENCE_WAIT,
            heartbeats_stale_after=stale_after,
            sweep_interval=SWEEP,
            second_look=SECOND_LOOK,
        )

    def hear(self, heard: Input, at: datetime = NOW) -> list[Command]:
        return self.machine.receive(heard, at)

    def lists(self, resource: Resource[Any], *items: KubeObject, missing: Iterable[Missing] = ()) -> list[Command]:
        return self.hear(Seen(resource, None, Page(list(items), tuple(missing))))

    def changes(self, resource: Resource[Any], item: KubeObject) -> list[Command]:
        return self.hear(Seen(resource, None, Changed(item)))

    def removes(self, resource: Resource[Any], item: KubeObject) -> list[Command]:
        return self.hear(Seen(resource, None, Removed(item)))

    def start(self, *runs: StoryRun, bindings: Iterable[KubeObject] = ()) -> list[Command]:
        """List everything and hear every signal; what it then asks for."""
        self.hear(AllSignalsHeard(STREAM))
        self.lists(STORIES, story())
        self.lists(TRANSPORT_BINDINGS, *bindings)
        self.lists(STEP_RUNS)
        return self.lists(STORY_RUNS, *runs)

    def recall(self, asked: Iterable[Command], **remembered: Snapshot) -> list[Command]:
        """Answer what of `asked` is to be recalled, with the event of that type or none."""
        recalls = [each for each in asked if isinstance(each, Recall)]
        return [
            command
            for each in recalls
            for command in self.hear(Recalled(each, remembered.get(each.event_type.replace("-", "_"))))
        ]


@pytest.fixture
def watched() -> Watched:
    return Watched()


def published(commands: Iterable[Command]) -> list[EventType]:
    return [each.event_type for each in commands if isinstance(each, Publish)]


def recalled(commands: Iterable[Command]) -> list[EventType]:
    return [each.event_type for each in commands if isinstance(each, Recall)]


# The beginning.


def test_nothing_is_asked_for_before_every_kind_is_listed_and_every_signal_heard(watched: Watched) -> None:
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT)
    for resource, items in ((STORY_RUNS, [run]), (TRANSPORT_BINDINGS, []), (STEP_RUNS, []), (STORIES, [story()])):
        assert watched.lists(resource, *items) == []
        assert watched.hear(Tick()) == []
    assert not watched.machine.live
    covered, *asked = watched.hear(AllSignalsHeard())
    assert covered == Covered(None, 1)
    assert recalled(asked) == [CANCEL, ESTABLISHED]
    assert watched.machine.live


def test_a_run_that_was_listed_waits_for_all_that_is_remembered_of_it(watched: Watched) -> None:
    asked = watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert published(asked) == []
    assert watched.machine.recalls({None})
    assert watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT, resource_version="2")) == []
    assert watched.hear(SignalHeard(a_signal(gone=True))) == []
    assert watched.hear(Tick()) == []
    assert watched.recall(asked[:2]) == []
    assert published(watched.recall(asked[2:])) == [
        CANCEL,
        TERMINATED,
    ]  # new to us: whoever published it may not have known
    assert not watched.machine.recalls({None})


@pytest.mark.parametrize("waits_for", ["what is remembered", "signals"])
@pytest.mark.parametrize("then", ["nothing", "redriven", "made anew", "deleted"])
def test_a_run_that_ends_while_nats_is_away_is_published_as_ended(watched: Watched, waits_for: str, then: str) -> None:
    """Terminators end it meanwhile, and a watcher that has begun, or listed it, in the outage is told nothing. What
    comes of the run before it is told is another attempt, or another run.
    """
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT)
    if waits_for == "signals":
        for resource, items in ((STORIES, [story()]), (TRANSPORT_BINDINGS, []), (STEP_RUNS, []), (STORY_RUNS, [run])):
            watched.lists(resource, *items)
        asked: list[Command] = []
    else:
        asked = watched.start(run)
    told = watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished"))
    match then:
        case "redriven":  # as people do it, and then bobrapet
            told += watched.changes(
                STORY_RUNS, story_run(phase="Finished", annotations={bobrapet.REDRIVE[0][0]: "again"})
            )
            told += watched.changes(STORY_RUNS, story_run(annotations=REDRIVEN))
        case "made anew":
            told += watched.lists(STORY_RUNS, story_run(uid="another"), missing=[Missing(CALL, "uid-call")])
        case "deleted":
            told += watched.removes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished"))
    told += watched.hear(AllSignalsHeard())
    told += watched.recall([*asked, *told])
    ((ended, state),) = [(each.event_type, each.snapshot.run) for each in told if isinstance(each, Publish)]
    assert (ended, state.uid, state.phase) == (EventType.RUN_TERMINAL, "uid-call", "Finished")
    assert state.cancel_observed_at == CANCEL_OBSERVED_AT
    known = watched.machine.peek(CALL, NOW)
    assert (known is not None) == (then in ("redriven", "made anew"))
    assert not watched.machine.recalls({None})


@pytest.mark.parametrize("then", ["changed", "removed"])
def test_a_run_that_had_ended_before_it_was_listed_is_not_published_as_ended(watched: Watched, then: str) -> None:
    """Its retention ends, say, just when a watcher begins."""
    for resource, items in ((STORIES, [story()]), (TRANSPORT_BINDINGS, []), (STEP_RUNS, []), (STORY_RUNS, [])):
        watched.lists(resource, *items)
    ended = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished")
    told = watched.changes(STORY_RUNS, ended)
    told += watched.changes(STORY_RUNS, ended) if then == "changed" else watched.removes(STORY_RUNS, ended)
    told += watched.hear(AllSignalsHeard())
    assert (recalled(told), published(told)) == ([], [])


@pytest.mark.parametrize("then", ["redriven", "deleted"])
def test_a_run_that_is_read_as_ended_while_it_waits_is_published_as_ended(watched: Watched, then: str) -> None:
    asked = watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    (left_out,) = watched.lists(STORY_RUNS, missing=[Missing(CALL, "uid-call")])
    assert isinstance(left_out, GetRun)
    ended = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished")
    assert published(watched.hear(RunRead(left_out, ended))) == [EventType.RUN_TERMINAL]
    told = (
        watched.changes(STORY_RUNS, story_run(annotations=REDRIVEN))
        if then == "redriven"
        else watched.removes(STORY_RUNS, ended)
    )
    assert published([*told, *watched.recall(asked)]) == []


def test_a_run_that_was_deleted_before_anything_is_known_of_its_namespace_was_deleted_all_the_same(
    watched: Watched,
) -> None:
    for resource, items in ((STORIES, [story()]), (TRANSPORT_BINDINGS, []), (STEP_RUNS, [])):
        watched.lists(resource, *items)
    watched.lists(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    removed = watched.removes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert published(removed) == [EventType.RUN_DELETED]


def test_a_run_does_not_take_the_answer_about_an_earlier_run_of_its_name_for_its_own(watched: Watched) -> None:
    of_the_first = watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    asked = watched.lists(
        STORY_RUNS, story_run(uid="another", cancel_observed_at=CANCEL_OBSERVED_AT), missing=[Missing(CALL, "uid-call")]
    )
    assert watched.recall(of_the_first, topology_established=snapshot()) == []
    assert published(watched.recall(asked)) == [CANCEL]


def test_a_run_that_is_deleted_while_it_waits_was_deleted_all_the_same(watched: Watched) -> None:
    """Its deadline may be armed: somebody has published its cancel before."""
    asked = watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert published(watched.removes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))) == [
        EventType.RUN_DELETED
    ]
    assert watched.recall(asked, cancel_requested=snapshot()) == []


def test_a_run_that_begins_later_waits_for_nothing(watched: Watched) -> None:
    watched.start()
    assert published(watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))) == [CANCEL]


def test_a_batch_run_waits_for_nothing(watched: Watched) -> None:
    watched.hear(AllSignalsHeard())
    watched.lists(STORIES, story(pattern="batch"))
    for resource in (TRANSPORT_BINDINGS, STEP_RUNS):
        watched.lists(resource)
    assert watched.lists(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT)) == [Covered(None, 1)]


def test_what_is_remembered_is_that_its_topology_was_established(watched: Watched) -> None:
    asked = watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    commands = watched.recall(asked, topology_established=snapshot())
    assert published(commands) == [ESTABLISHED, CANCEL, TERMINATED]
    gone = [each.snapshot.topology.gone for each in commands if isinstance(each, Publish)]
    assert [each and each.kind for each in gone] == ["bindings-gone"] * 3


def test_a_stream_that_could_not_answer_at_first_may_still_tell_of_a_topology(watched: Watched) -> None:
    asked = watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert published(watched.recall(asked)) == [CANCEL]
    commands = watched.recall(asked, topology_established=snapshot())
    assert published(commands) == [ESTABLISHED, TERMINATED]
    assert watched.recall(asked, topology_established=snapshot()) == []


def test_what_a_stream_tells_late_does_not_end_a_run_whose_opted_out_story_is_gone(watched: Watched) -> None:
    watched.start()
    watched.removes(STORIES, story())
    asked = Recall(ESTABLISHED, snapshot()), Recall(CANCEL, snapshot())
    watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    opted_out = replace(snapshot(), story=replace(snapshot().story, enabled=False))
    for order in (asked, asked[::-1]):
        assert published(watched.recall(order, topology_established=snapshot(), cancel_requested=opted_out)) == []


def test_what_a_stream_tells_late_of_a_run_that_was_made_anew_counts_for_nothing(watched: Watched) -> None:
    asked = watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    watched.recall(asked)
    watched.changes(STORY_RUNS, story_run(uid="another", cancel_observed_at=CANCEL_OBSERVED_AT))
    assert watched.recall(asked, topology_established=snapshot()) == []


def test_the_shutdown_timeout_is_the_one_of_the_cancel_though_the_story_was_edited_since(watched: Watched) -> None:
    asked = watched.start(
        story_run(cancel_observed_at=CANCEL_OBSERVED_AT, annotations={bobrapet.SHUTDOWN_TIMEOUT: "1ms"})
    )
    at_the_cancel = replace(snapshot(), shutdown=ShutdownTimeout("7s", RUN_ANNOTATION))
    commands = watched.recall(asked, cancel_requested=at_the_cancel)
    assert {each.snapshot.shutdown.timeout for each in commands if isinstance(each, Publish)} == {"7s"}


def test_step_runs_that_were_seen_before_the_cancel_are_remembered_with_it(watched: Watched) -> None:
    asked = watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    commands = watched.recall(asked, cancel_requested=replace(snapshot(), topology=Topology(step_runs_seen=True)))
    gone = {each.snapshot.topology.gone for each in commands if isinstance(each, Publish)}
    assert [each.kind for each in gone if each] == ["step-runs-done"]


def test_what_is_remembered_of_an_earlier_run_of_the_name_or_an_earlier_attempt_counts_for_none(
    watched: Watched,
) -> None:
    asked = watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    watched.removes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    watched.changes(STORY_RUNS, story_run(uid="another"))
    assert watched.recall(asked, topology_established=snapshot()) == []
    assert published(watched.changes(STORY_RUNS, story_run(uid="another", cancel_observed_at=CANCEL_OBSERVED_AT))) == [
        CANCEL
    ]

    other = Watched()
    asked = other.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    other.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT, annotations=REDRIVEN))
    assert published(other.recall(asked, topology_established=snapshot())) == [CANCEL]


# A binding that comes and goes before it can be shown.


def test_a_binding_that_goes_before_the_namespace_is_covered_leaves_a_trace(watched: Watched) -> None:
    watched.hear(AllSignalsHeard())
    watched.lists(STORIES, story())
    watched.lists(TRANSPORT_BINDINGS, binding())
    watched.lists(STEP_RUNS)
    assert watched.removes(TRANSPORT_BINDINGS, binding()) == []
    asked = watched.lists(STORY_RUNS, story_run())
    assert recalled(asked) == []  # it is known already
    assert published(asked) == [ESTABLISHED, TERMINATED]


def test_a_binding_that_comes_and_goes_while_its_run_waits_leaves_a_trace(watched: Watched) -> None:
    asked = watched.start(story_run())
    assert watched.changes(TRANSPORT_BINDINGS, binding()) == []
    assert watched.removes(TRANSPORT_BINDINGS, binding()) == []
    assert published(watched.recall(asked)) == [ESTABLISHED, TERMINATED]


def test_a_binding_that_comes_and_goes_before_its_run_shows_leaves_a_trace(watched: Watched) -> None:
    watched.start()
    watched.changes(TRANSPORT_BINDINGS, binding())
    watched.removes(TRANSPORT_BINDINGS, binding())
    assert published(watched.changes(STORY_RUNS, story_run())) == [ESTABLISHED, TERMINATED]


def test_a_binding_of_an_earlier_attempt_leaves_none(watched: Watched) -> None:
    """Bobrapet redrives the run while the watcher starts: the binding was listed before that, the run after it."""
    watched.hear(AllSignalsHeard())
    watched.lists(STORIES, story())
    watched.lists(TRANSPORT_BINDINGS, binding())
    watched.lists(STEP_RUNS)
    watched.removes(TRANSPORT_BINDINGS, binding())
    asked = watched.lists(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT, annotations=REDRIVEN))
    assert published(watched.recall(asked)) == [CANCEL]


def test_of_a_run_that_does_not_show_nothing_is_kept_after_the_second_sweep(watched: Watched) -> None:
    watched.start()
    watched.changes(TRANSPORT_BINDINGS, binding())
    watched.removes(TRANSPORT_BINDINGS, binding())
    for number in range(3):
        watched.hear(Tick(), NOW + number * SWEEP)
    assert published(watched.changes(STORY_RUNS, story_run())) == []


# Lists that come later.


def test_a_run_that_a_list_left_out_is_read(watched: Watched) -> None:
    watched.recall(watched.start(story_run()))
    (asked,) = watched.lists(STORY_RUNS, missing=[Missing(CALL, "uid-call")])
    assert asked == GetRun(CALL, "uid-call")
    finished = story_run(phase="Finished")
    assert published(watched.hear(RunRead(asked, finished))) == [EventType.RUN_TERMINAL]
    assert watched.hear(RunRead(asked, finished)) == []


@pytest.mark.parametrize("other", [None, story_run(uid="another")], ids=["deleted", "made anew"])
def test_a_run_that_is_not_there_any_more_was_deleted(watched: Watched, other: StoryRun | None) -> None:
    watched.recall(watched.start(story_run()))
    (asked,) = watched.lists(STORY_RUNS, missing=[Missing(CALL, "uid-call")])
    assert isinstance(asked, GetRun)
    (deleted,) = watched.hear(RunRead(asked, other))
    assert isinstance(deleted, Publish)
    assert (deleted.event_type, deleted.snapshot.run.uid) == (EventType.RUN_DELETED, "uid-call")


def test_what_a_watch_shows_meanwhile_is_newer_than_what_was_read(watched: Watched) -> None:
    """Redriven since it was read, finished."""
    watched.recall(watched.start(story_run()))
    (asked,) = watched.lists(STORY_RUNS, missing=[Missing(CALL, "uid-call")])
    assert isinstance(asked, GetRun)
    watched.changes(STORY_RUNS, story_run(annotations=REDRIVEN))
    for answer in (RunRead(asked, story_run(phase="Finished")), RunRead(asked, None), RunUndecodable(asked)):
        assert watched.hear(answer) == []
    assert watched.machine.peek(CALL, NOW) is not None


def test_a_run_that_is_unfinished_again_is_known_when_the_watch_shows_it(watched: Watched) -> None:
    """Or it were for ever, where the watch ends before that and the run has finished once more before the next list."""
    watched.recall(watched.start(story_run()))
    (asked,) = watched.lists(STORY_RUNS, missing=[Missing(CALL, "uid-call")])
    assert isinstance(asked, GetRun)
    assert watched.hear(RunRead(asked, story_run(annotations=REDRIVEN))) == []
    assert watched.machine.peek(CALL, NOW) is None
    assert published(
        watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT, annotations=REDRIVEN))
    ) == [CANCEL]


def test_a_run_that_cannot_be_read_is_forgotten(watched: Watched) -> None:
    watched.recall(watched.start(story_run()))
    (asked,) = watched.lists(STORY_RUNS, missing=[Missing(CALL, "uid-call")])
    assert isinstance(asked, GetRun)
    assert watched.hear(RunUndecodable(asked)) == []
    assert watched.machine.peek(CALL, NOW) is None


def test_a_run_in_place_of_another_of_its_name_shows_that_that_was_deleted(watched: Watched) -> None:
    watched.recall(watched.start(story_run()))
    deleted, *asked = watched.lists(STORY_RUNS, story_run(uid="another"), missing=[Missing(CALL, "uid-call")])
    assert isinstance(deleted, Publish)
    assert (deleted.event_type, deleted.snapshot.run.uid) == (EventType.RUN_DELETED, "uid-call")
    assert recalled(asked) == [ESTABLISHED]  # it may have run for long while nothing was seen


def test_the_news_of_an_older_run_of_the_name_is_none(watched: Watched) -> None:
    watched.recall(watched.start(story_run(uid="another")))
    assert watched.removes(STORY_RUNS, story_run()) == []
    assert watched.machine.peek(CALL, NOW) is not None


def test_of_many_that_stream_at_the_start_some_are_published_at_a_time(watched: Watched) -> None:
    names = [f"call-{number}" for number in range(1200)]
    runs = [story_run(name, uid=f"uid-{name}") for name in names]
    bindings = [binding(f"{name}-listen-transport", run=name, run_uid=f"uid-{name}") for name in names]
    at_once = watched.start(*runs, bindings=bindings)[1:]
    (canceled,) = runs[-1:]
    first, cancel = watched.changes(
        STORY_RUNS, story_run(names[-1], uid=canceled.metadata.uid, cancel_observed_at=CANCEL_OBSERVED_AT)
    )
    assert isinstance(first, Publish)
    assert (first.event_type, first.snapshot.run.cancel_requested) == (ESTABLISHED, False)  # as it was before
    assert published([cancel]) == [CANCEL]
    watched.removes(STORY_RUNS, runs[-2])
    later = [watched.hear(Tick(), NOW + timedelta(seconds=second)) for second in range(4)]
    assert [len(published(each)) for each in (at_once, *later)] == [500, 500, 198, 0, 0]
    every = [each.snapshot.run.name for some in (at_once, *later) for each in some if isinstance(each, Publish)]
    assert sorted(every) == sorted(names[:-2])


# Several namespaces.


def test_each_namespace_is_covered_by_itself_and_a_run_waits_for_that_of_its_story() -> None:
    here, elsewhere = "here", "elsewhere"

    def in_namespace(namespace: str, item: Any) -> Any:
        return replace(item, metadata=replace(item.metadata, namespace=namespace))

    watched = Watched(here, elsewhere)
    watched.hear(AllSignalsHeard())
    run = in_namespace(here, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    run = replace(run, spec=replace(run.spec, story_ref=replace(run.spec.story_ref, namespace=elsewhere)))
    for kind in (STORIES, TRANSPORT_BINDINGS, STEP_RUNS):
        assert watched.hear(Seen(kind, here, Page([]))) == []
    asked = watched.hear(Seen(STORY_RUNS, here, Page([run])))
    assert asked[0] == Covered(here, 1)
    assert watched.recall(asked) == []
    others: tuple[Resource[Any], ...] = (TRANSPORT_BINDINGS, STEP_RUNS, STORY_RUNS)
    for resource in others:
        assert watched.hear(Seen(resource, elsewhere, Page([]))) == []
    covered, *commands = watched.hear(Seen(STORIES, elsewhere, Page([in_namespace(elsewhere, story())])))
    assert covered == Covered(elsewhere, 0)
    assert published(commands) == [CANCEL]


# What the stream answers.


def gone(watched: Watched) -> Publish:
    """A cancel that finds the topology gone."""
    watched.recall(watched.start(story_run(conditions=[topology_terminated()])))
    (cancel,) = watched.changes(
        STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[topology_terminated()])
    )
    assert isinstance(cancel, Publish)
    assert cancel.event_type is CANCEL
    return cancel


@pytest.mark.parametrize("knew", [True, False])
def test_whoever_published_the_cancel_first_may_not_have_known_that_the_topology_is_gone(
    watched: Watched, *, knew: bool
) -> None:
    cancel = gone(watched)
    assert watched.hear(Stored(cancel, 7)) == []
    (asked,) = watched.hear(AlreadyStored(cancel, 7))
    assert asked == MessageAt(7, cancel)
    first = cancel.snapshot if knew else replace(cancel.snapshot, topology=Topology(established=True))
    assert published(watched.hear(MessageRead(asked, first))) == ([] if knew else [TERMINATED])
    assert published(watched.hear(MessageRead(asked, None))) == [TERMINATED]


def test_whoever_published_the_cancel_of_a_topology_that_is_up_does_not_matter(watched: Watched) -> None:
    watched.recall(watched.start(story_run()))
    (cancel,) = watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert isinstance(cancel, Publish)
    assert watched.hear(AlreadyStored(cancel, 7)) == []


def swept(watched: Watched, stream: StreamState | None = STREAM, *, number: int) -> list[Command]:
    """What is offered at that sweep, when the stream is like that."""
    (asked,) = watched.hear(Tick(), NOW + number * SWEEP)
    assert isinstance(asked, GetStream)
    return watched.hear(StreamRead(asked, stream), NOW + number * SWEEP)


@pytest.fixture
def stopping(watched: Watched) -> Watched:
    """A stop has begun, and its cancel was offered at the first sweep."""
    watched.recall(watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT)))
    assert watched.hear(Tick(), NOW) == []
    (offered,) = swept(watched, number=1)
    assert isinstance(offered, Publish)
    assert offered.event_type is CANCEL
    watched.hear(AlreadyStored(offered, 7))
    return watched


def test_a_stop_that_is_stored_as_it_begins_is_not_offered_at_all(watched: Watched) -> None:
    watched.recall(watched.start(story_run()))
    (cancel,) = watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert isinstance(cancel, Publish)
    watched.hear(Stored(cancel, 10))
    watched.hear(Tick())
    later = replace(STREAM, last=20)
    assert swept(watched, later, number=1) == []
    gone = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[topology_terminated()], resource_version="2")
    (terminated,) = watched.changes(STORY_RUNS, gone)
    assert isinstance(terminated, Publish)
    watched.hear(Stored(terminated, 21))
    assert swept(watched, replace(later, last=21), number=2) == []
    assert published(swept(watched, replace(later, first=11, last=30), number=3)) == [CANCEL, TERMINATED]


def test_a_stop_whose_events_a_crash_of_the_server_took_since_the_last_sweep_is_offered(watched: Watched) -> None:
    watched.recall(watched.start(story_run()))
    (cancel,) = watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert isinstance(cancel, Publish)
    watched.hear(Stored(cancel, 12))
    watched.hear(Tick())
    assert published(swept(watched, replace(STREAM, last=10), number=1)) == [CANCEL]
    watched.hear(Stored(replace(cancel, sweep=2), 11))
    assert swept(watched, replace(STREAM, last=11), number=2) == []


def test_what_is_stored_while_the_stream_is_looked_at_need_not_be_there(watched: Watched) -> None:
    watched.recall(watched.start(story_run()))
    (cancel,) = watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert isinstance(cancel, Publish)
    watched.hear(Stored(cancel, 10))
    watched.hear(Tick())
    (asked,) = watched.hear(Tick(), NOW + SWEEP)
    gone = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[topology_terminated()], resource_version="2")
    (terminated,) = watched.changes(STORY_RUNS, gone)
    assert isinstance(terminated, Publish)
    watched.hear(Stored(terminated, 11))
    assert watched.hear(StreamRead(GetStream(), replace(STREAM, last=10)), NOW + SWEEP) == []
    assert asked == GetStream()


def test_a_stop_of_which_something_is_not_known_to_be_stored_is_offered(watched: Watched) -> None:
    watched.hear(Stored(gone(watched), 7))  # it says all, but whoever recalls "topology terminated" asks for that
    watched.hear(Tick())
    assert published(swept(watched, number=1)) == [CANCEL, TERMINATED]


def test_a_stop_that_begins_while_the_stream_is_made_anew_is_offered(watched: Watched) -> None:
    watched.recall(watched.start(story_run()))
    (cancel,) = watched.changes(STORY_RUNS, story_run(cancel_observed_at=CANCEL_OBSERVED_AT))
    assert isinstance(cancel, Publish)
    watched.hear(Tick())
    assert published(swept(watched, replace(STREAM, made="tomorrow"), number=1)) == [CANCEL]
    watched.hear(Stored(cancel, 10))  # in which of the two is not known
    assert published(swept(watched, replace(STREAM, made="tomorrow"), number=2)) == [CANCEL]


def test_sweeps_follow_each_other_at_their_interval_also_when_the_clock_is_set_back(watched: Watched) -> None:
    watched.recall(watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT)))
    for at, sweeps in ((0, False), (0.5, False), (1, True), (1.5, False), (0.5, True), (1, False), (1.5, True)):
        asked = watched.hear(Tick(), NOW + SWEEP * at)
        assert asked == ([GetStream()] if sweeps else [])
        assert [published(watched.hear(StreamRead(GetStream(), STREAM))) for _ in asked] == [[CANCEL] for _ in asked]


def test_a_stop_that_the_stream_has_is_not_offered_again(stopping: Watched) -> None:
    for number in (2, 3):
        assert swept(stopping, replace(STREAM, first=7, last=10 + number), number=number) == []


@pytest.mark.parametrize(
    "stream",
    [
        None,
        replace(STREAM, made="tomorrow"),
        replace(STREAM, first=8),
        replace(STREAM, last=8),
        replace(STREAM, deleted=1),
    ],
    ids=["there is none", "made anew", "too old for it", "restored from a backup", "somebody has deleted something"],
)
def test_a_stop_that_the_stream_may_have_lost_is_offered_again(stopping: Watched, stream: StreamState | None) -> None:
    (again,) = swept(stopping, stream, number=2)
    assert isinstance(again, Publish)
    stopping.hear(Stored(again, 10))
    later = stream and replace(stream, last=10)
    assert swept(stopping, later, number=3) == ([] if stream else [replace(again, sweep=4)])


def test_a_stop_is_offered_until_all_of_it_is_stored(watched: Watched) -> None:
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[topology_terminated()])
    watched.recall(watched.start(run))
    watched.hear(Tick())
    answers: list[tuple[Callable[[Publish], Input], Callable[[Publish], Input]]] = [
        (lambda cancel: Stored(cancel, 7), Refused),
        (lambda cancel: AlreadyStored(cancel, 0), lambda terminated: Stored(terminated, 8)),  # it is deleted
        (lambda cancel: Stored(replace(cancel, sweep=2), 7), lambda terminated: Stored(terminated, 8)),  # it comes late
        (lambda cancel: AlreadyStored(cancel, 7), lambda terminated: AlreadyStored(terminated, 8)),
    ]
    for number, of_both in enumerate(answers, start=1):
        offered = swept(watched, number=number)
        assert published(offered) == [CANCEL, TERMINATED]
        for answer, event in zip(of_both, offered, strict=True):
            assert isinstance(event, Publish)
            watched.hear(answer(event))
    assert swept(watched, number=5) == []


def test_many_stops_are_offered_some_at_a_time(watched: Watched) -> None:
    watched.recall(watched.start())
    for number in range(1200):
        watched.changes(
            STORY_RUNS, story_run(f"call-{number}", uid=f"uid-{number}", cancel_observed_at=CANCEL_OBSERVED_AT)
        )
    watched.hear(Tick())
    offered = [swept(watched, number=1)]
    while more := watched.hear(Tick(), NOW + SWEEP):
        offered.append(more)
    assert [len(each) for each in offered] == [500, 500, 200]
    assert len({each.snapshot.run.uid for some in offered for each in some if isinstance(each, Publish)}) == 1200


def test_what_begins_to_hold_of_a_stop_is_offered_with_the_rest_of_it(stopping: Watched) -> None:
    gone = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, conditions=[topology_terminated()], resource_version="2")
    assert published(stopping.changes(STORY_RUNS, gone)) == [TERMINATED]
    assert published(swept(stopping, number=2)) == [CANCEL, TERMINATED]


def test_of_stops_that_are_over_the_stream_is_not_asked(stopping: Watched) -> None:
    over = story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished", resource_version="2")
    assert published(stopping.changes(STORY_RUNS, over)) == [EventType.RUN_TERMINAL]
    assert stopping.hear(Tick(), NOW + 2 * SWEEP) == []


def test_the_stream_is_not_asked_again_while_it_does_not_answer(stopping: Watched) -> None:
    assert stopping.hear(Tick(), NOW + 2 * SWEEP) == [GetStream()]
    assert stopping.hear(Tick(), NOW + 3 * SWEEP) == []


def streaming(watched: Watched, *bindings: KubeObject) -> StoryRun:
    """A canceled run that streams still."""
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT)
    asked = watched.start(run, bindings=bindings)
    watched.changes(STEP_RUNS, step_run())
    assert published(watched.recall(asked)) == [ESTABLISHED, CANCEL]
    return run


# What time alone changes.


def test_cancel_observed_at_that_does_not_come_is_waited_for_so_long(watched: Watched) -> None:
    watched.recall(watched.start(story_run(canceled=True)))
    assert watched.hear(Tick(), NOW + FENCE_WAIT / 2) == []
    assert published(watched.hear(Tick(), NOW + FENCE_WAIT)) == [CANCEL]


def test_heartbeats_of_a_canceled_run_that_do_not_come_any_more_are_noticed() -> None:
    watched = Watched(stale_after=timedelta(seconds=90))
    beats = [binding(heartbeat=format_instant(NOW + timedelta(seconds=at))) for at in (-60, -50)]
    streaming(watched, *beats[:1])
    assert watched.hear(Tick(), NOW + timedelta(seconds=29.9)) == []
    watched.changes(TRANSPORT_BINDINGS, beats[1])
    assert published(watched.hear(Tick(), NOW + timedelta(seconds=39.9))) == []
    assert published(watched.hear(Tick(), NOW + timedelta(seconds=40))) == [TERMINATED]


def test_a_signal_that_is_too_old_counts_no_longer(watched: Watched) -> None:
    watched.recall(watched.start(story_run(cancel_observed_at=CANCEL_OBSERVED_AT)))
    watched.hear(SignalHeard(a_signal(gone=True)))
    watched.hear(Tick())
    for later, counts in ((KEPT, True), (KEPT + SWEEP, False)):
        (asked,) = watched.hear(Tick(), NOW + later)
        offered = watched.hear(StreamRead(GetStream(), None))
        assert (asked, TERMINATED in published(offered)) == (GetStream(), counts)


# A list that comes page by page.


def test_what_a_page_takes_away_waits_for_the_rest_of_the_list(watched: Watched) -> None:
    """The hub has replaced a binding while the watch was away: on one page is what goes, on another what came."""
    run = streaming(watched, binding())
    first = Page([binding(deleting=True)], complete=False)
    assert watched.hear(Seen(TRANSPORT_BINDINGS, None, first)) == []
    assert watched.changes(STORY_RUNS, replace(run, metadata=replace(run.metadata, resource_version="2"))) == []
    assert watched.hear(Seen(TRANSPORT_BINDINGS, None, Page([binding("another")]))) == []
    assert published(watched.removes(TRANSPORT_BINDINGS, binding("another"))) == [TERMINATED]


def test_what_the_whole_list_takes_away_is_gone(watched: Watched) -> None:
    streaming(watched, binding())
    assert watched.hear(Seen(TRANSPORT_BINDINGS, None, Page([binding(deleting=True)], complete=False))) == []
    assert published(watched.hear(Seen(TRANSPORT_BINDINGS, None, Page([])))) == [TERMINATED]


def test_what_was_taken_away_on_a_page_of_a_list_that_failed_may_be_there_again(watched: Watched) -> None:
    streaming(watched, binding())
    for page in (Page([binding(deleting=True)], complete=False), Page([binding()], complete=False), Page([])):
        assert watched.hear(Seen(TRANSPORT_BINDINGS, None, page)) == []


def test_nothing_is_said_of_a_namespace_before_the_last_page(watched: Watched) -> None:
    watched.hear(AllSignalsHeard())
    watched.lists(STORIES, story())
    watched.lists(TRANSPORT_BINDINGS)
    watched.lists(STEP_RUNS)
    assert watched.hear(Seen(STORY_RUNS, None, Page([story_run()], complete=False))) == []
    other = story_run("other", uid="uid-other")
    covered, *asked = watched.hear(Seen(STORY_RUNS, None, Page([other])))
    assert covered == Covered(None, 2)
    assert recalled(asked) == [ESTABLISHED, ESTABLISHED]


# The cluster as it was before.


def test_after_a_restore_it_starts_over_and_keeps_the_signals(watched: Watched) -> None:
    run = story_run(cancel_observed_at=CANCEL_OBSERVED_AT)
    asked = watched.start(run)
    watched.hear(SignalHeard(a_signal(gone=True)))
    assert watched.hear(Restored()) == []
    assert not watched.machine.live
    assert watched.recall(asked) == []  # what was asked of what never happened
    for resource in (STORIES, TRANSPORT_BINDINGS, STEP_RUNS):
        assert watched.lists(resource, *([story()] if resource is STORIES else [])) == []
    asked = watched.lists(STORY_RUNS, run)
    assert asked[0] == Covered(None, 1)
    assert published(watched.recall(asked)) == [CANCEL, TERMINATED]


def test_two_machines_in_one_process_know_nothing_of_each_other(watched: Watched) -> None:
    other = Watched()
    watched.recall(watched.start(story_run(), bindings=[binding()]))
    assert other.machine.peek(CALL, NOW) is None
    assert other.start() == [Covered(None, 0)]
    assert published(watched.removes(TRANSPORT_BINDINGS, binding())) == [TERMINATED]
    assert other.changes(STEP_RUNS, step_run()) == []


# What is left of a run that has ended.

OURS: dict[str, Any] = {
    "manager": "exeunt-terminator",
    "subresource": "status",
    "fieldsV1": {"f:status": {"f:phase": {}}},
}
LEFT = EventType.STEP_RUNS_LEFT
LATE = StepRunRef("call-late", "uid-call-late")


def ended(**changes: Any) -> StoryRun:
    return story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished", managed_fields=[OURS], **changes)


def looked_after(watched: Watched, at: timedelta = SECOND_LOOK) -> GetRun:
    """The run is read of which something is left, not earlier than that and once."""
    assert watched.hear(Tick(), NOW + at - timedelta(milliseconds=1)) == []
    (asked,) = watched.hear(Tick(), NOW + at)
    assert isinstance(asked, GetRun)
    assert watched.hear(Tick(), NOW + at) == []
    return asked


def stop(watched: Watched, *, with_step_run: bool = True) -> None:
    watched.recall(watched.start(story_run()))
    if with_step_run:
        watched.changes(STEP_RUNS, step_run())
    watched.changes(STORY_RUNS, ended())


def test_a_run_of_which_nothing_is_left_is_not_looked_after(watched: Watched) -> None:
    stop(watched)
    watched.removes(STEP_RUNS, step_run())
    assert watched.hear(Tick(), NOW + SWEEP / 2) == []


def test_a_step_run_that_is_left_when_exeunt_has_ended_its_run_is_published(watched: Watched) -> None:
    stop(watched)
    (publish,) = watched.hear(RunRead(looked_after(watched), ended()))
    assert isinstance(publish, Publish)
    assert (publish.event_type, publish.after) == (LEFT, 0)
    assert publish.snapshot.step_runs == (StepRunRef("call-listen", "uid-call-listen"),)
    assert publish.snapshot.realtime


def test_a_step_run_that_comes_late_is_published_also_by_a_watcher_that_has_not_seen_the_run(watched: Watched) -> None:
    watched.start()
    watched.changes(STEP_RUNS, step_run("call-late", owner=None))
    (publish,) = watched.hear(RunRead(looked_after(watched), ended()))
    assert isinstance(publish, Publish)
    assert publish.snapshot.step_runs == (LATE,)


def test_what_is_listed_at_the_start_of_a_run_that_is_not_is_looked_after(watched: Watched) -> None:
    watched.lists(STEP_RUNS, step_run())
    watched.hear(AllSignalsHeard())
    for resource in (STORIES, TRANSPORT_BINDINGS, STORY_RUNS):
        watched.lists(resource)
    assert looked_after(watched).key == CALL


@pytest.mark.parametrize(
    "found",
    [
        None,
        story_run(),
        story_run(cancel_observed_at=CANCEL_OBSERVED_AT, phase="Finished"),
        ended(deleting=True),
        ended(annotations={bobrapet.REDRIVE[0][0]: "again"}),
        ended(uid="another"),
    ],
    ids=["deleted", "unfinished", "ended by another", "being deleted", "being redriven", "another run"],
)
def test_what_is_left_of_any_other_run_is_not_exeunts_business(watched: Watched, found: StoryRun | None) -> None:
    stop(watched)
    assert watched.hear(RunRead(looked_after(watched), found)) == []


def test_a_run_that_is_redriven_meanwhile_keeps_its_step_runs(watched: Watched) -> None:
    """Those of its next attempt may be here before it is: what was left before it was read is what counts."""
    stop(watched)
    asked = looked_after(watched)
    watched.changes(STEP_RUNS, step_run("call-speak"))
    (publish,) = watched.hear(RunRead(asked, ended()))
    assert isinstance(publish, Publish)
    assert publish.snapshot.step_runs == (StepRunRef("call-listen", "uid-call-listen"),)
    watched.changes(STORY_RUNS, story_run())
    assert watched.hear(RunRead(asked, ended())) == []
    assert watched.hear(Tick(), NOW + 2 * SECOND_LOOK) == []


def test_what_comes_after_that_is_looked_after_anew(watched: Watched) -> None:
    stop(watched)
    watched.hear(RunRead(looked_after(watched), ended()))
    watched.hear(Seen(STEP_RUNS, None, Changed(step_run("call-late"))), NOW + SECOND_LOOK)
    assert len(looked_after(watched, 2 * SECOND_LOOK).left) == 2


def test_a_finished_step_run_that_still_has_a_binding_is_left_as_well(watched: Watched) -> None:
    owner = StepRunRef("call-listen", "uid-call-listen")
    watched.recall(watched.start(story_run(), bindings=[binding(owner=owner)]))
    watched.changes(STORY_RUNS, ended())
    assert [each.step_run for each in looked_after(watched).left] == [owner]


@pytest.mark.parametrize("names_it", [True, False])
def test_what_another_has_published_need_not_name_everything(watched: Watched, *, names_it: bool) -> None:
    stop(watched)
    (publish,) = watched.hear(RunRead(looked_after(watched), ended()))
    assert isinstance(publish, Publish)
    (asked,) = watched.hear(AlreadyStored(publish, 7))
    assert asked == MessageAt(7, publish)
    stored = publish.snapshot if names_it else replace(publish.snapshot, step_runs=(LATE,))
    commands = watched.hear(MessageRead(asked, stored))
    assert commands == ([] if names_it else [replace(publish, after=7)])
    assert watched.hear(AlreadyStored(replace(publish, after=7), 8)) == []


def test_what_is_left_may_be_listed_page_by_page(watched: Watched) -> None:
    stop(watched)
    assert watched.hear(Seen(STEP_RUNS, None, Page([step_run("call-late")], complete=False))) == []
    assert watched.lists(STEP_RUNS, missing=[Missing((NAMESPACE, "call-listen"), "uid-call-listen")]) == []
    (publish,) = watched.hear(RunRead(looked_after(watched), ended()))
    assert isinstance(publish, Publish)
    assert publish.snapshot.step_runs == (StepRunRef("call-late", "uid-call-late"),)


def test_a_run_that_is_back_is_not_forgotten_because_it_could_not_be_read(watched: Watched) -> None:
    stop(watched)
    asked = looked_after(watched)
    watched.changes(STORY_RUNS, story_run())
    assert watched.hear(RunUndecodable(asked)) == []
    assert watched.machine.peek(CALL, NOW) is not None


def test_no_more_are_looked_after_at_once_than_can_be_read(watched: Watched) -> None:
    watched.start()
    for number in range(MOST_AT_ONCE + 1):
        watched.changes(STEP_RUNS, step_run(f"step-{number}", run=f"run-{number}"))
    assert len(watched.hear(Tick(), NOW + SECOND_LOOK)) == MOST_AT_ONCE
    assert len(watched.hear(Tick(), NOW + SECOND_LOOK)) == 1
