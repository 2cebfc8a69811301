"""Log lines of the services, as both dashboards show them: which ones (LogQL), and the panel.

What stands in a line is said in `exeunt.logs`; the data source for Loki makes links of the trace ids in it.
"""

from typing import Final

from grafana_foundation_sdk.builders import loki
from grafana_foundation_sdk.builders.logs import Panel
from grafana_foundation_sdk.models.common import LogsDedupStrategy, LogsSortOrder

from dashboards.panels import COUNT, LOKI

LINES: Final = '{namespace=~"$namespace", container="service"}'
"""Of the services. Loki wants one matcher that does not match everything."""


def log_lines(
    title: str,
    description: str,
    query: str,
    *,
    order: LogsSortOrder = LogsSortOrder.ASCENDING,
    height: int = 10,
    width: int = 12,
) -> Panel:
    """The lines that a LogQL query finds in the time range, 1000 at the most."""
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
