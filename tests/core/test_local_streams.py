"""What others cannot store, and what whoever stands in has said of the same already."""

from datetime import timedelta

from core.objects import CANCEL_OBSERVED_AT, FENCE_WAIT, NOW, run_state, snapshot, story, story_run
from exeunt.events.codec import event_message
from exeunt.events.event_types import EventType
from exeunt.kube.changes import Changed, Page
from exeunt.kube.resources import STEP_RUNS, STORIES, STORY_RUNS, TRANSPORT_BINDINGS
from exeunt.run.models import KubeObject
from exeunt.run.snapshot import Evidence, Topology
from exeunt_terminator.local_streams import LocalEvent, LocalStreams
from exeunt_terminator.remembered import Remembered
from exeunt_watcher.commands import AllSignalsHeard, Recall, Recalled, Seen
from exeunt_watcher.machine import Watching

CANCELED = story_run(cancel_observed_at=CANCEL_OBSERVED_AT)
GONE = Topology(established=True, gone=Evidence("bindings-gone", 2, "none is left"))


def standing_in() -> LocalStreams:
    """Since after the topology of a run was gone, of which nothing can be read."""
    machine = Watching(
        (None,),
        default_timeout=timedelta(seconds=20),
        fence_wait=FENCE_WAIT,
        heartbeats_stale_after=None,
        sweep_interval=timedelta(seconds=30),
        second_look=timedelta(seconds=3),
    )
    streams = LocalStreams(machine, Remembered())
    streams.receive(AllSignalsHeard(), NOW)
    nothing: list[KubeObject] = []
    for resource, items in (
        (STORIES, [story()]), (TRANSPORT_BINDINGS, nothing), (STEP_RUNS, nothing), (STORY_RUNS, [story_run()]),
    ):  # fmt: skip
        for asked in streams.receive(Seen(resource, None, Page(items)), NOW):
            if isinstance(asked, Recall):
                streams.receive(Recalled(asked, None), NOW)
    return streams


def test_what_a_watcher_knows_of_a_cancel_that_was_seen_here_first_is_acted_on_too() -> None:
    streams = standing_in()
    word = event_message(
        EventType.CANCEL_REQUESTED, snapshot(run_state(CANCELED), topology=GONE), source="/watcher", now=NOW, context={}
    )
    (own,) = streams.receive(Seen(STORY_RUNS, None, Changed(CANCELED)), NOW)
    assert isinstance(own, LocalEvent)
    assert (own.event.event_type, own.event.snapshot.topology.gone) == (EventType.CANCEL_REQUESTED, None)
    taken = streams.take(word, NOW)
    assert taken is not None
    assert (taken.event.event_type, taken.event.snapshot.topology) == (EventType.TOPOLOGY_TERMINATED, GONE)
    assert streams.take(word, NOW) is None


def test_what_is_turned_away_waits_longer_each_time_as_what_comes_from_the_stream() -> None:
    (event,) = standing_in().receive(Seen(STORY_RUNS, None, Changed(CANCELED)), NOW)
    assert isinstance(event, LocalEvent)
    assert [event.turn_away() for _ in range(3)] == [1, 2, 3]
    assert event.deliver(0, None).deliveries == 4
