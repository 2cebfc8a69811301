"""From LiveKit's `room_finished` webhook to a topology signal: the worked example of docs/signals.md.

An HTTP handler checks the webhook's signature with LiveKit's own SDK, calls `to_signal` and publishes what it returns:

    message = to_signal(body)
    if message is not None:
        await jetstream.publish(message.subject, message.payload, headers=message.headers)

Whoever creates the room for a run puts `{"storyRun": {"namespace": ..., "name": ..., "uid": ...}}` into its metadata.
"""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple


class Message(NamedTuple):
    """A NATS message."""

    subject: str
    payload: bytes
    headers: dict[str, str]


def to_signal(webhook: bytes) -> Message | None:
    """The signal for one webhook call, or None when it is another event or the room belongs to no run.

    Raises ValueError when the body is no webhook of LiveKit's.
    """
    event: dict[str, Any] = json.loads(webhook)
    if event.get("event") != "room_finished":
        return None
    room = event["room"]
    run = _run_of(room)
    if run is None:
        return None
    finished_at = datetime.fromtimestamp(int(event["createdAt"]), UTC)  # seconds; protobuf JSON writes them as text
    return Message(
        subject=f"exeunt.signals.{run['namespace']}.{run['name'].replace('.', '_')}",
        payload=json.dumps({**run, "detail": f"room_finished {room.get('sid', '')}".strip()}).encode(),
        headers={
            "ce-specversion": "1.0",
            "ce-id": event["id"],
            "ce-source": "/livekit/bridge",
            "ce-type": "io.bubustack.exeunt.topology-gone.v1",
            "ce-time": finished_at.isoformat(),
            "ce-datacontenttype": "application/json",
            "Nats-Msg-Id": event["id"],  # LiveKit repeats a webhook that was not answered
        },
    )


def _run_of(room: dict[str, Any]) -> dict[str, str] | None:
    try:
        run = json.loads(room.get("metadata") or "{}").get("storyRun")
    except (ValueError, AttributeError):
        return None  # somebody else's metadata
    return {key: str(run[key]) for key in ("namespace", "name", "uid")} if isinstance(run, dict) else None
