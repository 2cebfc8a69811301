"""What the first user of a local control plane does to its API: apply manifests, install CRDs, issue tokens.

Plain HTTP, since this is all that would otherwise need kubectl; kubernetes_asyncio would be slower and no less code
(ADR 8). The services of Exeunt do not use it: they have their own client, with the rights of their own ServiceAccounts.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml  # type: ignore[import-untyped]

from exeunt.errors import ExeuntError
from exeunt.net.tls import client_context

_FIELD_MANAGER = "exeunt-local"
_CRD_DEADLINE_SECONDS = 30
_TOKEN_SECONDS = 7 * 86_400  # a local mesh that is left running over a weekend still works on Monday


class RequestRefused(ExeuntError):
    """The kube-apiserver did not do what the admin asked; the message is the server's own."""


class KubernetesAdmin:
    """Requests to the kube-apiserver at `url` as the owner of `token`."""

    def __init__(self, url: str, *, ca: Path, token: str) -> None:
        self._url = url
        self._tls = client_context(str(ca))
        self._headers = {"Authorization": f"Bearer {token}"}

    async def apply(self, *manifests: Path | Mapping[str, Any]) -> None:
        """Server-side apply of every object, in the order given. Raises RequestRefused."""
        async with self._session() as http:
            for manifest in manifests:
                for document in _documents(manifest):
                    await _apply(http, document)

    async def install_crds(self, folder: Path) -> None:
        """Applies the CRDs, and waits until each kind is served. Raises RequestRefused, also after 30 s."""
        definitions = list(_documents(folder))
        async with self._session() as http:
            for definition in definitions:
                await _apply(http, definition)
            for definition in definitions:
                spec = definition["spec"]
                for version in spec["versions"]:
                    await _until_served(http, f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}")

    async def create_token(self, service_account: str, namespace: str) -> str:
        """A bearer token of that ServiceAccount (TokenRequest), valid for a week. Raises RequestRefused."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        async with self._session() as http:
            answer = await _send(http, "POST", path, {"spec": {"expirationSeconds": _TOKEN_SECONDS}})
        token: str = answer["status"]["token"]
        return token

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(ssl=self._tls)
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(
            self._url, connector=connector, headers=self._headers, timeout=timeout
        ) as http:
            yield http


def write_kubeconfig(path: Path, *, url: str, ca: Path, user: Mapping[str, str]) -> None:
    """A kubeconfig with one context, readable by its owner only. JSON is YAML too."""
    name = "exeunt-local"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": name, "user": dict(user)}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }
    write_private(path, json.dumps(content, indent=2))


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)


def _documents(manifest: Path | Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if isinstance(manifest, Mapping):
        yield manifest
        return
    files = sorted(manifest.glob("*.yaml")) if manifest.is_dir() else [manifest]
    if not files:
        raise FileNotFoundError(f"{manifest} holds no .yaml file")
    for file in files:
        yield from (document for document in yaml.safe_load_all(file.read_text()) if document)


async def _apply(http: aiohttp.ClientSession, document: Mapping[str, Any]) -> None:
    path = await _path_of(http, document)
    await _send(http, "PATCH", f"{path}?fieldManager={_FIELD_MANAGER}&force=true", document)


async def _path_of(http: aiohttp.ClientSession, document: Mapping[str, Any]) -> str:
    """The URL path of an object, from what the server says about its kind."""
    version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    kinds = (await _send(http, "GET", base))["resources"]
    found = next((entry for entry in kinds if entry["kind"] == kind and "/" not in entry["name"]), None)
    if found is None:
        raise RequestRefused(f"the server knows no kind {kind} in {version}: install its CRD first")
    if found["namespaced"]:
        base += f"/namespaces/{metadata.get('namespace', 'default')}"
    return f"{base}/{found['name']}/{metadata['name']}"


async def _until_served(http: aiohttp.ClientSession, path: str) -> None:
    """Lists the kind until that works: its condition Established comes a little before."""
    deadline = asyncio.get_running_loop().time() + _CRD_DEADLINE_SECONDS
    while True:
        try:
            await _send(http, "GET", f"{path}?limit=1")
        except RequestRefused:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.02)
        else:
            return


async def _send(
    http: aiohttp.ClientSession, method: str, path: str, body: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    content_type = "application/apply-patch+yaml" if method == "PATCH" else "application/json"
    data = None if body is None else json.dumps(body)
    async with http.request(method, path, data=data, headers={"Content-Type": content_type}) as response:
        if not response.ok:
            raise RequestRefused(f"{method} {path}: {response.status} {await response.text()}")
        answer: dict[str, Any] = await response.json()
    return answer
