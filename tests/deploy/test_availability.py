"""The production overlay while its parts are replaced, killed and given new credentials, and stops keep arriving."""

import asyncio
import itertools
import json
import logging
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError

from actors.call import Call
from actors.installation import DEPLOY, Install, Installation
from actors.kubernetes import Kubernetes
from actors.names import CANCEL_OBSERVED_AT
from actors.operator import Operator
from actors.recorder import Recorder, State
from actors.services import QUICK
from exeunt_local.mesh import SERVICES

log = logging.getLogger(__name__)

NAMESPACE_OF_CALLS = "livekit-voice"
EVERY = 0.5
"""Seconds from one stop to the next."""
A_BUSY_MACHINE = timedelta(seconds=2)
"""What starting processes on the same two cores may add to anything."""


LONGEST_RETRY = timedelta(seconds=5)
"""Between two tries of a service that had no answer from NATS."""
CONSUMERS = ("RUNS.terminator", "RUNS.timeout-scheduler", "DEADLINES.timeout-scheduler-due")


class Stop(NamedTuple):
    """A call that was canceled, and how long it may take from cancel_observed_at."""

    call: Call
    timeout: timedelta
    everyone_left: bool


class Stops:
    """Cancels calls, one after another, in every second of which everyone leaves and in the others nobody does."""

    def __init__(self, kubernetes: Kubernetes, recorder: Recorder, timeout: timedelta) -> None:
        self._kubernetes = kubernetes
        self._recorder = recorder
        self._timeout = timeout
        self._stops: list[Stop] = []

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as starting:
            for everyone_leaves in itertools.cycle([True, False]):
                starting.create_task(self._start(everyone_leaves=everyone_leaves))
                await asyncio.sleep(EVERY)

    async def _start(self, *, everyone_leaves: bool) -> None:
        timeout = timedelta(seconds=20) if everyone_leaves else self._timeout
        text = f"{timeout.total_seconds():g}s"
        name = f"call-{uuid.uuid4().hex[:8]}"
        call = await Call.start(self._kubernetes, NAMESPACE_OF_CALLS, name, shutdown_timeout=text)
        await call.cancel()
        if everyone_leaves:
            await call.signal_topology_terminated()
        self._stops.append(Stop(call, timeout, everyone_leaves))

    async def arrived(self, more: int) -> None:
        """Returns when so many more have been canceled."""
        wanted = len(self._stops) + more
        async with asyncio.timeout(30):
            while len(self._stops) < wanted:  # noqa: ASYNC110 - they arrive by the clock
                await asyncio.sleep(0.05)

    async def assert_all_ended_once_and_in_time(self, outage: datetime | None = None) -> None:
        """Of those that have arrived, and waits for the last of them.

        None may be late, but for deadlines before the end of an `outage` of NATS.
        """
        await self.arrived(max(0, 11 - len(self._stops)))  # or too few to say so
        stop_latency = lateness = timedelta(0)
        for stop in list(self._stops):
            run = await stop.call.wait_finished(within=30)
            await stop.call.wait_cleaned_up(within=15)
            deadline = datetime.fromisoformat(run["metadata"]["annotations"][CANCEL_OBSERVED_AT]) + stop.timeout
            end = await self._end_of(stop.call)
            assert (end.phase, end.written_by) == ("Finished", "exeunt-terminator")
            if stop.everyone_left:
                stop_latency = max(stop_latency, end.at - (deadline - stop.timeout))
            else:
                assert end.at >= deadline
                lateness = max(lateness, end.at - deadline)
            latest = max(deadline, outage + LONGEST_RETRY) if outage else deadline
            assert end.at <= latest + A_BUSY_MACHINE
        log.info("%d stops; longest %s, latest deadline %s", len(self._stops), stop_latency, lateness)

    async def _end_of(self, call: Call) -> State:
        """Its only end; what we have read of the run, the recorder may be yet to hear."""
        await self._recorder.wait_for(lambda: self._recorder.terminal_transitions(call.uid) != [])
        (end,) = self._recorder.terminal_transitions(call.uid)
        return end


@pytest.fixture(scope="module")
async def operator(kubernetes: Kubernetes) -> AsyncIterator[Operator]:
    async with Operator(kubernetes, requeue=0.2) as operator:
        yield operator


@asynccontextmanager
async def stops_arriving(kubernetes: Kubernetes, shutdown_timeout: timedelta) -> AsyncIterator[Stops]:
    """Stops arrive while the context is open."""
    async with Recorder(kubernetes, NAMESPACE_OF_CALLS) as recorder:
        stops = Stops(kubernetes, recorder, shutdown_timeout)
        arriving = asyncio.create_task(stops.run())
        try:
            yield stops
        finally:
            arriving.cancel()
            await asyncio.wait({arriving})


@pytest.mark.usefixtures("operator")
async def test_a_rolling_update_loses_nothing(install: Install, kubernetes: Kubernetes) -> None:
    """As the Deployments ask for it: a new one first, and an old one goes when the new one is ready."""
    async with install(DEPLOY / "overlays" / "evaluation") as installation:
        for instance in range(2):
            await installation.start_all(instance, **QUICK)
        async with stops_arriving(kubernetes, timedelta(seconds=2)) as stops:
            for service in SERVICES:
                for old in range(2):
                    await installation.start(service, old + 2, **QUICK)
                    assert await installation.mesh.stop(service, old, within=25) == 0
            await stops.assert_all_ended_once_and_in_time()


@pytest.mark.usefixtures("operator")
async def test_losing_the_leader_of_the_stream_loses_nothing(install: Install, kubernetes: Kubernetes) -> None:
    """NATS needs some seconds to elect another; what falls due meanwhile is late by them, and by nothing else."""
    async with install(DEPLOY / "overlays" / "production") as installation:
        await installation.start_all(0, **QUICK)
        async with administration(installation) as admin, stops_arriving(kubernetes, timedelta(seconds=3)) as stops:
            await stops.arrived(6)
            async with asyncio.timeout(20):
                while (info := await ask(admin, "STREAM.INFO.RUNS")) is None:
                    pass
            assert info["config"]["num_replicas"] == 3
            leader = installation.nats[int(info["cluster"]["leader"].removeprefix("nats-"))]
            await leader.kill()
            killed = datetime.now(UTC)
            await until_everything_is_led(admin)
            elected = datetime.now(UTC)
            log.info("leaders after %s", elected - killed)
            await leader.start()
            await stops.arrived(6)
            await stops.assert_all_ended_once_and_in_time(outage=elected)


@asynccontextmanager
async def administration(installation: Installation) -> AsyncIterator[Client]:
    """A connection to NATS as the admin."""
    client = await nats.connect(
        list(installation.nats_urls),
        tls=ssl.create_default_context(cafile=installation.credentials / "ca.crt"),
        nkeys_seed=str(installation.credentials / "admin.seed"),
        reconnect_time_wait=0.1,
    )
    yield client
    await client.close()


async def ask(admin: Client, call: str) -> Any:
    """One call of the JetStream API; None when nobody answers it now."""
    try:
        return json.loads((await admin.request(f"$JS.API.{call}", timeout=0.5)).data)
    except NatsError:
        return None


async def until_everything_is_led(admin: Client) -> None:
    """Only leaders answer."""
    calls = ["STREAM.INFO.RUNS", "STREAM.INFO.DEADLINES", *(f"CONSUMER.INFO.{consumer}" for consumer in CONSUMERS)]
    async with asyncio.timeout(40):
        while not all([await ask(admin, call) for call in calls]):  # noqa: ASYNC110 - elections send no event
            await asyncio.sleep(0.05)
