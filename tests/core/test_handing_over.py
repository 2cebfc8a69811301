import msgspec
from msgspec.structs import replace

from core.objects import NOW, run_state, snapshot, story_run
from exeunt.events.codec import event_message, read_event
from exeunt.events.event_types import Decided, EventType, Outcome, Verdict
from exeunt.events.messages import Message
from exeunt_terminator.handing_over import HandedOver, HandingOver
from exeunt_terminator.local_streams import Done

EVENT = event_message(
    EventType.TOPOLOGY_TERMINATED, snapshot(run_state(story_run())), source="/test", now=NOW, context={}
)


def handing_over(verdict: Verdict | None) -> tuple[HandingOver, Message]:
    """What ended a run with that verdict, and the message of its outcome, the event being stored at 7."""
    outcome = None
    if verdict is not None:
        finished_at = "2026-11-24T18:13:33Z" if verdict is Verdict.FINALIZE else None
        outcome = Outcome(cause_sequence=0, trail=(Decided("", verdict, "rule", ""),), finished_at=finished_at)
    handing = HandingOver(Done(EVENT, read_event(EVENT.headers, EVENT.payload), outcome, NOW))
    assert handing.begin() == EVENT
    asked = handing.receive(7, own=True)
    if outcome is None:
        assert asked is HandedOver.NO_NEWS
        return handing, EVENT
    assert isinstance(asked, Message)
    return handing, asked


def test_the_event_goes_first_and_its_outcome_names_it() -> None:
    handing, outcome = handing_over(Verdict.ALREADY_TERMINAL)
    recorded = msgspec.json.decode(outcome.payload, type=Outcome)
    assert (recorded.cause_sequence, outcome.expected_last_subject_sequence) == (7, 0)
    assert recorded.trail[0].reread is not None  # the event there may be another's
    assert handing.receive(8, own=True) is HandedOver.RECORDED


def test_what_was_not_done_is_left_to_whoever_takes_the_event() -> None:
    handing_over(None)


def test_what_others_have_recorded_stands_where_nothing_was_written() -> None:
    handing, _ = handing_over(Verdict.ALREADY_TERMINAL)
    assert handing.receive(5, own=False) is HandedOver.NO_NEWS


def test_what_has_ended_the_run_or_was_refused_comes_after_it() -> None:
    for verdict in (Verdict.FINALIZE, Verdict.FAILED):
        handing, outcome = handing_over(verdict)
        assert handing.receive(5, own=False) == replace(outcome, expected_last_subject_sequence=5)
        assert handing.receive(9, own=True) is HandedOver.RECORDED


def test_where_somebody_else_goes_on_storing_it_begins_again() -> None:
    handing, _ = handing_over(Verdict.FINALIZE)
    handing.receive(5, own=False)
    assert handing.receive(6, own=False) is HandedOver.OVERTAKEN
