"""What others may say about a topology, and what it is worth."""

import json
from datetime import datetime, timedelta

import pytest

from core.objects import NAMESPACE, NOW, STARTED, run_state, story_run
from exeunt.clock import format_instant
from exeunt.errors import PoisonEvent
from exeunt.events.signals import TOPOLOGY_GONE, TOPOLOGY_UP, Signal, read_signal
from exeunt.events.subjects import signal_subject, trigger_token_subject
from exeunt.run import bobrapet
from exeunt.run.snapshot import RunState
from exeunt_watcher.signals_heard import KEPT, SignalsHeard

SUBJECT = f"exeunt.signals.{NAMESPACE}.call"
SID = "RM_cZbbficGvDFB"
BY_SID = f"exeunt.signals._trigger_token.{SID}"
STARTED_AT = datetime.fromisoformat(STARTED)
SECOND = timedelta(seconds=1)


def headers(**changes: str) -> dict[str, str]:
    plain = {"specversion": "1.0", "id": "1", "source": "/livekit", "type": TOPOLOGY_GONE, "time": format_instant(NOW)}
    return {f"ce-{name}": value for name, value in (plain | changes).items()}


def signal(*, kind: str = TOPOLOGY_GONE, at: datetime = NOW, **body: object) -> Signal:
    """A signal about the call by its name, unless `body` names it otherwise."""
    named = {"trigger_token": SID} if "trigger_token" in body else {"namespace": NAMESPACE, "name": "call"}
    subject = trigger_token_subject(str(body["trigger_token"])) if "trigger_token" in body else SUBJECT
    return read_signal(subject, headers(type=kind, time=format_instant(at)), json.dumps(named | body).encode())


def call(*, attempt: str = "first", started_at: str | None = STARTED, token: str | None = SID) -> RunState:
    """The call, started for the token; another attempt than the first begins with a redrive."""
    annotations = {bobrapet.TRIGGER_TOKEN: token} if token else {}
    if attempt != "first":
        annotations |= {bobrapet.REDRIVE[0][0]: attempt, bobrapet.REDRIVE[0][1]: attempt}
    return run_state(story_run(started_at=started_at, annotations=annotations))


def heard(*signals: Signal) -> SignalsHeard:
    signals_heard = SignalsHeard()
    for each in signals:
        signals_heard.take(each)
    return signals_heard


def test_a_signal_is_the_weakest_evidence_and_names_its_source() -> None:
    published = signal(detail="room_finished").evidence
    assert published is not None
    assert (published.kind, published.rank, published.detail) == ("signal", 6, "/livekit: room_finished")
    assert published.since == format_instant(NOW)


def test_what_a_publisher_says_is_one_line_that_does_nothing_to_a_terminal() -> None:
    published = signal(detail="left\n+0.1s: the watcher published\x1b]0;title\x07\u202e").evidence
    assert published is not None
    assert published.detail == "/livekit: left +0.1s: the watcher published?]0;title??"


def test_a_topology_that_is_up_is_no_evidence() -> None:
    assert signal(kind=TOPOLOGY_UP).evidence is None


@pytest.mark.parametrize(
    ("attributes", "body", "why"),
    [
        ({"type": "io.bubustack.exeunt.topology-terminated.v1"}, b"{}", "is no signal"),
        ({"specversion": "2.0"}, b"{}", "only 1.x"),
        ({"time": "yesterday"}, b'{"namespace": "demo", "name": "call"}', "RFC 3339"),
        ({"time": ""}, b'{"namespace": "demo", "name": "call"}', "RFC 3339"),
        ({}, b"not JSON", "does not decode"),
        ({}, b'{"x":' + b"[" * 200_000, "does not decode"),
        ({}, b'{"namespace": "a"}', "names its run by"),
        ({}, b'{"namespace": "", "name": "", "trigger_token": ""}', "names its run by"),
        ({}, b'{"namespace": null, "name": null}', "names its run by"),
        ({}, b'{"namespace": "demo", "name": "call", "trigger_token": "RM_1"}', "not by both"),
        ({}, b'{"namespace": "demo", "name": "call", "uid": 7}', "does not decode"),
        ({}, b'{"namespace": "demo.a", "name": "call"}', "can be no namespace"),
        ({}, b'{"namespace": "_trigger_token", "name": "RM_1"}', "can be no namespace"),
        ({}, b'{"namespace": "demo", "name": "call.*"}', "can be no name of a StoryRun"),
        ({}, b'{"namespace": "demo", "name": "call_1"}', "can be no name of a StoryRun"),
        ({}, b'{"namespace": "demo", "name": "call\\n"}', "can be no name of a StoryRun"),
        ({}, b'{"trigger_token": "' + b"x" * 257 + b'"}', "256 are the most"),
        ({}, b'{"trigger_token": "RM_1"}', "belongs on exeunt.signals._trigger_token.RM_1"),
        ({}, b'{"namespace": "demo", "name": "another"}', "is about demo/another, but was sent on"),
        ({}, b'{"namespace": "other", "name": "call"}', "is about other/call, but was sent on"),
    ],
)
def test_a_malformed_signal_is_poison_with_its_reason(attributes: dict[str, str], body: bytes, why: str) -> None:
    with pytest.raises(PoisonEvent, match=why):
        read_signal(SUBJECT, headers(**attributes), body)


