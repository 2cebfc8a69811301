"""Plays a bridge: somebody who knows first that a room is empty, or that somebody is back, and says so on NATS.

The wire format of docs/signals.md, written down a second time, apart from `exeunt.signals`.
"""

import json
import uuid
from datetime import UTC, datetime

from nats.js import JetStreamContext

from actors.call import Call
from actors.names import TRIGGER_TOKEN


async def send(
    streams: JetStreamContext,
    call: Call,
    *,
    gone: bool = True,
    token: str | None = None,
    uid: str | None = None,
    at: datetime | None = None,
) -> None:
    """Says that everyone has left the call, or that somebody is there; by its trigger token, where one is given."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": call.uid,
        "ce-source": "/livekit/bridge",
        "ce-type": f"io.bubustack.exeunt.topology-{'gone' if gone else 'up'}.v1",
        "ce-time": (at or datetime.now(UTC)).isoformat(),
    }
    detail = "room_finished" if gone else "participant_joined"
    named = {"trigger_token": token} if token else {"namespace": call.namespace, "name": call.name}
    subject = f"exeunt.signals._trigger_token.{token}" if token else f"exeunt.signals.{call.namespace}.{call.name}"
    body = named | {"uid": uid or ("" if token else call.uid), "detail": detail}
    await streams.publish(subject, json.dumps(body).encode(), headers=headers)


def a_room() -> dict[str, str]:
    """The annotation of a run that an impulse has started for a room."""
    return {TRIGGER_TOKEN: f"RM_{uuid.uuid4().hex[:12]}"}
