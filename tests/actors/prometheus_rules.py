"""The rules of deploy/components/alerts as Prometheus itself and promtool read them, out of the PrometheusRule."""

from pathlib import Path
from typing import Any

import msgspec
import yaml  # type: ignore[import-untyped]

PROMETHEUS_RULE = Path(__file__).parents[2] / "deploy" / "components" / "alerts" / "rules.yaml"


def groups() -> list[dict[str, Any]]:
    (document,) = yaml.safe_load_all(PROMETHEUS_RULE.read_text())
    return list(document["spec"]["groups"])


def rules() -> list[dict[str, Any]]:
    """Of all groups, in order: alerts have `alert`, recorded series `record`."""
    return [rule for group in groups() for rule in group["rules"]]


def rules_file(path: Path) -> Path:
    """Writes them as a file of rule groups, which it returns."""
    path.write_bytes(msgspec.json.encode({"groups": groups()}))  # JSON is YAML, too
    return path
