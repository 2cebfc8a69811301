"""Log lines of the services, as both dashboards show them: the LogQL that selects them, and the panel.

`exeunt.telemetry.logs` documents the fields of a line; the Loki data source turns trace ids into links.
"""

from typing import Final

from grafana_foundation_sdk.builders import loki
from grafana_foundation_sdk.builders.logs import Panel
from grafana_foundation_sdk.models.common import LogsDedupStrategy, LogsSortOrder

from dashboards.panels import COUNT, LOKI

LINES: Final = '{namespace=~"$namespace", container="service"}'
"""Of the services: all their containers are called so, and the namespaces are those of Exeunt."""


def log_lines(
    title: str,
    description: str,
    query: str,
    *,
    order: LogsSortOrder = LogsSortOrder.ASCENDING,
    height: int = 10,
    width: int = 12,
) -> Panel:
    """The lines that a LogQL query finds in the time range, at most 1000."""
    return (
        Panel()
        .title(title)
        .description(description)
        .datasource(LOKI)
        .with_target(loki.Dataquery().datasource(LOKI).expr(query).query_type("range").max_lines(1000).ref_id("A"))
        .unit(COUNT)
        .no_value("no line")
        .show_time(True)
        .wrap_log_message(True)
        .enable_log_details(True)
        .sort_order(order)
        .dedup_strategy(LogsDedupStrategy.NONE)
        .height(height)
        .span(width)
    )
