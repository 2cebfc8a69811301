"""The rules of deploy/components/alerts as Prometheus itself and promtool read them, out of the PrometheusRule."""

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

PROMETHEUS_RULE = Path(__file__).parents[2] / "deploy" / "components" / "alerts" / "rules.yaml"


def groups() -> list[dict[str, Any]]:
    (document,) = yaml.safe_load_all(PROMETHEUS_RULE.read_text())
    return list(document["spec"]["groups"])


def rules() -> list[dict[str, Any]]:
    """Of all groups, in order: alerts have `alert`, recorded series `record`."""
    return [rule for group in groups() for rule in group["rules"]]
