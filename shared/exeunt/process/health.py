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

from exeunt.net.http_server import Answer, Handler, HttpServer, Request
from exeunt.net.listening import addresses, listen

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


async def serve_health(health: Health, addr: str, metrics: Handler) -> HttpServer:
    """Listen on `addr` (as `listening` reads it). Raises UsageError when that is not possible."""

    def livez(_: Request) -> Answer:
        return _answer(health.stuck(asyncio.get_running_loop().time()))

    def readyz(_: Request) -> Answer:
        return _answer(health.missing())

    setting = "EXEUNT_HTTP_ADDR"
    sockets = listen(setting, addr)
    server = HttpServer({"/livez": livez, "/readyz": readyz, "/metrics": metrics})
    await server.serve(sockets)
    log.info("listening", setting=setting, addresses=addresses(sockets))
    return server


def _answer(reasons: dict[str, str]) -> Answer:
    if not reasons:
        return _json({"status": "ok"}, 200)
    if all(isinstance(reason, InPart) for reason in reasons.values()):
        return _json({"status": "degraded", "instance": gethostname(), "troubles": reasons}, 200)
    return _json({"status": "error", "instance": gethostname(), "troubles": reasons}, 503)


def _json(body: object, status: int) -> Answer:
    """With a newline at its end, for whoever asks with curl."""
    return Answer(status, (("Content-Type", "application/json; charset=utf-8"),), f"{json.dumps(body)}\n".encode())
