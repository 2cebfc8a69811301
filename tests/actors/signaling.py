"""Plays a bridge: somebody who knows first that a room is empty, or that somebody is back, and says so on NATS.

The wire format of docs/signals.md, written down a second time, apart from `exeunt.events.signals`.
"""

import json
from datetime import UTC, datetime

from nats.js import JetStreamContext

from actors.call import Call


async def everyone_leaves(streams: JetStreamContext, *calls: Call) -> None:
    """The rooms of the calls are empty but for their bots, and the bridge says so: nothing else shows it."""
    for call in calls:
        await send(streams, call, token=call.sid)


async def hub_reports_gone(_: JetStreamContext, call: Call) -> None:
    """Another way in which a topology may end: the hub's condition."""
    await call.signal_topology_terminated()


async def bindings_go(_: JetStreamContext, call: Call) -> None:
    """And another: its bindings are deleted."""
    await call.lose_bindings()


EVERY_EVIDENCE = {
    "the bridge says so": everyone_leaves,
    "the hub says so": hub_reports_gone,
    "the bindings go": bindings_go,
}
"""What shows that a topology is gone, as a test's parameters; the first is what a real call has."""


async def somebody_is_back(streams: JetStreamContext, call: Call) -> None:
    """As a bridge says it of the call's room."""
    await send(streams, call, gone=False, token=call.sid)


async def send(
    streams: JetStreamContext,
    call: Call,
    *,
    gone: bool = True,
    token: str | None = None,
    uid: str | None = None,
    at: datetime | None = None,
) -> None:
    """One signal about the call, by its name, or by a trigger token."""
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
