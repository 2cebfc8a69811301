"""The connection to NATS that the settings describe: of a service, or of a person with the `exeunt` command."""

import os

from exeunt.bus.connection import Bus, connect
from exeunt.bus.credentials import Tls
from exeunt.settings import Settings


async def connect_as(client: str, settings: Settings, *, connect_timeout: float, patience: float | None = None) -> Bus:
    """Connect in the name of `client`, whose inbox is its own; times, in seconds, and errors are those of `connect`."""
    return await connect(
        settings.nats_url,
        name=f"{client} {os.environ.get('HOSTNAME', '')}".strip(),
        inbox_prefix=f"_INBOX_{client.replace('-', '_')}",
        credentials=settings.nats_credentials,
        tls=Tls(
            ca=settings.nats_tls_ca,
            cert=settings.nats_tls_cert,
            key=settings.nats_tls_key,
            first=settings.nats_tls_first,
            strict=settings.tls_strict,
        ),
        connect_timeout=connect_timeout,
        patience=patience,
    )
