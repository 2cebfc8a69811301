import pytest

from exeunt_livekit_bridge.room import Participant, callers

BOTS = ("bubu-agent*", "monitor-?")


@pytest.mark.parametrize(
    "participant",
    [
        Participant("alice"),
        Participant("alice", state="JOINING"),
        Participant("alice", state="JOINED"),
        Participant("+4930123", kind="SIP"),
        Participant("camera", kind="INGRESS"),
        Participant("alice", kind="17"),
        Participant("alice", state="17"),
        Participant("my-bubu-agent"),
        Participant("Bubu-agent-1"),
        Participant("monitor-12"),
    ],
)
def test_holds_the_call_open(participant: Participant) -> None:
    assert callers([participant], BOTS) == (participant,)


@pytest.mark.parametrize(
    "participant",
    [
        Participant("alice", state="DISCONNECTED"),
        Participant("helper", kind="AGENT"),
        Participant("recording", kind="EGRESS"),
        Participant("helper", agent=True),
        Participant("recording", recorder=True),
        Participant("supervisor", hidden=True),
        Participant("bubu-agent-run-listen-abc12"),
        Participant("bubu-agent"),
        Participant("monitor-1"),
    ],
)
def test_does_not_hold_the_call_open(participant: Participant) -> None:
    assert callers([participant], BOTS) == ()


def test_without_patterns_every_ordinary_participant_is_a_caller() -> None:
    assert callers([Participant("bubu-agent-1"), Participant("helper", kind="AGENT")], ()) == (
        Participant("bubu-agent-1"),
    )
