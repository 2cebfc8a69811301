"""Whom a kube-apiserver takes somebody for: us, and kubectl with the same environment."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

from exeunt.kube.connection import Call, Connection
from exeunt.kube.credentials import Credentials
from exeunt.kube.resources import Resource
from exeunt.run.models import KubeObject

WHO: Resource[Any] = Resource("authentication.k8s.io", "v1", "selfsubjectreviews", KubeObject)
KUBECTL = Path(sys.executable).parent / "kubectl"


async def ours() -> dict[str, Any]:
    """Whom the server takes us for, by the same environment as kubectl's."""
    credentials = Credentials.find(None)
    await credentials.refresh()
    return await who(credentials)


async def who(credentials: Credentials) -> dict[str, Any]:
    connection = Connection(credentials)
    body = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()
    try:
        response = await connection.open(Call("create", WHO, None, body=body), aiohttp.ClientTimeout(total=10))
        async with response:
            return json.loads(await response.read())["status"]["userInfo"]  # type: ignore[no-any-return]
    finally:
        await connection.close()


async def kubectl() -> dict[str, Any] | None:
    """The same of kubectl, or None when it refuses."""
    process = await asyncio.create_subprocess_exec(
        *(KUBECTL, "auth", "whoami", "-o", "json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        output, message = await process.communicate()
    if process.returncode:
        print(message.decode())  # noqa: T201 - for whoever reads why a test failed
    return None if process.returncode else json.loads(output)["status"]["userInfo"]


async def agreed() -> dict[str, Any]:
    """Whom both are taken for."""
    found, theirs = await ours(), await kubectl()
    assert found == theirs
    return found
