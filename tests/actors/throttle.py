"""Plays a cluster that is short of capacity: its API Priority and Fairness answers one service with 429.

The service gets a priority level without seats, whose last resort (an idle level always runs one request) is taken by
a request that does not end. What is refused so is refused by the real kube-apiserver, with its own Retry-After.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from actors.kubernetes import Kind
from exeunt_local.control_plane import ControlPlane

_API = "/apis/flowcontrol.apiserver.k8s.io/v1"
_NAME = "throttled"
_REVIEWS = "authorization.k8s.io"  # everybody may ask what they may do
_LEVEL = {
    "apiVersion": _API.removeprefix("/apis/"),
    "kind": "PriorityLevelConfiguration",
    "metadata": {"name": _NAME},
    "spec": {
        "type": "Limited",
        "limited": {
            "nominalConcurrencyShares": 0,
            "lendablePercent": 0,
            "borrowingLimitPercent": 0,
            "limitResponse": {"type": "Reject"},
        },
    },
}


def _flow(service_account: str, groups: list[str]) -> Mapping[str, Any]:
    who = {"kind": "ServiceAccount", "serviceAccount": {"name": service_account, "namespace": "exeunt"}}
    what = {"verbs": ["*"], "apiGroups": groups, "resources": ["*"], "namespaces": ["*"], "clusterScope": True}
    return {
        "apiVersion": _LEVEL["apiVersion"],
        "kind": "FlowSchema",
        "metadata": {"name": _NAME},
        "spec": {
            "priorityLevelConfiguration": {"name": _NAME},
            "matchingPrecedence": 2,  # the first after "exempt"
            "rules": [{"subjects": [who], "resourceRules": [what]}],
        },
    }


@asynccontextmanager
async def throttled(control_plane: ControlPlane, folder: Path, service: str, kind: Kind) -> AsyncIterator[None]:
    """No request of `service` for the API group of `kind` is served meanwhile; a minute at the most."""
    account = f"exeunt-{service}"
    await control_plane.kubeconfig_for(account, "exeunt", folder=folder)
    admin = json.loads(control_plane.kubeconfig.read_text())["users"][0]["user"]["token"]
    tls = ssl.create_default_context(cafile=control_plane.ca)
    async with (
        _session(control_plane, tls, admin) as http_of_admin,
        _session(control_plane, tls, (folder / f"{account}.token").read_text()) as http,
    ):
        await control_plane.apply(_LEVEL, _flow(account, [kind.group, _REVIEWS]))
        async with http_of_admin.get(f"{_API}/prioritylevelconfigurations/{_NAME}") as response:
            level = (await response.json())["metadata"]["uid"]
        # The kube-apiserver learns of its own configuration by a watch: a seat taken earlier is one of another level.
        await _wait_until(lambda answer: answer.headers["X-Kubernetes-PF-PriorityLevel-UID"] == level, http, kind)
        holding = asyncio.create_task(_hold_the_seat(http))
        try:
            await _wait_until(lambda answer: answer.status == 429, http, kind)
            yield
        finally:
            holding.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await holding
            for plural in ("flowschemas", "prioritylevelconfigurations"):
                (await http_of_admin.delete(f"{_API}/{plural}/{_NAME}")).raise_for_status()


def _session(control_plane: ControlPlane, tls: ssl.SSLContext, token: str) -> aiohttp.ClientSession:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return aiohttp.ClientSession(
        control_plane.url,
        connector=aiohttp.TCPConnector(ssl=tls),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=60),
    )


async def _hold_the_seat(http: aiohttp.ClientSession) -> None:
    """A request whose body does not come. It is tried again when it is refused itself: another was not over yet."""

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.get_running_loop().create_future()

    # Go's server reads the rest of a short body before it passes on a refusal, of a long one it does not.
    promised = {"Content-Length": "1000000"}
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with http.post(f"/apis/{_REVIEWS}/v1/selfsubjectaccessreviews", data=endless(), headers=promised):
                pass
        await asyncio.sleep(0.01)


async def _wait_until(holds: Callable[[aiohttp.ClientResponse], bool], http: aiohttp.ClientSession, kind: Kind) -> None:
    async with asyncio.timeout(30):
        while True:
            async with http.get(kind.path(None), params={"limit": "1"}) as response:
                if holds(response):
                    return
            await asyncio.sleep(0.02)
