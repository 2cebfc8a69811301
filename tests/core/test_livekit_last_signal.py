from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from exeunt.events.messages import Message
from exeunt_livekit_bridge.last_signal import LastSignal, described, read_last_signal, signal_message
from exeunt_livekit_bridge.look import Look
from exeunt_livekit_bridge.room import Participant


def read_back(message: Message, sequence: int, **headers: str) -> LastSignal:
    """As it is found in the stream, stored at AT."""
    return read_last_signal(
        message.subject, {**message.headers, **headers}, message.payload, sequence=sequence, stored_at=AT
    )


AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
LOOK = Look(sid="RM_x", room="call-42", event="participant_left", who="alice")


def test_what_is_published_is_read_back() -> None:
    message = signal_message("RM_x", gone=True, at=AT, detail="why", after=LastSignal(7))
    assert message.subject == "exeunt.signals._trigger_token.RM_x"
    assert msgspec.json.decode(message.payload) == {"trigger_token": "RM_x", "detail": "why"}
    assert message.expected_last_subject_sequence == 7
    assert message.headers["ce-type"] == "io.bubustack.exeunt.topology-gone.v1"
    assert message.headers["ce-source"] == "/livekit/bridge"
    assert read_back(message, 8) == LastSignal(8, gone=True, at=AT)
    up = signal_message("RM_x", gone=False, at=AT, detail="why", after=LastSignal(8))
    assert up.headers["ce-type"] == "io.bubustack.exeunt.topology-up.v1"
    assert up.headers["ce-id"] != message.headers["ce-id"]
    assert read_back(up, 9) == LastSignal(9, gone=False, at=AT)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"ce-type": "io.bubustack.exeunt.topology-terminated.v1"},
        {"ce-time": "yesterday"},
        {"ce-specversion": "0.3"},
        {"ce-time": "2026-11-30T12:01:01Z"},  # a minute and a second ahead of NATS: no watcher believes it
    ],
)
def test_what_no_watcher_believes_counts_as_nothing_said(spoilt: dict[str, str]) -> None:
    message = signal_message("RM_x", gone=True, at=AT, detail="", after=LastSignal())
    assert read_back(message, 8, **spoilt) == LastSignal(8)


def test_what_was_published_of_one_run_only_does_not_speak_for_the_room() -> None:
    message = signal_message("RM_x", gone=True, at=AT, detail="", after=LastSignal())
    payload = msgspec.json.encode({"trigger_token": "RM_x", "uid": "3f0c6f3e-0001"})
    assert read_last_signal(message.subject, message.headers, payload, sequence=8, stored_at=AT) == LastSignal(8)


def test_what_is_published_next_is_newer_whosoever_clock_is_behind() -> None:
    assert LastSignal().next_time(AT) == AT
    assert LastSignal(1, gone=True, at=AT - timedelta(seconds=1)).next_time(AT) == AT
    for ahead in (timedelta(0), timedelta(seconds=30)):
        assert LastSignal(1, gone=True, at=AT + ahead).next_time(AT) == AT + ahead + timedelta(microseconds=1)


def test_people_read_the_room_the_event_and_who_was_there() -> None:
    bot = Participant("bubu-agent-listen-1")
    assert (
        described(LOOK, by_timer=False, left=(bot,), gone=True)
        == "room call-42 (RM_x): participant_left alice; still there: bubu-agent-listen-1"
    )
    assert (
        described(LOOK, by_timer=False, left=(), gone=True)
        == "room call-42 (RM_x): participant_left alice; still there: nobody"
    )
    assert (
        described(Look(sid="RM_x", room="call-42", event="room_finished"), by_timer=False, left=None, gone=True)
        == "room call-42 (RM_x): room_finished; the room is no more"
    )
    assert (
        described(LOOK, by_timer=True, left=(Participant("alice"),), gone=False)
        == "room call-42 (RM_x): looked again some time after participant_left alice; there: alice"
    )


def test_names_that_people_chose_stay_short_and_on_one_line() -> None:
    """The history keeps 512 characters with the source in front."""
    look = Look(sid="RM_" + "x" * 500, room="r" * 500, event="e" * 500, who="w\n\x1b[31m" * 100)
    crowd = tuple(Participant("\N{GRINNING FACE}\n" * 300) for _ in range(500))
    detail = described(look, by_timer=True, left=crowd, gone=True)
    assert len(f"/livekit/bridge: {detail}") <= 512
    assert detail.isprintable()
    assert detail.endswith(" and 496 more")
