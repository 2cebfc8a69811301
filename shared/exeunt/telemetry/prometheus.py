"""The metrics as Prometheus reads them."""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from exeunt.net.http_server import Answer, Handler, Request
from exeunt.telemetry.instruments import Instrument


def metrics_endpoint(who: Mapping[str, Any], instruments: Iterable[Instrument]) -> Handler:
    """What answers /metrics: OpenMetrics with exemplars, or plain text, as the client accepts. `who` is target_info."""
    registry = CollectorRegistry(target_info={key.replace(".", "_"): str(value) for key, value in who.items()})
    for instrument in instruments:
        registry.register(instrument.figures)
    ProcessCollector(registry=registry)
    app = make_wsgi_app(registry)

    def answer(request: Request) -> Answer:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "HTTP_ACCEPT": request.headers.get("accept", ""),
            "HTTP_ACCEPT_ENCODING": request.headers.get("accept-encoding", ""),
        }
        body = b"".join(app(environ, lambda status, headers: started.append((status, headers))))
        ((status, headers),) = started
        return Answer(int(status.split()[0]), headers, body)

    return answer
