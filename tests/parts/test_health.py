"""What whoever asks a service by hand gets."""

import aiohttp
import pytest
from aiohttp import web

from exeunt.process.health import Health, serve_health


@pytest.mark.parametrize(("unavailable_reason", "status"), [(None, 200), ("not connected to NATS", 503)])
async def test_an_answer_ends_with_a_newline(unavailable_reason: str | None, status: int) -> None:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response()

    runner = await serve_health(Health({"nats": lambda: unavailable_reason}, {}), "127.0.0.1:0", metrics)
    try:
        host, port = runner.addresses[0]
        async with aiohttp.ClientSession() as http, http.get(f"http://{host}:{port}/readyz") as answer:
            message = await answer.text()
    finally:
        await runner.cleanup()
    assert answer.status == status
    assert message.endswith("}\n")
