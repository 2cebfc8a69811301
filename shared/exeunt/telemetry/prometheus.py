"""The metrics as Prometheus reads them."""

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler

from exeunt.telemetry.instruments import Instrument

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def metrics_endpoint(resource: Resource, instruments: Iterable[Instrument]) -> Handler:
    """An aiohttp handler for /metrics: OpenMetrics with exemplars, or plain text, as the client accepts."""
    who = {key.replace(".", "_"): str(value) for key, value in resource.attributes.items()}
    registry = CollectorRegistry(target_info=who)
    for instrument in instruments:
        registry.register(instrument.figures)
    ProcessCollector(registry=registry)
    return make_aiohttp_handler(registry)
