"""A real Prometheus scrapes the services while they stop calls: what dashboards and alerts ask is asked of it."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from actors.bystander import Bystander
from actors.call import Call
from actors.collector import Collector
from actors.dashboard_drawing import draw, record
from actors.grafana import Panel, ask, panels, time_range
from actors.kubernetes import Kubernetes
from actors.livekit_room import LiveKitRoom
from actors.names import CANCEL_OBSERVED_AT
from actors.pictures import WINDOWS
from actors.prometheus_rules import rules
from actors.promql import selectors
from actors.services import start_all, without
from actors.signaling import everyone_leaves
from exeunt.events.event_types import EventType
from exeunt_local.binaries import Binaries, PrometheusBinaries, find_livekit
from exeunt_local.control_plane import ControlPlane
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import free_port
from exeunt_local.prometheus import Prometheus, rules_file
from mesh.observing import let_the_terminator_write_events

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
NAMESPACE = "observed"
INTERVAL = 0.5
"""Seconds between scrapes."""
VARIABLES = {**time_range(300, scraped_every=INTERVAL), "__rate_interval": "5m"}
"""A window in which the stops still are when the last panel is asked."""
WHILE_UNAVAILABLE_ONLY = ("exeunt_nats_errors_total", "exeunt:nats_down:")
"""Metrics that have no series before something has failed."""

pytestmark = pytest.mark.usefixtures("operator")


@dataclass(frozen=True)
class Observed:
    """The mesh and whoever looks at it, after stops of every cause."""

    mesh: Mesh
    nats_server: NatsServer
    prometheus: Prometheus
    collector: Collector
    calls: dict[str, Call]


@pytest.fixture(scope="module")
async def observed(
    control_plane: ControlPlane,
    servers: Binaries,
    prometheus_binaries: PrometheusBinaries,
    kubernetes: Kubernetes,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Observed]:
    """With a NATS and a namespace of their own, in which nothing is left of other tests: stops are counted."""
    folder = tmp_path_factory.mktemp("observed")
    groups = rules_file(folder / "rules.yml")
    webhooks = free_port()
    async with (
        Collector() as collector,
        NatsServer(folder / "nats", binary=servers.nats_server) as nats_server,
        Bystander(nats_server.url) as bystander,
        Mesh(folder / "services", control_plane=control_plane, nats_url=nats_server.url) as mesh,
        LiveKitServer(
            folder / "livekit", binary=find_livekit(), webhook_urls=[f"http://127.0.0.1:{webhooks}/webhook"]
        ) as livekit,
        LiveKitRoom(livekit, NAMESPACE) as room,
        Prometheus(
            folder / "prometheus", binary=prometheus_binaries.prometheus, rules=[groups], interval=INTERVAL
        ) as prometheus,
    ):
        env = {**collector.env, "EXEUNT_KUBERNETES_EVENTS": "true", "EXEUNT_NAMESPACES": NAMESPACE}
        await start_all(mesh, 0, **env)
        await mesh.start("watcher", 1, **env)
        await mesh.start_livekit_bridge(livekit, webhooks, 0, **collector.env)
        prometheus.scrape(mesh)
        await prometheus.wait_for("count(up{namespace='exeunt'} == 1) == 5")
        alice = await room.join("alice")
        await alice.leave()
        await prometheus.wait_for("sum(exeunt_livekit_signal_latency_seconds_count) >= 1")
        calls = await stop_for_every_cause(control_plane, kubernetes, bystander)
        await prometheus.wait_for(f"min(timestamp(up)) > {time.time()}")  # every service was scraped since
        yield Observed(mesh, nats_server, prometheus, collector, calls)


async def stop_for_every_cause(
    control_plane: ControlPlane, kubernetes: Kubernetes, bystander: Bystander
) -> dict[str, Call]:
    """One call that is left after its cancel, one before, and one that nobody leaves."""
    await control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    await let_the_terminator_write_events(control_plane, NAMESPACE)
    calls = {
        cause: await Call.start(kubernetes, NAMESPACE, cause, shutdown_timeout="1s" if cause == "deadline" else "1h")
        for cause in ("gone", "cancel", "deadline")
    }
    await everyone_leaves(bystander.streams, calls["cancel"])
    await bystander.wait_for_outcome(calls["cancel"].uid, EventType.TOPOLOGY_TERMINATED)  # or it might be the later one
    for call in calls.values():
        await call.cancel()
    await bystander.wait_until_answered(calls["gone"].uid, EventType.CANCEL_REQUESTED)
    await everyone_leaves(bystander.streams, calls["gone"])
    for call in calls.values():
        await call.wait_finished()
        await bystander.wait_for_event(call.uid, EventType.RUN_TERMINAL)
    await bystander.wait_until_idle()
    return calls


def cases(dashboard: str) -> list[object]:
    shown = [panel for panel in panels(GRAFANA / dashboard) if panel.queries]
    return [pytest.param(panel, id=f"{dashboard.removesuffix('.json')}-{panel.title}") for panel in shown]


@pytest.mark.parametrize("panel", [*cases("stops.json"), *cases("run.json")])
async def test_every_query_of_every_panel_has_data(observed: Observed, panel: Panel) -> None:
    for query, answer in zip(panel.queries, await ask(observed.prometheus, panel, VARIABLES), strict=True):
        if any(metric in query.expression for metric in WHILE_UNAVAILABLE_ONLY):
            continue
        assert answer, query.expression
        assert any(series["value"][1] != "NaN" for series in answer), (query.expression, answer)
        names = [query.name(series) for series in answer]
        assert len(set(names)) == len(names), f"series that look the same: {names}"
        for selector in await selectors(observed.prometheus, query.interpolated(VARIABLES)):
            assert '"ALERTS"' in selector or await observed.prometheus.query(selector), selector  # none fires here


async def test_the_picture_shows_every_panel(observed: Observed, tmp_path: Path) -> None:
    shown = [panel for panel in panels(GRAFANA / "stops.json") if panel.queries]
    path, now = tmp_path / "dashboard.png", time.time()
    recorded = await record(observed.prometheus, shown, VARIABLES, start=now - 10, end=now)
    assert [panel.title for panel, answers in recorded if any(series for _, series in answers)] == [
        panel.title for panel in shown
    ]
    for width, scheme in WINDOWS:
        draw(recorded, path, width=width, scheme=scheme)
        with Image.open(path) as picture:
            assert picture.width == width
        assert path.stat().st_size > 10_000


async def test_every_rule_is_evaluated_on_series_that_are_there(observed: Observed) -> None:
    evaluated = [rule for group in (await observed.prometheus.get("rules"))["groups"] for rule in group["rules"]]
    assert len(evaluated) == len(rules())
    for rule in evaluated:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]
        for selector in await selectors(observed.prometheus, rule["query"]):
            if any(series in selector for series in WHILE_UNAVAILABLE_ONLY):
                continue
            assert await observed.prometheus.query(selector), (rule["name"], selector)


async def test_no_alert_is_up_while_all_is_well(observed: Observed) -> None:
    """But for those that tell of a machine that was slow for a moment."""
    up = {alert["labels"]["alertname"] for alert in (await observed.prometheus.get("alerts"))["alerts"]}
    assert up <= {"ExeuntDeadlineLate", "ExeuntErrorBudgetBurn"}


async def test_an_exemplar_leads_to_the_trace_of_its_stop(observed: Observed) -> None:
    found = await observed.prometheus.get(
        "query_exemplars",
        query="exeunt_stop_latency_seconds_bucket",
        start=str(time.time() - 300),
        end=str(time.time()),
    )
    traces = {series["seriesLabels"]["cause"]: series["exemplars"][-1]["labels"]["trace_id"] for series in found}
    assert traces.keys() == observed.calls.keys()
    for cause, call in observed.calls.items():
        assert traces[cause] in {span.trace_id for span in observed.collector.of_run(call.uid)}


async def test_each_stop_is_measured_once_although_two_watchers_saw_it(observed: Observed) -> None:
    counted = await observed.prometheus.query("sum by (cause, ended_by) (exeunt_stop_lateness_seconds_count) > 0")
    assert {tuple(series["metric"].values()): series["value"][1] for series in counted} == {
        ("gone", "exeunt"): "1",
        ("cancel", "exeunt"): "1",
        ("deadline", "exeunt"): "1",
    }


async def test_a_stop_that_nobody_ends_is_noticed_and_forgotten_when_it_has_ended(
    observed: Observed, kubernetes: Kubernetes
) -> None:
    stuck = "ALERTS{alertname='ExeuntStopStuck'}"
    async with without(observed.mesh, "terminator", EXEUNT_NAMESPACES=NAMESPACE):
        call = await Call.start(kubernetes, NAMESPACE, "stuck", shutdown_timeout="300ms")
        await call.cancel()
        (alert,) = await observed.prometheus.wait_for(stuck)
        assert alert["metric"]["severity"] == "critical"
    await call.wait_finished()
    await observed.prometheus.wait_for(f"absent({stuck})")


async def test_a_stop_that_exeunt_could_not_end_is_a_late_one(observed: Observed, kubernetes: Kubernetes) -> None:
    by_bobrapet = 'cause="gone", ended_by="other"'
    async with without(observed.mesh, "terminator", EXEUNT_NAMESPACES=NAMESPACE):
        call = await Call.start(kubernetes, NAMESPACE, "drained", drain=3)
        await call.cancel()
        await call.wait_until(
            lambda run: CANCEL_OBSERVED_AT in run["metadata"].get("annotations", {})
        )  # so leaving is the cause
        await call.lose_bindings()
        await call.wait_finished()  # after its drain, by the operator
        await observed.prometheus.wait_for(f"sum(exeunt_stop_lateness_seconds_count{{{by_bobrapet}}}) == 1")
        in_time = f'exeunt_stop_lateness_seconds_bucket{{{by_bobrapet}, le="1.0"}}'
        await observed.prometheus.wait_for(f"sum({in_time}) == 0")
        await observed.prometheus.wait_for(f"sum(exeunt:stops_late:count{{{by_bobrapet}}}) == 1")


async def test_trouble_with_nats_is_reported(observed: Observed) -> None:
    await observed.nats_server.restart()
    expressions = [
        query.interpolated(VARIABLES)
        for panel in panels(GRAFANA / "stops.json")
        for query in panel.queries
        if any(metric in query.expression for metric in WHILE_UNAVAILABLE_ONLY)
    ]
    assert expressions
    for expression in (*expressions, "sum(exeunt_nats_reconnects_total) > 0"):
        await observed.prometheus.wait_for(expression)
