"""Records the golden histories in tests/histories: `make histories` plays each case on the real parts and exports it.

Kubernetes, NATS and the three services are real processes; the user, the hub and the operator are played (`actors`).
`tests/core/test_histories.py` decides them all again. Record anew only after a deliberate change of the rules or of
what events carry, and look at the difference first: `exeunt replay FILE --check`.

    python tests/record_histories.py [CASE ...]

Histories of released schema versions, in tests/histories/released, are never recorded again.
"""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import nats

from actors import hub
from actors.admin import admin_client
from actors.bystander import Bystander
from actors.call import Call
from actors.kubernetes import STORY_RUN, Kubernetes, Refused
from actors.names import CANCEL_OBSERVED_AT
from actors.operator import Operator
from actors.services import QUICK, start_all
from actors.tcp_proxy import TcpProxy
from exeunt.bus.connection import connect
from exeunt.events.event_types import EventType
from exeunt.history.file import write_history
from exeunt.history.reading import read, run_filter
from exeunt_local import BASE, CRDS, binaries
from exeunt_local.control_plane import ControlPlane
from exeunt_local.mesh import Mesh
from exeunt_local.nats_server import NatsServer

FOLDER: Final = Path(__file__).parent / "histories"
NAMESPACE: Final = "livekit-voice"
SETTINGS: Final = {"EXEUNT_SHUTDOWN_TIMEOUT": "900ms", "EXEUNT_FENCE_WAIT": "1s"}
TIMEOUT: Final = "exeunt.bubustack.io/shutdown-timeout"
ENABLED: Final = "exeunt.bubustack.io/enabled"
PATIENT: Final = "10s"
"""A shutdown timeout that no case waits for."""


@dataclass(frozen=True)
class Stage:
    """Everything that cases are played on."""

    control_plane: ControlPlane
    kubernetes: Kubernetes
    nats_url: str
    mesh: Mesh
    bystander: Bystander
    folder: Path

    async def call(self, name: str, **options: Any) -> Call:
        return await Call.start(self.kubernetes, NAMESPACE, name, **{"shutdown_timeout": PATIENT, **options})

    async def waiting(self, call: Call) -> None:
        """Returns when the terminator has heard of the cancel, and waits."""
        await self.bystander.wait_until_answered(call.uid, EventType.CANCEL_REQUESTED)

    @asynccontextmanager
    async def without_terminator(self) -> AsyncIterator[None]:
        """What is published meanwhile is answered afterwards."""
        await self.mesh.stop("terminator")
        try:
            yield
        finally:
            await self.mesh.start("terminator", 0, **{**QUICK, **SETTINGS})

    @asynccontextmanager
    async def terminator_behind_a_proxy(self) -> AsyncIterator[TcpProxy]:
        """Its way to the kube-apiserver leads over a proxy; afterwards it is another process with a straight way."""
        await self.mesh.stop("terminator")
        account = await self.control_plane.kubeconfig_for("exeunt-terminator", "exeunt", folder=self.folder)
        async with TcpProxy(int(self.control_plane.url.rpartition(":")[2])) as proxy:
            text = account.read_text().replace(self.control_plane.url, f"https://127.0.0.1:{proxy.port}")
            account.write_text(text)
            await self.mesh.start("terminator", 0, **{**QUICK, **SETTINGS}, KUBECONFIG=str(account))
            try:
                yield proxy
            finally:
                await self.mesh.stop("terminator")
        await self.mesh.start("terminator", 0, **{**QUICK, **SETTINGS})

    async def finished(self, call: Call) -> None:
        """Returns when the run is over, and everybody has had their say."""
        await call.wait_finished()
        await call.wait_cleaned_up()
        cancel_observed_at = (await call.get())["metadata"].get("annotations", {}).get(CANCEL_OBSERVED_AT)
        await self.bystander.wait_for_event(call.uid, EventType.RUN_TERMINAL, cancel_observed_at=cancel_observed_at)
        await self.bystander.wait_until_idle()


Case = Callable[[Stage, str], Awaitable[Call]]
"""Plays a stop of the run of that name to its end."""

OBSERVED_CANCEL: Final[dict[str, Case]] = {}
UNOBSERVED: Final[dict[str, Case]] = {}


def case(play: Case) -> Case:
    """A case for an operator that observes the cancel."""
    OBSERVED_CANCEL[play.__name__.replace("_", "-")] = play
    return play


def unobserved_case(play: Case) -> Case:
    """A case for an operator that never comes to it."""
    UNOBSERVED[play.__name__.replace("_", "-")] = play
    return play