def test_absent_null_and_empty_are_the_same() -> None:
    assert signal(uid=None, detail=None) == signal(uid="", detail="") == signal()
    assert signal().uid is None
    assert signal().detail == "/livekit"


def test_a_run_is_named_by_its_trigger_token() -> None:
    published = read_signal(BY_SID, headers(), json.dumps({"trigger_token": SID, "detail": "nobody is left"}).encode())
    assert (published.run, published.trigger_token) == (None, SID)
    assert published.counts_for(call())
    assert not published.counts_for(call(token="RM_other"))
    assert not published.counts_for(call(token=None))


@pytest.mark.parametrize(
    ("token", "written"),
    [
        (SID, SID),
        ("a.b", "a%2Eb"),
        ("*", "%2A"),
        (">", "%3E"),
        ("a b/c%", "a%20b%2Fc%25"),
        ("\N{SNOWMAN}", "%E2%98%83"),
    ],
)
def test_any_token_fits_into_a_subject(token: str, written: str) -> None:
    assert trigger_token_subject(token) == f"exeunt.signals._trigger_token.{written}"
    published = read_signal(trigger_token_subject(token), headers(), json.dumps({"trigger_token": token}).encode())
    assert published.trigger_token == token


def test_no_name_can_be_taken_for_another() -> None:
    assert signal_subject("demo", "a.b") == "exeunt.signals.demo.a_b"
    assert signal_subject("demo", "a.b") != signal_subject("demo", "a-b")


def test_it_counts_only_for_its_own_run_and_time() -> None:
    run = call()
    assert signal(uid=run.uid).counts_for(run)
    assert signal().counts_for(run)
    assert not signal(uid="other").counts_for(run)
    assert not signal(trigger_token=SID, uid="other").counts_for(run)
    assert not signal(at=STARTED_AT - SECOND, uid=run.uid).counts_for(run)
    assert signal(at=STARTED_AT, uid=run.uid).counts_for(run)
    # by the name alone it may be about the run that had the name before, in the second to which the start is cut
    assert not signal(at=STARTED_AT + SECOND / 2).counts_for(run)
    assert signal(at=STARTED_AT + SECOND).counts_for(run)
    for unreadable in (None, "0001-01-01T00:00:00Z", "soon"):
        assert not signal().counts_for(call(started_at=unreadable))


def test_what_is_published_of_a_room_counts_for_the_run_that_is_started_for_it_later() -> None:
    early = signal(trigger_token=SID, at=STARTED_AT - timedelta(minutes=1))
    assert early.counts_for(call())
    assert early.counts_for(call(started_at=None))
    # but not for an attempt that a redrive began after it
    assert not early.counts_for(call(attempt="again"))
    assert not signal(trigger_token=SID, at=STARTED_AT + SECOND / 2).counts_for(call(attempt="again"))
    assert signal(trigger_token=SID).counts_for(call(attempt="again"))


def test_nobody_knows_the_future() -> None:
    assert not signal(at=NOW + timedelta(minutes=1)).is_ahead_of(NOW)
    assert signal(at=NOW + timedelta(minutes=1, microseconds=1)).is_ahead_of(NOW)


@pytest.mark.parametrize("by_token", [True, False])
def test_the_newest_counts_in_whatever_order_it_comes(*, by_token: bool) -> None:
    name = {"trigger_token": SID} if by_token else {}
    gone, up = signal(at=NOW, **name), signal(kind=TOPOLOGY_UP, at=NOW + SECOND, **name)
    assert heard(gone).evidence(call()) == gone.evidence
    assert heard(gone, up).evidence(call()) is None
    assert heard(up, gone).evidence(call()) is None
    again = signal(at=NOW + 2 * SECOND, **name)
    assert heard(again, up, gone, gone).evidence(call()) == again.evidence


def test_of_two_of_the_same_time_the_later_counts() -> None:
    assert heard(signal(), signal(kind=TOPOLOGY_UP)).evidence(call()) is None
    assert heard(signal(kind=TOPOLOGY_UP), signal()).evidence(call()) is not None


def test_the_newest_counts_by_whatever_name_it_was_published() -> None:
    up = signal(kind=TOPOLOGY_UP, trigger_token=SID, at=NOW + SECOND)
    assert heard(up, signal()).evidence(call()) is None
    assert heard(signal(at=NOW + 2 * SECOND, uid="uid-call"), up).evidence(call()) is not None
    # nor does what was published about another run of the name hide it
    other = signal(kind=TOPOLOGY_UP, uid="another", at=NOW + 3 * SECOND)
    assert heard(signal(), other).evidence(call()) is not None


def test_what_is_old_is_forgotten() -> None:
    signals = heard(signal(), signal(trigger_token=SID, at=NOW + SECOND))
    signals.forget(NOW + KEPT + SECOND)
    assert signals.evidence(call(token=None)) is None
    assert signals.evidence(call()) is not None
