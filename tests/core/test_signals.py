"""What others may say about a topology, and what it is worth."""

import importlib.util
import json
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

from core.objects import NOW, STARTED, run_state, story_run
from exeunt.clock import format_instant
from exeunt.errors import PoisonEvent
from exeunt.signals import TYPE, Signal, read_signal

SUBJECT = "exeunt.signals.demo.call"
EXAMPLE = Path(__file__).parents[2] / "deploy" / "examples" / "livekit_bridge.py"


def headers(**changes: str) -> dict[str, str]:
    plain = {"specversion": "1.0", "id": "1", "source": "/livekit", "type": TYPE, "time": format_instant(NOW)}
    return {f"ce-{name}": value for name, value in (plain | changes).items()}


def signal(**body: object) -> Signal:
    return read_signal(SUBJECT, headers(), json.dumps({"namespace": "demo", "name": "call"} | body).encode())


def test_a_signal_is_the_weakest_evidence_and_names_its_source() -> None:
    said = signal(detail="room_finished")
    assert (said.evidence.kind, said.evidence.rank) == ("signal", 6)
    assert said.evidence.detail == "/livekit: room_finished"


@pytest.mark.parametrize(
    ("attributes", "body", "why"),
    [
        ({"type": "io.bubustack.exeunt.topology-terminated.v1"}, b"{}", "is no signal"),
        ({"specversion": "2.0"}, b"{}", "only 1.x"),
        ({"time": "yesterday"}, b'{"namespace": "a", "name": "b"}', "RFC 3339"),
        ({"time": ""}, b'{"namespace": "a", "name": "b"}', "RFC 3339"),
        ({}, b"not JSON", "does not decode"),
        ({}, b'{"x":' + b"[" * 200_000, "does not decode"),
        ({}, b'{"namespace": "a"}', "name"),
        ({}, b'{"namespace": "demo", "name": "another"}', "is about demo/another, but was sent on"),
        ({}, b'{"namespace": "other", "name": "call"}', "is about other/call, but was sent on"),
    ],
)
def test_a_malformed_signal_is_poison_with_its_reason(attributes: dict[str, str], body: bytes, why: str) -> None:
    with pytest.raises(PoisonEvent, match=why):
        read_signal(SUBJECT, headers(**attributes), body)


def test_it_counts_only_for_its_own_run_and_time() -> None:
    run = run_state(story_run(started_at=STARTED))
    assert signal(uid=run.uid).objection(run, NOW) is None
    assert signal().objection(run, NOW) is None
    assert "another StoryRun" in (signal(uid="other").objection(run, NOW) or "")
    assert "future" in (signal().objection(run, NOW - timedelta(minutes=2)) or "")
    late_start = run_state(story_run(started_at=format_instant(NOW + timedelta(seconds=1))))
    assert "older" in (signal().objection(late_start, NOW) or "")
    for unreadable in (None, "0001-01-01T00:00:00Z", "soon"):
        assert "not known" in (signal().objection(run_state(story_run(started_at=unreadable)), NOW) or "")


def livekit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("livekit_bridge", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def webhook(**changes: object) -> bytes:
    metadata = json.dumps({"storyRun": {"namespace": "demo", "name": "call.1", "uid": "u-1"}})
    room = {"sid": "RM_1", "name": "room", "metadata": metadata, "creationTime": "1764000000"}
    event = {"event": "room_finished", "room": room, "id": "EV_1", "createdAt": "1764007956"}
    return json.dumps(event | changes).encode()


def test_livekits_room_finished_becomes_a_signal() -> None:
    message = livekit().to_signal(webhook())
    assert message.subject == "exeunt.signals.demo.call_1"
    said = read_signal(message.subject, message.headers, message.payload)
    assert (said.namespace, said.name, said.uid) == ("demo", "call.1", "u-1")
    assert said.gone_at.timestamp() == 1764007956


def test_other_webhooks_say_nothing() -> None:
    assert livekit().to_signal(webhook(event="participant_left")) is None
    assert livekit().to_signal(webhook(room={"sid": "RM_1", "metadata": "somebody else's"})) is None
    assert livekit().to_signal(webhook(room={"sid": "RM_1"})) is None
