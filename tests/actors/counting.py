"""Counts what stops cost the servers: requests by the kube-apiserver's audit log, messages as somebody hears them who is
let in everywhere, and what the stream RUNS holds. Whatever goes on without stops, pulls and probes, is left out.
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

_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts:exeunt"]}, {"level": "None"}],
}
_HEARD: Final = ("exeunt.>", "$JS.ACK.>", "$JS.API.DIRECT.GET.>", "$JS.API.STREAM.PURGE.>")
_PROBE: Final = "exeunt-probe"


def audited_control_plane(folder: Path, *, binaries: Binaries) -> ControlPlane:
    """One that writes down what the services ask for, in `audit.log`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "audit-policy.yaml").write_text(json.dumps(_POLICY))  # JSON is YAML, too
    flags = [f"--audit-policy-file={folder}/audit-policy.yaml", f"--audit-log-path={folder}/audit.log"]
    return ControlPlane(folder, binaries=binaries, apiserver_flags=flags)


class Counting:
    """Counts from when it is entered, as an async context manager. What is counted has a name: the verb and the kind of
    a request, the first words of a subject.
    """

    def __init__(self, folder: Path, nats_url: str) -> None:
        self._log = folder / "audit.log"
        self._nats_url = nats_url
        self._connection: Client | None = None
        self._begun_at = 0
        self._stored: tuple[int, int] = (0, 0)
        self.messages: Counter[str] = Counter()
        self.bytes_published = 0

    async def __aenter__(self) -> Self:
        self._connection = await nats.connect(self._nats_url)
        for subject in _HEARD:
            await self._connection.subscribe(subject, cb=self._hear)
        await self._connection.flush()
        self._begun_at = self._log.stat().st_size
        self._stored = await self._in_runs()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._connection is not None
        await self._connection.close()

    async def _hear(self, message: Msg) -> None:
        self.messages[_named(message)] += 1
        if message.subject.startswith("exeunt.") and message.reply:
            self.bytes_published += header_size(message.headers) + len(message.data)

    async def stored(self) -> tuple[int, int]:
        """Messages and bytes that the stream RUNS has more than at the beginning."""
        messages, size = await self._in_runs()
        return messages - self._stored[0], size - self._stored[1]

    async def _in_runs(self) -> tuple[int, int]:
        assert self._connection is not None
        state = (await self._connection.jetstream().stream_info("RUNS")).state
        return state.messages, state.bytes

    def requests(self) -> Counter[str]:
        """What the services have asked the kube-apiserver for, watches and probes left out."""
        found: Counter[str] = Counter()
        with self._log.open() as lines:
            lines.seek(self._begun_at)
            for line in lines:
                if line.endswith("\n"):
                    event: dict[str, Any] = json.loads(line)
                    reference = event["objectRef"]
                    if event["verb"] != "watch" and reference.get("name") != _PROBE:
                        found[f"{event['verb']} {reference['resource']}"] += 1
        return found


def _named(message: Msg) -> str:
    tokens = message.subject.split(".")
    match tokens:
        case ["$JS", "ACK", *_]:
            return f"{message.data.split()[0].decode()} of {tokens[-7 if len(tokens) < 12 else -8]}"
        case ["$JS", "API", "DIRECT", "GET", stream, *_]:
            return f"direct get of {stream}"
        case ["$JS", "API", "STREAM", "PURGE", stream]:
            return f"purge of {stream}"
        case ["exeunt", "runs", _, _, _, _, "outcome", cause]:
            return f"outcome of {cause}"
        case ["exeunt", "runs", *_, event_type]:
            return event_type
        case ["exeunt", "deadlines", *_]:
            return " ".join(tokens[1:3])
        case _:
            return tokens[1]
