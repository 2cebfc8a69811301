"""The sweep of the timeout-scheduler, when a dependency is away. What it mends is in tests/mesh."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from math import inf
from typing import Never, cast

import pytest

from actors.kubernetes import STORY, STORY_RUN, Kubernetes
from actors.names import CANCEL_OBSERVED_AT
from actors.statuses import now
from exeunt.bus.connection import connect
from exeunt.kube.client import KubeClient
from exeunt.kube.errors import ApiUnavailable
from exeunt.settings import Settings
from exeunt_local.control_plane import ControlPlane
from exeunt_local.processes import free_port
from exeunt_timeout_scheduler.calls import Calls
from exeunt_timeout_scheduler.sweep import Sweep

Until = Callable[..., Awaitable[None]]


@pytest.fixture
async def canceled(kubernetes: Kubernetes, namespace: str) -> AsyncIterator[None]:
    """More canceled runs than are looked after at once."""
    await kubernetes.create(
        STORY, namespace, "story", {"pattern": "realtime", "steps": [{"name": "a", "ref": {"name": "a"}}]}
    )
    names = [f"call-{number}" for number in range(40)]
    spec = {"storyRef": {"name": "story"}, "cancelRequested": True}
    await asyncio.gather(
        *(
            kubernetes.create(STORY_RUN, namespace, name, spec, annotations={CANCEL_OBSERVED_AT: now()})
            for name in names
        )
    )
    yield
    await asyncio.gather(*(kubernetes.delete(STORY_RUN, namespace, name) for name in names))


@pytest.mark.usefixtures("canceled")
async def test_a_sweep_gives_up_when_nats_is_away_and_does_not_wait_for_each_run(
    control_plane: ControlPlane, namespace: str, until: Until
) -> None:
    settings = Settings(namespaces=(namespace,), sweep_interval=timedelta(milliseconds=100))
    kube = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    nowhere = f"nats://127.0.0.1:{free_port()}"
    bus = await connect(nowhere, name="test", inbox_prefix="_INBOX_test", connect_timeout=1, patience=0)
    sweep = Sweep(kube, Calls(kube, bus, settings), settings)
    task = asyncio.create_task(sweep.run())
    try:
        began = asyncio.get_running_loop().time()
        await until(lambda: began <= sweep.last_progress < inf)
        # One request gives up after 5 s. It is not stuck, so /livez must not say that it is.
        await until(lambda: sweep.last_progress > began + 4, within=9)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await bus.close(budget=1)
        await kube.close()


@pytest.mark.parametrize("steps", range(12))
async def test_a_sweep_that_is_cancelled_as_it_fails_ends(steps: int) -> None:
    sweep = Sweep(_Away(steps), cast(Calls, None), Settings(namespaces=("team",)))
    task = asyncio.create_task(sweep.run())
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled()


class _Away(KubeClient):
    """A kube-apiserver that is away; whoever asks first is cancelled that many steps of the loop later."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    async def _request(self, *_: object, **__: object) -> Never:
        [sweeping] = (task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == "run")
        _soon(sweeping.cancel, self._steps)
        raise ApiUnavailable("nobody there")


def _soon(callback: Callable[[], object], steps: int) -> None:
    loop = asyncio.get_running_loop()
    if steps:
        loop.call_soon(_soon, callback, steps - 1)
    else:
        callback()
