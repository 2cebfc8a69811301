"""Prometheus on this machine, scraping a local mesh as one in a cluster scrapes Exeunt's Pods.

`binaries` builds the program; it has no pages of its own, so it is for its HTTP API: for tests, and as a data source.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
import yaml  # type: ignore[import-untyped]

from exeunt.errors import ExeuntError
from exeunt_local.mesh import Mesh
from exeunt_local.processes import Process, free_port

RULES = Path(__file__).parent / "rules.yaml"
"""The PrometheusRule of deploy/components/alerts."""
Series = dict[str, Any]
"""As the API answers: `metric` has the labels, `value` or `values` pairs of Unix seconds and text."""


class QueryRefused(ExeuntError):
    """Prometheus could not evaluate an expression; the message is its own."""


def rules_file(path: Path, prometheus_rule: Path = RULES) -> Path:
    """Writes what a PrometheusRule says as a file of rule groups, which it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(yaml.safe_load(prometheus_rule.read_text())["spec"]))  # JSON is YAML, too
    return path


class Prometheus:
    """Entered as an async context manager; configuration, log and samples are in `folder`.

    `rules` are files of rule groups, evaluated as often as is scraped, every `interval` seconds.
    """

    def __init__(self, folder: Path, *, binary: Path, rules: Sequence[Path] = (), interval: float = 1) -> None:
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}"
        self._targets = folder / "targets.json"
        self._targets.write_text("[]")
        every = f"{round(interval * 1000)}ms"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(path) for path in rules],
            "scrape_configs": [{"job_name": "exeunt", "file_sd_configs": [{"files": [str(self._targets)]}]}],
        }
        (folder / "prometheus.yml").write_bytes(msgspec.json.encode(config))  # JSON is YAML, too
        self._process = Process(
            [
                binary,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'samples'}",
                f"--web.listen-address={address}",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ],
            log=folder / "prometheus.log",
            ready_url=f"{self.url}/-/ready",
        )

    def scrape(self, mesh: Mesh) -> None:
        """From now on, what runs in `mesh`, under the labels that a PodMonitor would give it.

        To be called again when a service was started anew: it then listens elsewhere.
        """
        groups = [
            {
                "targets": [address],
                "labels": {"namespace": "exeunt", "container": "service", "pod": f"exeunt-{service}-{number}"},
            }
            for (service, number), address in mesh.addresses.items()
        ]
        written = self._targets.with_suffix(".new")
        written.write_bytes(msgspec.json.encode(groups))
        written.replace(self._targets)  # whole or not at all: Prometheus watches the file

    async def query(self, expression: str) -> list[Series]:
        """The value now; raises QueryRefused."""
        return list((await self.get("query", query=expression))["result"])

    async def query_range(self, expression: str, *, start: float, end: float, step: float) -> list[Series]:
        """The values from `start` to `end`, Unix seconds, every `step` seconds; raises QueryRefused."""
        limits = {"start": str(start), "end": str(end), "step": str(step)}
        return list((await self.get("query_range", query=expression, **limits))["result"])

    async def get(self, path: str, **parameters: str) -> Any:
        """`data` of any other path below /api/v1, such as `alerts`."""
        timeout = aiohttp.ClientTimeout(total=30)
        async with (
            aiohttp.ClientSession(timeout=timeout) as http,
            http.get(f"{self.url}/api/v1/{path}", params=parameters) as response,
        ):
            answer: Mapping[str, Any] = await response.json()
        if answer["status"] != "success":
            raise QueryRefused(f"{answer['errorType']}: {answer['error']}: {parameters.get('query', path)}")
        return answer["data"]

    async def firing(self) -> list[dict[str, dict[str, str]]]:
        """The alerts that fire now, each with its `labels` and `annotations`."""
        return [alert for alert in (await self.get("alerts"))["alerts"] if alert["state"] == "firing"]

    async def wait_for(self, expression: str, within: float = 30) -> list[Series]:
        """The first answer to `expression` that is not empty; raises TimeoutError, and QueryRefused."""
        try:
            async with asyncio.timeout(within):
                while True:
                    if found := await self.query(expression):
                        return found
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise TimeoutError(f"no answer within {within:g} s to {expression}") from None

    async def start(self) -> None:
        """Returns when it answers queries; raises ProcessFailed."""
        await self._process.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._process.kill()