@case
async def cancel_then_gone(stage: Stage, name: str) -> Call:
    """The call of bobrapet #87: canceled, and then everyone leaves."""
    call = await stage.call(name)
    await call.cancel()
    await stage.waiting(call)
    await call.signal_topology_terminated()
    await stage.finished(call)
    return call


@case
async def gone_then_cancel(stage: Stage, name: str) -> Call:
    """Everyone has left before anyone asks for the cancel."""
    call = await stage.call(name)
    await call.lose_bindings()
    await stage.bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    await call.cancel()
    await stage.finished(call)
    return call


async def _at_its_deadline(stage: Stage, name: str, **options: Any) -> Call:
    call = await stage.call(name, **options)
    await call.cancel()
    await stage.finished(call)
    return call


@case
async def deadline_run_annotation(stage: Stage, name: str) -> Call:
    """Nobody leaves; the run's own annotation says when it ends."""
    return await _at_its_deadline(stage, name, annotations={TIMEOUT: "700ms"}, story_annotations={TIMEOUT: PATIENT})


@case
async def deadline_story_annotation(stage: Stage, name: str) -> Call:
    """Nobody leaves; an annotation of the Story says when it ends."""
    return await _at_its_deadline(stage, name, story_annotations={TIMEOUT: "700ms"})


@case
async def deadline_story_policy(stage: Stage, name: str) -> Call:
    """Nobody leaves; the Story's gracefulShutdownTimeout says when it ends."""
    return await _at_its_deadline(stage, name, shutdown_timeout="700ms")


@case
async def deadline_default(stage: Stage, name: str) -> Call:
    """Nobody leaves, and what the Story says cannot be used: the service's default says when it ends."""
    return await _at_its_deadline(stage, name, shutdown_timeout="soon")


@case
async def opted_out(stage: Stage, name: str) -> Call:
    """The run is left to bobrapet, whose drain window is short here."""
    call = await stage.call(name, annotations={ENABLED: "false"}, drain=1)
    await call.cancel()
    await stage.waiting(call)
    await stage.finished(call)
    return call


@case
async def racing(stage: Stage, name: str) -> Call:
    """The deadline and the end of the topology come together; one of them ends the run."""
    call = await stage.call(name, shutdown_timeout="500ms")
    async with stage.without_terminator():
        await call.cancel()
        await stage.bystander.wait_for_event(call.uid, EventType.DEADLINE_REACHED)
        await call.lose_bindings()
        await stage.bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
    await stage.finished(call)
    return call


@case
async def redriven(stage: Stage, name: str) -> Call:
    """The same run is stopped, redriven as a call again, and stopped a second time."""
    call = await stage.call(name)
    await call.cancel()
    await stage.waiting(call)
    await call.lose_bindings()
    await stage.finished(call)
    await call.redrive(uncancel=True)
    await call.cancel()
    await call.wait_until(lambda run: CANCEL_OBSERVED_AT in run["metadata"].get("annotations", {}))
    await call.lose_bindings()
    await stage.finished(call)
    return call


@case
async def deleted_mid_stop(stage: Stage, name: str) -> Call:
    """The StoryRun is deleted while its stop waits for the topology."""
    call = await stage.call(name)
    await call.cancel()
    await stage.waiting(call)
    await call.delete()
    await call.wait_deleted()
    await stage.bystander.wait_for_event(call.uid, EventType.RUN_DELETED)
    await stage.bystander.wait_until_idle()
    return call


@case
async def deleted_meanwhile(stage: Stage, name: str) -> Call:
    """The StoryRun is deleted between the event and the write."""
    call = await stage.call(name)
    async with stage.without_terminator():
        await call.cancel()
        await call.signal_topology_terminated()
        await stage.bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
        await call.delete()
        await call.wait_deleted()
    await stage.bystander.wait_for_event(call.uid, EventType.RUN_DELETED)
    await stage.bystander.wait_until_idle()
    return call


@case
async def recreated_meanwhile(stage: Stage, name: str) -> Call:
    """Deleted, and made anew under its name: the new run is another one, and goes on."""
    call = await stage.call(name)
    async with stage.without_terminator():
        await call.cancel()
        await call.signal_topology_terminated()
        await stage.bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
        await call.delete()
        await call.wait_deleted()
        another = await stage.call(name, story=call.story)
    await stage.bystander.wait_for_event(another.uid, EventType.TOPOLOGY_ESTABLISHED)
    await stage.bystander.wait_until_idle()
    return call


