"""Plays a team's admission webhook that is down: in its namespace every write of one service fails with 500."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from actors.kubernetes import STORY_RUN
from exeunt_local.control_plane import ControlPlane
from exeunt_local.processes import free_port

_API = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
_NAME = "broken"


@asynccontextmanager
async def writes_fail(control_plane: ControlPlane, namespace: str, run: str, service: str) -> AsyncIterator[None]:
    """`run` is one of that namespace, by which is seen that the kube-apiserver knows of the webhook."""
    await control_plane.apply(_webhook(namespace, f"system:serviceaccount:exeunt:exeunt-{service}"))
    token = json.loads(control_plane.kubeconfig.read_text())["users"][0]["user"]["token"]
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=control_plane.ca))
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(control_plane.url, connector=connector, headers=headers) as http:
        try:
            await _wait_until_failing(http, f"{STORY_RUN.path(namespace, run)}/status")
            yield
        finally:
            (await http.delete(f"{_API}/{_NAME}")).raise_for_status()


def _webhook(namespace: str, writer: str) -> dict[str, object]:
    what = {"apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["storyruns/status"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": _NAME},
        "webhooks": [
            {
                "name": "broken.example.com",
                "clientConfig": {"url": f"https://127.0.0.1:{free_port()}/"},
                "rules": [{"apiGroups": [STORY_RUN.group], **what}],
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "matchConditions": [
                    {"name": "asked", "expression": f"request.dryRun || request.userInfo.username == '{writer}'"}
                ],
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }


async def _wait_until_failing(http: aiohttp.ClientSession, path: str) -> None:
    merge = {"Content-Type": "application/merge-patch+json"}
    async with asyncio.timeout(30):
        while True:
            async with http.patch(path, params={"dryRun": "All"}, data=b"{}", headers=merge) as answer:
                if answer.status == 500:
                    return
            await asyncio.sleep(0.05)
