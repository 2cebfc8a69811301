"""The endpoints that others ask: /livez and /readyz the kubelet, /metrics Prometheus.

`/livez`: the event loop turns (or nothing would answer) and the work moves. It fails only when a restart would help: a
dependency that is away is waited for, not restarted over. `/readyz`: names every dependency that is missing, and stays
200 when all that is missing is a part (`InPart`).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog
from aiohttp import web

from exeunt.errors import UsageError
from exeunt.prometheus import Handler

_SHUTDOWN = 5.0
"""Seconds that requests in progress have when the listening ends."""

log = structlog.get_logger()


class InPart(str):
    """A trouble that leaves the service at work for everybody else: it is named, and readiness is not taken away."""

    __slots__ = ()


class Pulse(NamedTuple):
    """A piece of work that must move: loop time of its last sign of life, and the silence (s) that is still alive."""

    last_progress: Callable[[], float]
    limit: float


class Health(NamedTuple):
    """What a service is asked about: its dependencies (None when all is well, else the trouble) and its work."""

    dependencies: Mapping[str, Callable[[], str | None]]
    pulses: Mapping[str, Pulse]

    def stuck(self, now: float) -> dict[str, str]:
        """The work that has shown no sign of life for too long at loop time `now`."""
        return {
            name: f"no sign of life for {now - pulse.last_progress():.0f} s"
            for name, pulse in self.pulses.items()
            if now - pulse.last_progress() > pulse.limit
        }

    def missing(self) -> dict[str, str]:
        """The dependencies that are missing, and why."""
        return {name: trouble for name, ask in self.dependencies.items() if (trouble := ask()) is not None}


async def serve_health(health: Health, addr: str, metrics: Handler) -> web.AppRunner:
    """Listen on `addr` (host:port; port 0 takes a free one). Raises UsageError when that is not possible."""

    async def livez(_: web.Request) -> web.Response:
        return _answer(health.stuck(asyncio.get_running_loop().time()))

    async def readyz(_: web.Request) -> web.Response:
        return _answer(health.missing())

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return await listen(app, addr, setting="EXEUNT_HTTP_ADDR")


async def listen(app: web.Application, addr: str, *, setting: str) -> web.AppRunner:
    """Serve `app` on `addr` (host:port; no host is all interfaces). Raises UsageError that names the `setting`."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    host, _, port = addr.rpartition(":")
    try:
        site = web.TCPSite(runner, host.strip("[]") or None, int(port))
        await site.start()
    except (ValueError, OSError) as error:
        await runner.cleanup()
        raise UsageError(f"{setting}={addr!r} cannot be listened on: {error}") from error
    log.info("listening", setting=setting, addresses=[f"{host}:{port}" for host, port, *_ in runner.addresses])
    return runner


def _answer(troubles: dict[str, str]) -> web.Response:
    if not troubles:
        return web.json_response({"status": "ok"})
    if all(isinstance(trouble, InPart) for trouble in troubles.values()):
        return web.json_response({"status": "degraded", "troubles": troubles})
    return web.json_response({"status": "error", "troubles": troubles}, status=503)
