"""Bare requests to the kube-apiserver, for floors and peers: one attempt each, on a plain session of aiohttp.

It imports nothing of Exeunt: a floor that got faster with the build that it is held against would be none.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import yaml  # type: ignore[import-untyped]

_LONGEST_LINE = 4 * 1024 * 1024
"""Bytes of one event of a watch."""


class Api(NamedTuple):
    """A session of the kube-apiserver, and what each request of it has in common."""

    session: aiohttp.ClientSession
    host: str
    headers: dict[str, str]

    @classmethod
    @asynccontextmanager
    async def connected(cls, kubeconfig: str | None = None) -> AsyncGenerator["Api", None]:
        """As the admin of a local control plane: that of `kubeconfig`, or of $KUBECONFIG."""
        file = Path(kubeconfig or os.environ["KUBECONFIG"])
        content = yaml.safe_load(await asyncio.to_thread(file.read_text))
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        connector = aiohttp.TCPConnector(ssl=tls, limit=0)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=_LONGEST_LINE) as session:
            yield cls(session, cluster["server"], {"Authorization": f"Bearer {user['token']}"})

    async def send(self, method: str, path: str, body: bytes | None = None, content_type: str = "") -> None:
        """One attempt; raises aiohttp.ClientError on anything but success."""
        headers = self.headers if body is None else {**self.headers, "Content-Type": content_type}
        url = f"{self.host}{path}"
        async with self.session.request(method, url, data=body, headers=headers, raise_for_status=True) as response:
            await response.read()