@case
async def redriven_meanwhile(stage: Stage, name: str) -> Call:
    """Redriven and canceled again between the event and the write: the old event does not end the new cancellation."""
    call = await stage.call(name)
    async with stage.without_terminator():
        await call.cancel()
        await call.lose_bindings()
        await stage.bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
        await call.redrive(uncancel=True)
        await call.cancel()
        run = await call.wait_until(lambda run: CANCEL_OBSERVED_AT in run["metadata"].get("annotations", {}))
        cancel_observed_at = run["metadata"]["annotations"][CANCEL_OBSERVED_AT]
        await stage.bystander.wait_for_event(
            call.uid, EventType.CANCEL_REQUESTED, cancel_observed_at=cancel_observed_at
        )
    await stage.bystander.wait_until_answered(
        call.uid, EventType.CANCEL_REQUESTED, cancel_observed_at=cancel_observed_at
    )
    await call.lose_bindings()
    await stage.finished(call)
    return call


@case
async def ended_by_bobrapet(stage: Stage, name: str) -> Call:
    """A drain window that is shorter than the shutdown timeout: bobrapet has ended the run when the write comes."""
    call = await stage.call(name, drain=1)
    async with stage.without_terminator():
        await call.cancel()
        await call.wait_finished()
        await stage.bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
    await stage.finished(call)
    return call


@case
async def condition_lost(stage: Stage, name: str) -> Call:
    """The run has changed under the terminator's decision: its write is refused, it reads again and writes again."""
    call = await stage.call(name)
    async with stage.without_terminator():
        await call.cancel()
        await call.signal_topology_terminated()
        await stage.bystander.wait_for_event(call.uid, EventType.TOPOLOGY_TERMINATED)
        conditions = (await call.get())["status"]["conditions"]
        message = {"conditions": [{**conditions[0], "message": "still talking"}, *conditions[1:]]}
        await stage.kubernetes.acting_as("bobrapet").patch_status(STORY_RUN, NAMESPACE, name, message)
    await stage.finished(call)
    return call


@case
async def late_step_run(stage: Stage, name: str) -> Call:
    """The hub makes a StepRun when the run is over already: the watcher tells, and it is deleted."""
    call = await stage.call(name)
    await call.cancel()
    await stage.waiting(call)
    await call.signal_topology_terminated()
    await call.wait_finished()
    await hub.create_step_run(stage.kubernetes, NAMESPACE, name, "late")
    await stage.bystander.wait_for_outcome(call.uid, EventType.STEP_RUNS_LEFT)
    await stage.finished(call)
    return call


