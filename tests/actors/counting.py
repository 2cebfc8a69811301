"""Counts what stops cost the servers: requests by the kube-apiserver's audit log, messages as somebody hears them who
is let in everywhere, and what the stream RUNS holds. What goes on without stops, pulls and probes, is left out.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final, Self

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from exeunt.events.messages import header_size
from exeunt_local.binaries import Binaries
from exeunt_local.control_plane import ControlPlane

REQUESTS: Final = "requests to the kube-apiserver"
PUBLISHED: Final = "messages published"
ANSWERED: Final = "deliveries answered"
ASKED: Final = "calls of JetStream"
RECORDS: Final = "records in RUNS"
STORED: Final = "bytes in RUNS"
SENT: Final = "bytes published"

_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts:exeunt"]}, {"level": "None"}],
}
_OURS: Final = "_INBOX_exeunt_"
_HEARD: Final = {
    "exeunt.runs.>": PUBLISHED,
    "exeunt.deadlines.armed.>": PUBLISHED,
    "$JS.ACK.>": ANSWERED,
    "$JS.API.DIRECT.GET.>": ASKED,
    "$JS.API.STREAM.PURGE.>": ASKED,
}
_PROBE: Final = "exeunt-probe"


def audited(folder: Path, *, binaries: Binaries) -> ControlPlane:
    """A control plane that writes down what the services ask for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit-policy.yaml").write_text(json.dumps(_POLICY))  # JSON is YAML, too
    flags = [f"--audit-policy-file={folder}/audit-policy.yaml", f"--audit-log-path={folder}/audit.log"]
    return ControlPlane(folder, binaries=binaries, apiserver_flags=flags)


class Counting:
    """Counts from when it is entered, as an async context manager, to `totals`. `seen` says what it was."""

    def __init__(self, control_plane: ControlPlane, nats_url: str) -> None:
        self._log = control_plane.folder / "audit.log"
        self._nats_url = nats_url
        self._connection: Client | None = None
        self._begun_at = 0
        self._before: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._connection = await nats.connect(self._nats_url)
        for subject in _HEARD:
            await self._connection.subscribe(subject, cb=self._hear)
        await self._connection.flush()
        self._begun_at = self._log.stat().st_size
        self._before = await self._in_runs()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._connection is not None
        await self._connection.close()

    async def totals(self) -> Counter[str]:
        """Of each kind, as far as it has come."""
        return self._counted + self._requests() + (await self._in_runs() - self._before)

    async def _hear(self, message: Msg) -> None:
        kind = _kind_of(message.subject)
        if kind != ANSWERED and not message.reply.startswith(_OURS):
            return  # of somebody who looks on, or of the server itself
        self._counted[kind] += 1
        self.seen[_named(message)] += 1
        if kind is PUBLISHED:
            self._counted[SENT] += header_size(message.headers) + len(message.data)

    async def _in_runs(self) -> Counter[str]:
        assert self._connection is not None
        state = (await self._connection.jetstream().stream_info("RUNS")).state
        return Counter({RECORDS: state.messages, STORED: state.bytes})

    def _requests(self) -> Counter[str]:
        found: Counter[str] = Counter()
        with self._log.open() as lines:
            lines.seek(self._begun_at)
            for line in lines:
                if not line.endswith("\n"):
                    continue
                event: dict[str, Any] = json.loads(line)
                reference = event["objectRef"]
                if event["verb"] != "watch" and reference.get("name") != _PROBE:
                    found[REQUESTS] += 1
                    self.seen[f"{event['verb']} {reference['resource']}"] += 1
        return found


def _kind_of(subject: str) -> str:
    return next(kind for prefix, kind in _HEARD.items() if subject.startswith(prefix.removesuffix(">")))


def _named(message: Msg) -> str:
    tokens = message.subject.split(".")
    if tokens[0] == "$JS":
        word = message.data.decode().partition(" ")[0] if tokens[1] == "ACK" else ".".join(tokens[2:4])
        return f"{tokens[1]} {word}"
    return ".".join(["exeunt", tokens[1], *tokens[6:]]) if tokens[1] == "runs" else ".".join(tokens[:3])
