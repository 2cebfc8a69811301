"""The admin's own client: that of kubernetes_asyncio, which would send what is for loopback to $HTTPS_PROXY."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration


@asynccontextmanager
async def admin_client(kubeconfig: Path) -> AsyncIterator[ApiClient]:
    configuration = Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
    async with ApiClient(configuration) as client:
        client.rest_client.pool_manager._trust_env = False
        yield client