@case
async def signaled(stage: Stage, name: str) -> Call:
    """Somebody who may says that everyone has left, and nothing else does."""
    call = await stage.call(name)
    await call.cancel()
    await stage.waiting(call)
    headers = {
        "ce-specversion": "1.0",
        "ce-id": name,
        "ce-source": "/livekit/rooms",
        "ce-type": "io.bubustack.exeunt.topology-gone.v1",
        "ce-time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }
    body = msgspec.json.encode({"namespace": NAMESPACE, "name": name, "detail": "room_finished"})
    async with await nats.connect(stage.nats_url) as connection:
        await connection.jetstream().publish(f"exeunt.signals.{NAMESPACE}.{name}", body, headers=headers)
    await stage.finished(call)
    return call


@case
async def crashed_terminator(stage: Stage, name: str) -> Call:
    """The terminator dies after its write, before it has deleted a StepRun: the next one finds the run finished."""
    call = await stage.call(name)
    async with stage.terminator_behind_a_proxy() as proxy:
        await call.cancel()
        await stage.waiting(call)
        proxy.go_silent()
        await call.signal_topology_terminated()
        await call.wait_finished()
        await stage.mesh.kill("terminator")
    await stage.finished(call)
    return call


@case
async def answer_lost(stage: Stage, name: str) -> Call:
    """The write arrives and its answer does not: tried again, it has lost its condition to itself."""
    call = await stage.call(name)
    async with stage.terminator_behind_a_proxy() as proxy:
        await call.cancel()
        await stage.waiting(call)
        proxy.lose_next_answer()
        await call.signal_topology_terminated()
        await stage.bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    await stage.finished(call)
    return call


@case
async def dead_letter(stage: Stage, name: str) -> Call:
    """The cluster's admission refuses the write for good: the event is set aside, and bobrapet ends the run."""
    await stage.control_plane.apply(*_refusing(name))
    canary = await stage.call("canary")
    async with asyncio.timeout(30):
        while not await _is_refused(canary):  # noqa: ASYNC110 - the kube-apiserver picks policies up when it likes
            await asyncio.sleep(0.1)
    call = await stage.call(name, drain=2)
    await call.cancel()
    await stage.waiting(call)
    await call.signal_topology_terminated()
    await stage.bystander.wait_for_outcome(call.uid, EventType.TOPOLOGY_TERMINATED)
    await stage.finished(call)
    return call


def _refusing(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A policy by which the terminator may not write the status of that run, nor anybody let the canary sing."""
    rule = {
        "apiGroups": ["runs.bubustack.io"],
        "apiVersions": ["*"],
        "operations": ["UPDATE"],
        "resources": ["storyruns/status"],
    }
    refused = (
        f"(object.metadata.name == '{name}' && request.userInfo.username.contains('exeunt-terminator'))"
        " || (object.metadata.name == 'canary' && object.status.?message.orValue('') == 'sing')"
    )
    metadata = {"name": "only-bobrapet-may"}
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": metadata,
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": f"!({refused})", "message": "only bobrapet may", "reason": "Invalid"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": metadata,
        "spec": {"policyName": metadata["name"], "validationActions": ["Deny"]},
    }
    return policy, binding


async def _is_refused(canary: Call) -> bool:
    try:
        await canary.kubernetes.patch_status(STORY_RUN, canary.namespace, canary.name, {"message": "sing"})
    except Refused:
        return True
    return False


@case
async def overdue_again(stage: Stage, name: str) -> Call:
    """Nobody answers the deadline for so long that the sweep says it once more; the run still ends once."""
    sweeping = {"EXEUNT_SWEEP_INTERVAL": "500ms", "EXEUNT_OVERDUE_AFTER": "1s"}
    call = await stage.call(name, shutdown_timeout="200ms")
    await stage.mesh.stop("timeout-scheduler")
    await stage.mesh.start("timeout-scheduler", 0, **{**QUICK, **SETTINGS, **sweeping})
    async with stage.without_terminator():
        await call.cancel()
        async with asyncio.timeout(10):
            while (await stage.bystander.event_types(call.uid)).count(EventType.DEADLINE_REACHED) < 2:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.05)
    await stage.mesh.stop("timeout-scheduler")
    await stage.mesh.start("timeout-scheduler", 0, **{**QUICK, **SETTINGS})
    await stage.finished(call)
    return call


@unobserved_case
async def unobserved(stage: Stage, name: str) -> Call:
    """bobrapet never observes the cancel: Exeunt waits for it as long as it grants, and then goes on without."""
    call = await stage.call(name)
    await call.cancel()
    await call.signal_topology_terminated()
    # Nobody takes StepRuns down here, so "finished" is the end of it.
    await call.wait_finished()
    await stage.bystander.wait_for_event(call.uid, EventType.RUN_TERMINAL)
    await stage.bystander.wait_until_idle()
    return call


async def record(stage: Stage, name: str, play: Case) -> None:
    """Play one case and write its history."""
    call = await play(stage, name)
    bus = await connect(stage.nats_url, name="record", inbox_prefix="_INBOX_record", connect_timeout=5)
    try:
        records = [record async for record in read(bus, run_filter(call.namespace, call.name))]
    finally:
        await bus.close(1)
    lines = write_history(records, run=f"{call.namespace}/{call.name}", now=datetime.now(UTC))
    (FOLDER / f"{name}.jsonl").write_bytes(b"".join(lines))
    sys.stdout.write(f"{name}: {len(records)} events\n")


async def main(wanted: list[str]) -> None:
    """Set the stage, play what is wanted (everything, when nothing is named), and clear it away."""
    servers = await binaries.prepare()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exeunt-histories-")))
        enter = stack.enter_async_context
        control_plane = await enter(ControlPlane(folder / "kubernetes", binaries=servers))
        nats_server = await enter(NatsServer(folder / "nats", binary=servers.nats_server))
        await control_plane.install_crds(CRDS)
        await control_plane.apply(BASE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        kubernetes = Kubernetes(await enter(admin_client(control_plane.kubeconfig)))
        mesh = await enter(Mesh(folder / "services", control_plane=control_plane, nats_url=nats_server.url))
        await start_all(mesh, 0, **SETTINGS)
        bystander = await enter(Bystander(nats_server.url))
        stage = Stage(control_plane, kubernetes, nats_server.url, mesh, bystander, folder)
        for cases, cancel_observed_at in ((OBSERVED_CANCEL, True), (UNOBSERVED, False)):
            async with Operator(kubernetes, requeue=0.2, cancel_observed_at=cancel_observed_at):
                for name, play in cases.items():
                    if not wanted or name in wanted:
                        await record(stage, name, play)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
