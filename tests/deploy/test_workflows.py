"""What GitHub runs, as far as it can be proved without GitHub: its structure, and commands that people have, too."""

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]
PATHS = sorted((ROOT / ".github" / "workflows").iterdir())
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in PATHS}
JOBS = [
    pytest.param(name, job, id=f"{file}: {name}")
    for file, workflow in WORKFLOWS.items()
    for name, job in workflow["jobs"].items()
]
PUBLISHING = {"image", "chart", "publish"}
"""Jobs that may write: each runs our own steps on what an earlier job has built, and no test."""


def steps() -> Iterator[dict[str, Any]]:
    for workflow in WORKFLOWS.values():
        for job in workflow["jobs"].values():
            yield from job.get("steps", ())


def test_every_action_is_pinned_by_its_commit_and_says_which_version_that_is() -> None:
    used = [line.strip() for path in PATHS for line in path.read_text().splitlines() if re.search(r"\buses:", line)]
    foreign = [line for line in used if "uses: ./" not in line]
    assert len(foreign) > 10
    assert [
        line for line in foreign if not re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)
    ] == []
    versions: dict[str, set[str]] = {}
    for line in foreign:
        action, _, pin = line.partition("uses: ")[2].partition("@")
        versions.setdefault(action, set()).add(pin)
    assert {action: pins for action, pins in versions.items() if len(pins) > 1} == {}


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_job_has_the_rights_that_it_names_and_a_deadline(name: str, job: dict[str, Any]) -> None:
    rights = job["permissions"]
    assert set(rights.values()) <= {"read", "write"}
    writes = {right for right, value in rights.items() if value == "write"}
    assert bool(writes) == (name in PUBLISHING)
    assert writes <= {"packages", "id-token", "contents"}
    assert ("contents" in writes) == (name == "publish")
    if "uses" not in job:
        assert job["timeout-minutes"] <= 120
        assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"])


def test_nothing_is_allowed_that_is_not_named_and_no_workflow_runs_strangers_code_with_rights() -> None:
    for workflow in WORKFLOWS.values():
        assert workflow["permissions"] == {}
        assert not {"pull_request_target", "workflow_run", "issue_comment"} & workflow[True].keys()  # `on`, in YAML 1.1
    for step in steps():
        assert "${{" not in step.get("run", "")  # a name of a branch or tag would be code there
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_tests_run_on_each_python_that_the_package_is_published_to_run_on() -> None:
    matrix = WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]
    published = [
        found[1] for each in PROJECT["classifiers"] if (found := re.fullmatch(r".* :: Python :: (\d\.\d+)", each))
    ]
    assert matrix["python"] == published == ["3.11", "3.12", "3.13", "3.14"]
    assert PROJECT["requires-python"] == f">={published[0]}"
    planes = {path.name for path in (ROOT / "deploy/local/exeunt_local/control_planes").iterdir()}
    assert {each["kubernetes"] for each in matrix["include"]} <= planes


def test_what_is_run_is_what_people_run() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    run = [command for step in steps() for command in re.findall(r"^make (\w+)", step.get("run", ""), re.MULTILINE)]
    assert set(run) == {"check", "test", "coverage", "install", "release"} <= targets


def test_a_release_is_tested_first_and_its_image_is_the_one_of_the_manifests() -> None:
    release = WORKFLOWS["release.yml"]
    before: dict[str, set[str]] = {}
    for name, job in release["jobs"].items():
        needs = job.get("needs", [])
        needed = {needs} if isinstance(needs, str) else set(needs)
        before[name] = needed.union(*(before[each] for each in needed))
    assert all("test" in before[name] for name in before.keys() - {"test"})
    (image,) = yaml.safe_load((ROOT / "deploy/pod/kustomization.yaml").read_text())["images"]
    assert release["env"]["IMAGE"] == image["newName"]
    values = yaml.safe_load((ROOT / "deploy/chart/values.yaml").read_text())
    assert values["image"]["repository"] == image["newName"]
    (push,) = (step for step in release["jobs"]["image"]["steps"] if step.get("id") == "push")
    assert push["with"]["platforms"].split(",") == ["linux/amd64", "linux/arm64"]
    assert push["with"]["sbom"] is True


def test_every_version_is_the_one_of_the_package() -> None:
    (image,) = yaml.safe_load((ROOT / "deploy/pod/kustomization.yaml").read_text())["images"]
    chart = yaml.safe_load((ROOT / "deploy/chart/Chart.yaml").read_text())
    assert (image["newTag"], chart["version"], chart["appVersion"]) == (VERSION,) * 3
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        named = re.findall(
            r"(?:/exeunt:|newTag: |/charts/exeunt --version |refs/tags/v)(\d+\.\d+\.\d+)\b(?!-)", page.read_text()
        )
        assert set(named) <= {VERSION}, page


def test_renovate_looks_after_each_kind_of_pin() -> None:
    managers = json.loads((ROOT / "renovate.json").read_text())["enabledManagers"]
    assert {"github-actions", "dockerfile", "helm-values", "kubernetes", "gomod"} <= set(managers)


def make_release(folder: Path, changelog: str) -> subprocess.CompletedProcess[str]:
    (folder / "CHANGELOG.md").write_text(changelog)
    settings = (f"DIST={folder / 'dist'}", f"CHANGELOG={folder / 'CHANGELOG.md'}", f"BIN={Path(sys.executable).parent}")
    return subprocess.run(
        ["make", "release", *settings], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_release_is_a_wheel_an_sdist_a_chart_and_its_notes(tmp_path: Path) -> None:
    made = make_release(
        tmp_path, f"# Changelog\n\n## 9.9.9 (2030)\n\nlater\n\n## {VERSION} (2027)\n\nthis\n\n## 0.0.1\n\nold\n"
    )
    assert made.returncode == 0, made.stderr
    dist = tmp_path / "dist"
    wheel = f"exeunt-{VERSION}-py3-none-any.whl"
    assert {path.name for path in dist.iterdir()} == {
        *(wheel, f"exeunt-{VERSION}.tar.gz", f"exeunt-{VERSION}.tgz", "notes.md"),
    }
    assert (dist / "notes.md").read_text().split() == ["this"]
    with zipfile.ZipFile(dist / wheel) as packed:
        names = set(packed.namelist())
    packages = {name.split("/")[0] for name in names if name.endswith("/__init__.py") and name.count("/") == 1}
    assert len(packages) == 7
    assert {f"{package}/py.typed" for package in packages} <= names
    with tarfile.open(dist / f"exeunt-{VERSION}.tgz") as packed_chart:
        chart = packed_chart.extractfile("exeunt/Chart.yaml")
        assert chart is not None
        assert yaml.safe_load(chart)["version"] == VERSION


def test_a_version_that_the_changelog_does_not_know_is_not_released(tmp_path: Path) -> None:
    made = make_release(tmp_path, "# Changelog\n\n## Unreleased\n\nnew\n")
    assert made.returncode != 0
    assert f"says nothing of {VERSION}" in made.stdout
    assert [path.name for path in (tmp_path / "dist").iterdir()] == ["notes.md"]
