"""What the tests of single parts share: a connection, a stream of one's own, and waiting with a deadline."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from exeunt.bus.connection import Bus, connect
from exeunt.bus.streams import Stream
from exeunt_local.nats_server import NatsServer

Until = Callable[..., Awaitable[None]]


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    bus = await connect(nats_server.url, name="test", inbox_prefix="_INBOX_test", connect_timeout=5)
    yield bus
    await bus.close(budget=5)


@pytest.fixture
def stream() -> Stream:
    """A stream that no other test has; it has yet to be made."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    return Stream(name=name, subjects=(f"{name}.>",), description="a test's own")


@pytest.fixture
def until() -> Until:
    """Wait for a condition, 10 s unless told otherwise."""

    async def until(condition: Callable[[], bool], *, within: float = 10.0) -> None:
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - the world has no events to wait for
                await asyncio.sleep(0.005)

    return until
