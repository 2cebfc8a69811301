"""The endpoints that others ask: /livez and /readyz the kubelet, /metrics Prometheus.

`/livez`: the event loop turns (or nothing would answer) and the work moves. It fails only when a restart would help: a
dependency that is away is waited for, not restarted over. `/readyz`: names every dependency that is missing, and whose
trouble it is, and stays 200 when all that is missing is a part (`InPart`).
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from socket import gethostname
from typing import NamedTuple

import structlog
from aiohttp import web

from exeunt.net.listening import addresses, listen
from exeunt.telemetry.prometheus import Handler

_SHUTDOWN = 5.0
"""Seconds that requests in progress have when the listening ends."""

log = structlog.get_logger()


class InPart(str):
    """A fault that leaves the service at work for everybody else: it is named, and readiness is not taken away."""

    __slots__ = ()


class Pulse(NamedTuple):
    """A piece of work that must move: loop time of its last sign of life, and the silence (s) that is still alive."""

    last_progress: Callable[[], float]
    limit: float


class Health(NamedTuple):
    """What a service is asked about: its dependencies (None when all is well, else the reason why not) and its work."""

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
        return {name: reason for name, ask in self.dependencies.items() if (reason := ask()) is not None}


async def serve_health(health: Health, addr: str, metrics: Handler) -> web.AppRunner:
    """Listen on `addr` (as `listening` reads it). Raises UsageError when that is not possible."""

    async def livez(_: web.Request) -> web.Response:
        return _answer(health.stuck(asyncio.get_running_loop().time()))

    async def readyz(_: web.Request) -> web.Response:
        return _answer(health.missing())

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return await serve_on(app, addr, setting="EXEUNT_HTTP_ADDR")


async def serve_on(app: web.Application, addr: str, *, setting: str) -> web.AppRunner:
    """Serve `app` on `addr` (see `listening`). Raises UsageError that names the `setting`."""
    sockets = listen(setting, addr)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    for listening in sockets:
        await web.SockSite(runner, listening).start()
    log.info("listening", setting=setting, addresses=addresses(sockets))
    return runner


def _answer(reasons: dict[str, str]) -> web.Response:
    if not reasons:
        return _json({"status": "ok"}, 200)
    if all(isinstance(reason, InPart) for reason in reasons.values()):
        return _json({"status": "degraded", "instance": gethostname(), "troubles": reasons}, 200)
    return _json({"status": "error", "instance": gethostname(), "troubles": reasons}, 503)


def _json(body: object, status: int) -> web.Response:
    """With a newline at its end, for whoever asks with curl."""
    return web.json_response(text=json.dumps(body) + "\n", status=status)
