"""Plays a bridge that knows when a call is over: `python -m exeunt_local.topology_signal NAMESPACE/NAME`.

It publishes that the run's topology is gone, or with --up that it is back, at EXEUNT_NATS_URL. Without --uid it counts
for a run only that has started more than a second ago: docs/signals.md.
"""

import argparse
import asyncio
import os
import sys
import uuid
from datetime import UTC, datetime

import msgspec

from exeunt.bus.configured import connect_as
from exeunt.bus.publisher import publish
from exeunt.clock import format_instant
from exeunt.errors import ExeuntError
from exeunt.events import cloudevents
from exeunt.events.messages import Message
from exeunt.events.signals import TOPOLOGY_GONE, TOPOLOGY_UP, SignalBody
from exeunt.events.subjects import signal_subject
from exeunt.settings import read_settings

_PATIENCE = 10.0  # seconds


async def publish_signal(namespace: str, name: str, *, uid: str | None, gone: bool) -> int:
    """Returns its sequence in SIGNALS once it is stored; raises BusError."""
    settings = read_settings({name: value for name, value in os.environ.items() if name.startswith("EXEUNT_NATS_")})
    attributes = cloudevents.Attributes(
        id=str(uuid.uuid4()),
        source="/by-hand",
        type=TOPOLOGY_GONE if gone else TOPOLOGY_UP,
        time=format_instant(datetime.now(UTC)),
    )
    message = Message(
        subject=signal_subject(namespace, name),
        payload=msgspec.json.encode(SignalBody(namespace=namespace, name=name, uid=uid)),
        headers=cloudevents.to_headers(attributes),
    )
    bus = await connect_as("topology-signals", settings, connect_timeout=_PATIENCE)
    try:
        return (await publish(bus, message, deadline=_PATIENCE)).sequence
    finally:
        await bus.close(1.0)


def main() -> None:
    """Publish it, and print where it is stored."""
    parser = argparse.ArgumentParser(description="Signal that everybody has left a call.")
    parser.add_argument("run", metavar="NAMESPACE/NAME")
    parser.add_argument("--uid", help="of the very run that is meant")
    parser.add_argument("--up", action="store_true", help="somebody is there again")
    asked = parser.parse_args()
    namespace, slash, name = asked.run.partition("/")
    if not slash:
        parser.error(f"{asked.run} is no NAMESPACE/NAME")
    try:
        sequence = asyncio.run(publish_signal(namespace, name, uid=asked.uid, gone=not asked.up))
    except ExeuntError as error:
        sys.exit(f"topology_signal: {error}")
    sys.stdout.write(f"signal {sequence}: {asked.run} is {'up again' if asked.up else 'gone'}\n")


if __name__ == "__main__":
    main()
