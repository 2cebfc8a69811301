"""The alerts of deploy/components/alerts, held against promtool, their runbooks and the metrics that there are.

What each alert does on which day is in tests/alerts, in promtool's own language.
"""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]
from cyclopts import CycloptsError

from actors import prometheus_rules
from actors.installation import kustomize, with_components
from exeunt.telemetry.instruments import Histogram
from exeunt.telemetry.metrics import INSTRUMENTS
from exeunt_cli.__main__ import app
from exeunt_local.binaries import PrometheusBinaries
from exeunt_local.prometheus import rules_file

ROOT: Final = Path(__file__).parents[2]
RULES: Final = prometheus_rules.rules()
ALERTS: Final = sorted({rule["alert"] for rule in RULES if "alert" in rule})
TESTS: Final = sorted((ROOT / "tests" / "alerts").glob("*.yaml"))
RUNBOOKS: Final = ROOT / "docs" / "runbooks"
PAGES: Final = "https://github.com/bubustack/exeunt/blob/main/docs/runbooks/"

FROM_PROMETHEUS: Final = {"namespace", "instance"}
"""Labels that it adds to whatever it scrapes in Kubernetes."""
OF_METRICS: Final = {
    f"{instrument.name}{suffix}": {*instrument.labels, *FROM_PROMETHEUS, *(["le"] if suffix == "_bucket" else [])}
    for instrument in INSTRUMENTS
    for suffix in (("_bucket", "_count", "_sum") if isinstance(instrument, Histogram) else ("",))
}
OF_RECORDS: Final = {rule["record"]: {"cause", "ended_by", *FROM_PROMETHEUS} for rule in RULES if "record" in rule}

each_alert = pytest.mark.parametrize("alert", ALERTS)
each_page = pytest.mark.parametrize("page", sorted(RUNBOOKS.glob("*.md")), ids=lambda page: page.stem)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    return rules_file(tmp_path / "rules.yaml")


def promtool(binaries: PrometheusBinaries, *words: str | Path) -> None:
    ran = subprocess.run([binaries.promtool, *words], capture_output=True, text=True, check=False, timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_promtool_accepts_them(prometheus_binaries: PrometheusBinaries, rules: Path) -> None:
    promtool(prometheus_binaries, "check", "rules", "--lint=all", "--lint-fatal", rules)


async def test_kustomize_brings_them_to_the_prometheus_operator(
    prometheus_binaries: PrometheusBinaries, tmp_path: Path
) -> None:
    built = yaml.safe_load_all(await kustomize(with_components(tmp_path, "podmonitor", "alerts")))
    (spec,) = (item["spec"] for item in built if item["kind"] == "PrometheusRule")
    file = tmp_path / "built.yaml"
    file.write_text(yaml.safe_dump(spec))
    promtool(prometheus_binaries, "check", "rules", "--lint=all", "--lint-fatal", file)
    # Long lines are refolded.
    expressions = [rule["expr"].split() for group in spec["groups"] for rule in group["rules"]]
    assert expressions == [rule["expr"].split() for rule in RULES]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.stem)
def test_fires_when_it_should_and_not_otherwise(
    prometheus_binaries: PrometheusBinaries, rules: Path, test: Path
) -> None:
    beside = rules.with_name(test.name)
    beside.write_text(test.read_text())
    promtool(prometheus_binaries, "test", "rules", beside)


@each_alert
def test_has_been_seen_to_fire_with_its_words_and_to_be_silent(alert: str) -> None:
    expected = [
        case["exp_alerts"]
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == alert
    ]
    assert any(expected), "no test has it fire"
    assert not all(expected), "no test has it silent"


@each_alert
def test_says_what_it_is_and_where_to_read_on(alert: str) -> None:
    for rule in RULES:
        if rule.get("alert") == alert:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
            assert rule["annotations"]["runbook_url"] == f"{PAGES}{alert}.md"


def test_each_alert_has_a_page_and_each_page_an_alert() -> None:
    assert sorted(page.stem for page in RUNBOOKS.glob("*.md") if page.stem != "README") == ALERTS
    index = (RUNBOOKS / "README.md").read_text()
    listed = dict(re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| ([^|]*) \|", index, re.MULTILINE))
    severities = {
        alert: {rule["labels"]["severity"] for rule in RULES if rule.get("alert") == alert} for alert in ALERTS
    }
    assert {alert: set(severity.split(", ")) for alert, severity in listed.items()} == severities


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_asks_for_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    expression = rule["expr"]
    known = OF_METRICS | OF_RECORDS
    names = set(re.findall(r"\bexeunt[\w:]+", expression))
    assert names, "it asks for nothing of ours"
    assert names <= known.keys()
    for name, matchers in re.findall(r"\b(exeunt[\w:]+)\{(.+?)\}", expression):
        assert set(re.findall(r"(\w+)\s*(?:=|!)", matchers)) <= known[name]
    grouped = {
        label for labels in re.findall(r"\b(?:by|on|ignoring) \(([^)]*)\)", expression) for label in labels.split(", ")
    }
    assert grouped - {""} <= set().union(*(known[name] for name in names))


@each_alert
def test_the_page_begins_with_what_happened_to_the_run(alert: str) -> None:
    first = commands((RUNBOOKS / f"{alert}.md").read_text())[0]
    begun = [command.split()[:2] for command in first]
    assert begun[0] == ["exeunt", "explain"] or begun[:2] == [["exeunt", "runs"], ["exeunt", "explain"]]


@each_page
def test_the_commands_of_a_page_are_commands(page: Path) -> None:
    for command in (command for block in commands(page.read_text()) for command in block):
        if command.startswith("exeunt "):
            try:
                app.parse_args(command.split()[1:], exit_on_error=False, print_error=False)
            except CycloptsError as error:
                pytest.fail(f"{command}: {error}")


@each_page
def test_the_metrics_of_a_page_are_metrics(page: Path) -> None:
    named = set(re.findall(r"(?<![\w:])exeunt[_:][a-z_:\d]+[a-z\d]\b", page.read_text()))
    assert named <= OF_METRICS.keys() | OF_RECORDS.keys() | {instrument.name for instrument in INSTRUMENTS}


@each_alert
def test_the_queries_of_a_page_are_queries(prometheus_binaries: PrometheusBinaries, tmp_path: Path, alert: str) -> None:
    queries = [query for block in blocks((RUNBOOKS / f"{alert}.md").read_text(), "promql") for query in block]
    assert queries
    file = tmp_path / "queries.yaml"
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    file.write_text(yaml.safe_dump({"groups": [{"name": alert, "rules": rules}]}))
    promtool(prometheus_binaries, "check", "rules", file)


def blocks(page: str, kind: str) -> list[list[str]]:
    """The lines of each code block of that kind."""
    found = re.findall(rf"^```{kind}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return [block.splitlines() for block in found]


def commands(page: str) -> list[list[str]]:
    """The commands of each code block."""
    return [[line[2:] for line in block if line.startswith("$ ")] for block in blocks(page, "console")]
