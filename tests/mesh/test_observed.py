"""What operators see of stops: one trace each, metrics whose exemplars lead there, logs, Kubernetes Events.

All as it arrives at a real OTLP endpoint, and at whoever scrapes /metrics, from the services as processes.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from aiohttp import ClientSession
from kubernetes_asyncio.client import CustomObjectsApi
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from actors.bystander import Bystander
from actors.call import Call
from actors.collector import Collector, Span
from actors.engine import Staging
from actors.kubernetes import Kubernetes
from actors.services import start_all
from actors.signaling import everyone_leaves
from exeunt.events.event_types import EventType
from exeunt.telemetry.metrics import INSTRUMENTS
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import SERVICES, Mesh
from exeunt_local.nats_server import NatsServer
from mesh.observing import (
    DELETE,
    PATCH,
    READ,
    ROOT,
    let_the_terminator_write_events,
)

pytestmark = pytest.mark.usefixtures("operator", "observed")


@pytest.fixture(scope="module")
async def collector() -> AsyncIterator[Collector]:
    async with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
async def observed(
    control_plane: ControlPlane,
    nats_server: NatsServer,
    tmp_path_factory: pytest.TempPathFactory,
    collector: Collector,
) -> AsyncIterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    async with Mesh(folder, control_plane=control_plane, nats_url=nats_server.url) as mesh:
        await start_all(mesh, 0, EXEUNT_KUBERNETES_EVENTS="true", **collector.env)
        yield mesh


async def stop_a_call(kubernetes: Kubernetes, namespace: str, bystander: Bystander, staging: Staging) -> Call:
    """Canceled while everyone is there; then everyone leaves."""
    call = await Call.start(kubernetes, namespace, staging=staging)
    await call.cancel()
    await bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)
    await bystander.wait_until_armed(call.uid)  # so that there is something to disarm
    await everyone_leaves(bystander.streams, call)
    await call.wait_finished()
    return call


WHOLE_STOP = [
    ROOT,
    "  terminator: process cancel-requested",
    "  timeout-scheduler: process cancel-requested",
    "  watcher: send run-terminal",
    "    timeout-scheduler: process run-terminal",
    "  watcher: send topology-terminated",
    "    terminator: process topology-terminated",
    f"      {DELETE}",
    f"      {DELETE}",
    f"      {PATCH}",
]


def events(spans: list[Span], name: str) -> list[dict[str, Any]]:
    return [dict(attributes) for span in spans for event, attributes in span.events if event == name]


async def test_a_whole_stop_is_one_trace(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, collector: Collector
) -> None:
    call = await stop_a_call(kubernetes, namespace, bystander, Staging())
    spans = await collector.wait_for_tree(call.uid, WHOLE_STOP)
    first = spans[0]
    assert (first.name, first.parent_id) == ("send cancel-requested", "")
    assert {span.trace_id for span in spans} == {first.trace_id}

    kinds = {"send": "PRODUCER", "process": "CONSUMER"}
    for span in spans:
        operation = span.name.split()[0]
        assert span.kind == kinds.get(operation, "CLIENT"), span
        assert not span.failed, span
        if span.kind == "CLIENT":
            assert span.attributes["http.request.method"] == operation
            assert span.attributes["http.response.status_code"] == 200
            continue
        assert span.attributes["messaging.system"] == "nats"
        assert span.attributes["messaging.operation.type"] == operation
        assert span.attributes["messaging.destination.template"].endswith("." + span.name.split()[1])
        assert span.attributes["messaging.message.conversation_id"] == call.uid
        assert span.attributes["k8s.namespace.name"] == namespace
        assert span.attributes["bobrapet.storyrun.name"] == call.name

    assert [event["exeunt.rule"] for event in events(spans, "decided")] == [
        "topology-up", "topology-gone",
    ]  # fmt: skip
    assert len(events(spans, "armed")) == len(events(spans, "disarmed")) == 1
    gone = next(span for span in spans if span.name == "send topology-terminated")
    assert gone.attributes["exeunt.evidence"] == "signal"
    ended = next(span for span in spans if span.attributes.get("exeunt.verdict") == "finalize")
    assert 0 < ended.attributes["exeunt.stop.latency"] < 5  # milliseconds, but on a busy machine
    assert ("exeunt.late" in ended.attributes) == (ended.attributes["exeunt.stop.latency"] > 1)


async def test_a_stop_shows_inside_the_trace_of_its_run(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, collector: Collector
) -> None:
    trace = {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "sampled": True}
    call = await stop_a_call(kubernetes, namespace, bystander, Staging(trace=trace))
    spans = await collector.wait_for_tree(call.uid, WHOLE_STOP)
    assert {span.trace_id for span in spans} == {trace["traceId"]}
    assert spans[0].parent_id == trace["spanId"]


async def test_a_deadline_is_in_the_trace_and_no_span_stays_open_over_the_wait(
    kubernetes: Kubernetes, namespace: str, collector: Collector
) -> None:
    call = await Call.start(kubernetes, namespace, shutdown_timeout="3s")
    await call.cancel()
    await call.wait_finished()
    spans = await collector.wait_for_tree(
        call.uid,
        [
            ROOT,
            "  terminator: process cancel-requested",
            "  timeout-scheduler: process cancel-requested",
            "  timeout-scheduler: process deadline",
            "    terminator: process deadline-reached",
            f"      {DELETE}",
            f"      {DELETE}",
            f"      {PATCH}",
            "    timeout-scheduler: GET /apis/bubustack.io/v1alpha1/namespaces/{namespace}/stories/{name}",
            f"    {READ.replace('terminator', 'timeout-scheduler')}",
            "  watcher: send run-terminal",
            "    timeout-scheduler: process run-terminal",
        ],
    )
    assert max(span.seconds for span in spans) < 2
    armed = next(span for span in spans if any(event == "armed" for event, _ in span.events))
    reached = next(span for span in spans if span.name == "process deadline")
    assert reached.links == (armed.span_id,)
    deadline = datetime.fromisoformat(spans[0].attributes["exeunt.deadline"])
    assert armed.end < deadline.timestamp() * 1e9 <= reached.start


async def scrape(mesh: Mesh, service: str) -> dict[str, Metric]:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with ClientSession() as http, http.get(f"{mesh.url(service)}/metrics", headers=accept) as answer:
        assert answer.content_type == "application/openmetrics-text"
        text = await answer.text()
    return {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    return found


async def wait_for_value(
    mesh: Mesh, service: str, holds: Callable[[float], bool], name: str, within: float = 10, **labels: str
) -> None:
    """Returns when the value that is scraped is such: some are measured or counted a moment after what they tell of."""
    last: float | None = None
    try:
        async with asyncio.timeout(within):
            while last is None or not holds(last):
                families = await scrape(mesh, service)
                with suppress(ValueError):  # not measured yet
                    last = value(families, name, **labels)
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{name}{labels} is still {last}") from None


async def test_metrics_tell_of_a_stop_and_their_exemplars_lead_to_its_trace(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, collector: Collector, observed: Mesh
) -> None:
    before = await scrape(observed, "terminator")
    call = await stop_a_call(kubernetes, namespace, bystander, Staging())
    spans = await collector.wait_for_tree(call.uid, WHOLE_STOP)
    after = await scrape(observed, "terminator")

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("exeunt_stop_latency_seconds_count", cause="gone") == 1
    assert grown("exeunt_stop_duration_seconds_count", cause="gone") == 1
    assert grown("exeunt_stop_latency_seconds_count", cause="cancel") == 0
    assert grown("exeunt_outcomes_total", cause="topology-terminated", verdict="finalize") == 1
    assert grown("exeunt_outcomes_total", cause="cancel-requested", verdict="wait") == 1
    assert grown("exeunt_outcomes_total", cause="topology-terminated", verdict="already-terminal") == 0
    assert 110 < grown("exeunt_drain_saved_seconds_total") <= 120
    assert grown("exeunt_redeliveries_total", consumer="terminator") == 0
    assert grown("exeunt_dead_letters_total", consumer="terminator") == 0

    exemplars = [s.exemplar.labels["trace_id"] for s in after["exeunt_stop_latency_seconds"].samples if s.exemplar]
    assert spans[0].trace_id in exemplars

    # Measured once a second, perhaps when the call was just about to end.
    await wait_for_value(observed, "watcher", lambda overdue: overdue == 0, "exeunt_stops_overdue_seconds")
    watcher, scheduler = await scrape(observed, "watcher"), await scrape(observed, "timeout-scheduler")
    for resource in ("storyruns", "stepruns", "transportbindings", "stories"):
        assert value(watcher, "exeunt_watch_relists_total", resource=resource) == 0
        assert 0 <= value(watcher, "exeunt_watch_age_seconds", resource=resource) < 90
    assert value(watcher, "exeunt_dependency_up", dependency="watches") == 1
    assert value(scheduler, "exeunt_deadlines_total", result="armed") >= 1
    assert value(scheduler, "exeunt_consumer_pending", consumer="timeout-scheduler") == 0


async def test_the_same_metrics_go_to_prometheus_and_over_otlp_and_none_names_a_run(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, collector: Collector, observed: Mesh
) -> None:
    call = await stop_a_call(kubernetes, namespace, bystander, Staging())
    kinds = {instrument.name.removesuffix("_total"): instrument.name for instrument in INSTRUMENTS}
    for service in SERVICES:
        families = await scrape(observed, service)
        labels = {label for family in families.values() for sample in family.samples for label in sample.labels.items()}
        assert not any(part in text for _, text in labels for part in (call.uid, namespace, call.story))
        # Histograms that are 0 so far are shown to Prometheus only.
        shown = {
            kinds[name]
            for name, family in families.items()
            if name in kinds and any(s.value for s in family.samples if s.name.endswith(("_count", "_total")))
        }
        assert shown
        sent = {(f"exeunt-{service}", name) for name in shown}
        await collector.wait_for(partial(sent.issubset, collector.metrics))


async def test_each_decision_is_one_line_that_names_the_run_and_its_trace(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, collector: Collector, observed: Mesh
) -> None:
    call = await stop_a_call(kubernetes, namespace, bystander, Staging())
    spans = await collector.wait_for_tree(call.uid, WHOLE_STOP)
    reported = {
        service: [line for text in observed.log(service).read_text().splitlines()
                  if call.uid in (line := json.loads(text)).get("run", "")]
        for service in SERVICES
    }  # fmt: skip
    assert [line["event"] for line in reported["terminator"]] == ["wait", "finalize"]
    assert [line["event"] for line in reported["watcher"]] == [
        "topology-established", "cancel-requested", "topology-terminated", "run-terminal",
    ]  # fmt: skip
    assert [line["event"] for line in reported["timeout-scheduler"]] == ["armed"]
    of_the_stop = [line for lines in reported.values() for line in lines if line["event"] != "topology-established"]
    assert {line["trace_id"] for line in of_the_stop} == {spans[0].trace_id}
    assert {line["span_id"] for line in of_the_stop} <= {span.span_id for span in spans}


async def test_a_kubernetes_event_tells_who_ended_a_run_where_the_right_to_write_it_was_given(
    kubernetes: Kubernetes,
    namespace: str,
    admin: CustomObjectsApi,
    bystander: Bystander,
    control_plane: ControlPlane,
    observed: Mesh,
) -> None:
    await let_the_terminator_write_events(control_plane, namespace)
    call = await stop_a_call(kubernetes, namespace, bystander, Staging())
    await bystander.wait_until_idle()

    created = "exeunt_kubernetes_events_total"
    await wait_for_value(observed, "terminator", lambda count: count >= 1, created, result="created")
    found = await admin.list_namespaced_custom_object("events.k8s.io", "v1", namespace, "events")
    (event,) = [event for event in found["items"] if event["regarding"].get("uid") == call.uid]
    assert (event["type"], event["action"], event["reason"]) == ("Normal", "Finalize", "TopologyGone")
    assert event["reportingController"] == "exeunt.bubustack.io/terminator"
    assert event["note"].startswith("Ended by Exeunt: the run is canceled and its topology is gone")
    assert (event["regarding"]["kind"], event["regarding"]["name"]) == ("StoryRun", call.name)
    assert value(await scrape(observed, "terminator"), created, result="created") == 1


async def test_an_event_that_is_refused_keeps_no_stop(
    kubernetes: Kubernetes, namespace: str, bystander: Bystander, observed: Mesh
) -> None:
    """The test's namespace gives no right to write Events, as `deploy/base` does not."""
    first = await stop_a_call(kubernetes, namespace, bystander, Staging())
    await first.wait_cleaned_up()
    await bystander.wait_until_idle()
    refused = "exeunt_kubernetes_events_total"
    await wait_for_value(observed, "terminator", lambda count: count >= 1, refused, result="refused")


@pytest.mark.usefixtures("bystander")
async def test_what_waits_for_a_service_that_is_dead_is_told_by_the_others(
    kubernetes: Kubernetes, namespace: str, observed: Mesh
) -> None:
    await observed.kill("terminator")
    call = await Call.start(kubernetes, namespace, shutdown_timeout="0s")
    await call.cancel()
    for alive in ("watcher", "timeout-scheduler"):
        await wait_for_value(
            observed, alive, lambda pending: pending >= 1, "exeunt_consumer_pending", within=60, consumer="terminator"
        )
    await observed.start_again("terminator")
    await call.wait_finished()
    for alive in ("watcher", "timeout-scheduler"):
        await wait_for_value(
            observed, alive, lambda pending: pending == 0, "exeunt_consumer_pending", within=60, consumer="terminator"
        )
