"""Each NATS user may say what it says, and nothing else; whoever is no user gets nowhere; and errors say so."""

import asyncio
import base64
import contextlib
import os
import re
import signal
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import nats
import pytest
import yaml  # type: ignore[import-untyped]
from nats.aio.client import Client
from nats.errors import Error as NatsError

from actors.call import Call
from actors.hub import create_step_run
from actors.installation import DEPLOY, NAMESPACE, Install, Installation, Object, with_components
from actors.kubernetes import STORY, Kubernetes
from actors.livekit_room import LiveKitRoom
from actors.names import TRIGGER_TOKEN
from actors.operator import Operator
from actors.services import QUICK
from actors.signaling import send
from exeunt.run.bobrapet import SHUTDOWN_TIMEOUT
from exeunt_local.binaries import find_livekit
from exeunt_local.livekit_server import LiveKitServer
from exeunt_local.mesh import SERVICES
from exeunt_local.processes import ProcessFailed, free_port

RUN = "livekit-voice.call.3f0c6f3e-0001.2026-11-24T18:13:32_1Z"
ROOM = "_trigger_token.RM_cZbbficGvDFB"
STREAMS = ("RUNS", "DEADLINES", "SIGNALS", "DEADLETTERS")
ASKED_WHEN_OVERDUE = "$JS.API.DIRECT.GET.RUNS.exeunt.runs.*.*.*.*.deadline-reached"


def acks(consumer: str) -> set[str]:
    """Of a message of it, without and with nats-server's feature flag js_ack_fc_v2."""
    return {f"$JS.ACK.{consumer}.1.1.1.1.1.0", f"$JS.ACK._.NUmM6cRx.{consumer}.1.1.1.1.1.0"}


BACKLOGS = {
    f"$JS.API.CONSUMER.INFO.{consumer}"
    for consumer in (
        "SIGNALS.watcher-signals",
        "RUNS.terminator",
        "RUNS.timeout-scheduler",
        "DEADLINES.timeout-scheduler-due",
        "LIVEKIT.livekit-bridge",
    )
}
MAY_PUBLISH = {
    "watcher": {
        *(f"exeunt.runs.{RUN}.{event_type}" for event_type in (
            "cancel-requested", "topology-established", "topology-terminated", "run-terminal", "run-deleted",
            "step-runs-left",
        )),
        "exeunt.unstored",
        "exeunt.deadletters.watcher-signals",
        *(f"$JS.API.STREAM.{call}.{stream}" for call in ("INFO", "CREATE") for stream in STREAMS),
        "$JS.API.DIRECT.GET.RUNS",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.topology-established",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.cancel-requested",
        *(f"$JS.API.CONSUMER.{call}.SIGNALS.{consumer}" for call in ("INFO", "CREATE", "MSG.NEXT") for consumer in (
            "watcher-signals", "watcher-signals-follower-0123abcd",
        )),
        *BACKLOGS,
        *acks("SIGNALS.watcher-signals"),
        *acks("SIGNALS.watcher-signals-follower-0123abcd"),
    },
    "terminator": {
        *(f"exeunt.runs.{RUN}.{event_type}" for event_type in (
            "cancel-requested", "topology-terminated", "deadline-reached", "step-runs-left",
        )),
        f"exeunt.runs.{RUN}.outcome.cancel-requested",
        "exeunt.deadletters.terminator",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.outcome.cancel-requested",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.topology-established",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.cancel-requested",
        "$JS.API.DIRECT.GET.SIGNALS.exeunt.signals.livekit-voice.call",
        f"$JS.API.DIRECT.GET.SIGNALS.exeunt.signals.{ROOM}",
        *(f"$JS.API.STREAM.{call}.{stream}" for call in ("INFO", "CREATE") for stream in STREAMS),
        *(f"$JS.API.CONSUMER.{call}.RUNS.terminator" for call in ("INFO", "CREATE", "MSG.NEXT")),
        *BACKLOGS,
        *acks("RUNS.terminator"),
    },
    "timeout-scheduler": {
        f"exeunt.runs.{RUN}.deadline-reached",
        f"exeunt.deadlines.armed.{RUN}",
        f"exeunt.deadlines.due.{RUN}",
        "exeunt.unstored",
        "exeunt.deadletters.timeout-scheduler",
        "exeunt.deadletters.timeout-scheduler-due",
        *(f"$JS.API.STREAM.{call}.{stream}" for call in ("INFO", "CREATE") for stream in STREAMS),
        f"$JS.API.DIRECT.GET.DEADLINES.exeunt.deadlines.armed.{RUN}",
        "$JS.API.STREAM.PURGE.DEADLINES",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.deadline-reached",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.cancel-requested",
        *(f"$JS.API.CONSUMER.{call}.RUNS.timeout-scheduler" for call in ("INFO", "CREATE", "MSG.NEXT")),
        *(f"$JS.API.CONSUMER.{call}.DEADLINES.timeout-scheduler-due" for call in ("INFO", "CREATE", "MSG.NEXT")),
        *BACKLOGS,
        *acks("RUNS.timeout-scheduler"),
        *acks("DEADLINES.timeout-scheduler-due"),
    },
    "livekit-bridge": {
        f"exeunt.signals.{ROOM}",
        "exeunt.livekit.rooms.RM_cZbbficGvDFB",
        "$JS.API.STREAM.INFO.LIVEKIT",
        "$JS.API.STREAM.CREATE.LIVEKIT",
        f"$JS.API.DIRECT.GET.SIGNALS.exeunt.signals.{ROOM}",
        *(f"$JS.API.CONSUMER.{call}.LIVEKIT.livekit-bridge" for call in ("INFO", "CREATE", "MSG.NEXT")),
        *acks("LIVEKIT.livekit-bridge"),
    },
    "topology-signals": {"exeunt.signals.livekit-voice.call", f"exeunt.signals.{ROOM}"},
    "reader": {
        "$JS.API.STREAM.INFO.RUNS",
        "$JS.API.STREAM.INFO.DEADLETTERS",
        "$JS.API.DIRECT.GET.RUNS",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.topology-established",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.topology-terminated",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.deadline-reached",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.cancel-requested",
        f"$JS.API.DIRECT.GET.RUNS.exeunt.runs.{RUN}.outcome.cancel-requested",
        "$JS.API.DIRECT.GET.DEADLETTERS",
        "$JS.API.DIRECT.GET.SIGNALS.exeunt.signals.livekit-voice.call",
        f"$JS.API.DIRECT.GET.SIGNALS.exeunt.signals.{ROOM}",
    },
}  # fmt: skip
NOBODYS = {
    "anything.else",
    f"exeunt.runs.{RUN}.no-such-fact",
    "exeunt.deadletters.somebody",
    "exeunt.deadletters.livekit-bridge",
    "exeunt.livekit.others.RM_cZbbficGvDFB",
    "_INBOX_exeunt_watcher.x.y",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.CREATE.OTHER",
    *(
        f"$JS.API.STREAM.{call}.{stream}"
        for call in ("UPDATE", "DELETE", "MSG.GET", "MSG.DELETE")
        for stream in (*STREAMS, "LIVEKIT")
    ),
    *(f"$JS.API.STREAM.PURGE.{stream}" for stream in (*STREAMS, "LIVEKIT") if stream != "DEADLINES"),
    *(f"$JS.API.CONSUMER.{call}.RUNS.terminator" for call in ("DELETE", "PAUSE", "DURABLE.CREATE")),
    *(f"$JS.API.CONSUMER.{call}.LIVEKIT.livekit-bridge" for call in ("DELETE", "PAUSE", "DURABLE.CREATE")),
    "$JS.API.DIRECT.GET.SIGNALS",
    "$JS.API.CONSUMER.CREATE.RUNS",
    "$JS.API.CONSUMER.CREATE.RUNS.somebody",
    "$SYS.REQ.SERVER.PING",
}
EVERYTHING = NOBODYS.union(*MAY_PUBLISH.values())
INBOXES = {
    "watcher": "_INBOX_exeunt_watcher.x.*",
    "terminator": "_INBOX_exeunt_terminator.x.*",
    "timeout-scheduler": "_INBOX_exeunt_timeout_scheduler.x.*",
    "livekit-bridge": "_INBOX_exeunt_livekit_bridge.x.*",
    "topology-signals": "_INBOX_topology_signals.x.*",
    "reader": "_INBOX_exeunt.x.*",
}
MAY_HEAR = {user: {inbox} for user, inbox in INBOXES.items()}
MAY_HEAR["reader"] |= {"exeunt.runs.>"}
MAY_HEAR["terminator"] |= {"exeunt.unstored"}
EARS = {
    *INBOXES.values(), "_INBOX.x.*", "exeunt.runs.>", "exeunt.signals.>", "exeunt.livekit.>", "exeunt.unstored",
    "exeunt.>", ">", "$JS.EVENT.ADVISORY.>",
}  # fmt: skip


@pytest.fixture(scope="module")
async def installation(install: Install) -> AsyncIterator[Installation]:
    async with install(DEPLOY / "overlays" / "evaluation", trace=True) as installation:
        yield installation


@asynccontextmanager
async def connected(installation: Installation, user: str, inbox_prefix: str = "_INBOX") -> AsyncIterator["Connection"]:
    connection = Connection()
    await connection.client.connect(
        installation.nats_urls[0],
        nkeys_seed=str(installation.credentials / f"{user}.seed"),
        tls=ssl.create_default_context(cafile=installation.credentials / "ca.crt"),
        error_cb=connection.on_error,
        inbox_prefix=inbox_prefix,
    )
    yield connection
    await connection.client.close()


class Connection:
    """A client that keeps what the server forbids it."""

    def __init__(self) -> None:
        self.client = Client()
        self._forbidden: list[str] = []
        self._changed = asyncio.Event()

    async def on_error(self, error: Exception) -> None:
        self._forbidden += re.findall(r'permissions violation for \w+ to "(.+)"', str(error))
        self._changed.set()

    async def forbidden(self, subjects: set[str]) -> set[str]:
        """Those of the subjects, all of them sent just now, that the server forbids."""
        last = f"forbidden.to.everybody.{uuid.uuid4()}"  # the server answers in order
        await self.client.publish(last, b"")
        async with asyncio.timeout(10):
            while last not in self._forbidden:
                self._changed.clear()
                await self._changed.wait()
        return {subject for subject in subjects if subject.lower() in self._forbidden}


@pytest.mark.parametrize("user", MAY_PUBLISH)
async def test_a_user_says_and_hears_its_own_and_no_more(installation: Installation, user: str) -> None:
    async with connected(installation, user) as connection:
        for subject in EVERYTHING:
            await connection.client.publish(subject, b"")
        assert EVERYTHING - await connection.forbidden(EVERYTHING) == MAY_PUBLISH[user]
    async with connected(installation, user) as connection:
        for subject in EARS:
            await connection.client.subscribe(subject)
        assert EARS - await connection.forbidden(EARS) == MAY_HEAR[user]


async def test_an_anonymous_client_and_a_stranger_get_nowhere(installation: Installation, tmp_path: Path) -> None:
    tls = ssl.create_default_context(cafile=installation.credentials / "ca.crt")
    stranger = tmp_path / "stranger.seed"
    stranger.write_text("SUAP4YS3PEMNS27TKRUQES74XZBZO3PWTDXLTV7RXLKDLGDSG4L5TYAZ6U")
    for who in ({}, {"nkeys_seed": str(stranger)}, {"user": "admin", "password": "admin"}, {"token": "admin"}):
        with pytest.raises(NatsError, match="Authorization Violation"):
            await nats.connect(
                installation.nats_urls[0], tls=tls, connect_timeout=10, allow_reconnect=False, error_cb=ignore, **who
            )
    with pytest.raises(ssl.SSLCertVerificationError):  # nor does anybody talk to a server that it cannot verify
        await nats.connect(installation.nats_urls[0], allow_reconnect=False, error_cb=ignore)


async def test_a_service_says_what_is_wrong_with_its_credentials(installation: Installation) -> None:
    """Before the tests that install once more: their Secrets take the place of these."""
    seed = {user: str(installation.credentials / f"{user}.seed") for user in SERVICES}
    unready = {
        "terminator": ({"EXEUNT_NATS_CREDENTIALS": ""}, "Authorization Violation"),
        "timeout-scheduler": ({"EXEUNT_NATS_TLS_CA": ""}, "CERTIFICATE_VERIFY_FAILED"),
    }
    async with asyncio.TaskGroup() as tasks:
        for service, (env, words) in unready.items():
            tasks.create_task(assert_unready(installation, service, env, words))
        anothers = installation.start("watcher", 7, EXEUNT_NATS_CREDENTIALS=seed["terminator"])
        tasks.create_task(assert_refuses(anothers))


async def assert_refuses(start: Awaitable[None]) -> None:
    with pytest.raises(ProcessFailed, match=r"(?s)exit code 2 .*permission denied for subject \$JS.API.STREAM.INFO"):
        await start


async def assert_unready(installation: Installation, service: str, env: dict[str, str], words: str) -> None:
    starting = asyncio.create_task(installation.start(service, 7, **env))
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            unavailable_reasons = ""
            while words not in unavailable_reasons:
                await asyncio.sleep(0.1)
                with contextlib.suppress(aiohttp.ClientError, KeyError):  # it does not listen yet
                    async with http.get(f"{installation.mesh.url(service, 7)}/readyz") as answer:
                        unavailable_reasons = await answer.text()
    finally:
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        await installation.mesh.kill(service, 7)
    assert "not connected to NATS" in unavailable_reasons


async def test_credentials_of_before_the_bridge_go_on_and_new_ones_let_it_in(install: Install) -> None:
    """Whoever updates the overlay first, or has no use for the bridge, has a users.conf that does not name it."""
    async with install(DEPLOY / "overlays" / "evaluation") as installation:
        new = installation.credentials / "livekit-bridge.seed"
        without_the_bridge(installation.credentials)
        await installation.apply_credentials()
        await installation.refresh_mounts()
        await installation.nats[0].stop()
        await installation.nats[0].start()
        async with connected(installation, "reader", "_INBOX_exeunt") as reader:
            await installation.start("watcher", 0, **QUICK)
            assert (await reader.client.jetstream().stream_info("RUNS")).config.name == "RUNS"

            await installation.renew_credentials()
            (secret,) = await installation.kubectl.get("secret", "exeunt-nats-livekit-bridge", "-n", NAMESPACE)
            assert base64.b64decode(secret["data"]["credentials"]) == new.read_bytes()
            await installation.refresh_mounts()
            assert installation.nats[0].pid is not None
            os.kill(installation.nats[0].pid, signal.SIGHUP)
            async with asyncio.timeout(30):
                while not await lets_in(installation, "livekit-bridge"):  # noqa: ASYNC110 - a reload sends no event
                    await asyncio.sleep(0.1)
            assert reader.client.is_connected
            assert reader.client.stats["reconnects"] == 0  # and nobody was sent away for it


def without_the_bridge(credentials: Path) -> None:
    """The folder as `exeunt nats-credentials` wrote it before there was a bridge."""
    (credentials / "livekit-bridge.seed").unlink()
    for name, words in (("users.conf", r"LIVEKIT_BRIDGE: .*\n"), ("kustomization.yaml", r".*livekit-bridge.*\n")):
        text = (credentials / name).read_text()
        (credentials / name).write_text(re.sub(words, "", text))
        assert (credentials / name).read_text() != text


async def lets_in(installation: Installation, user: str) -> bool:
    with contextlib.suppress(NatsError):
        async with connected(installation, user):
            return True
    return False


def test_nobody_can_sign_for_nobodys_key() -> None:
    (key,) = re.findall(r"^LIVEKIT_BRIDGE: (\w+)$", (DEPLOY / "nats" / "accounts.conf").read_text(), re.MULTILINE)
    assert not is_point(base64.b32decode(key)[1:33])
    generated = base64.b32decode("UCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZ45L")[1:33]
    assert is_point(generated)


def is_point(encoded: bytes) -> bool:
    """Whether it is a public key of Ed25519 (RFC 8032, 5.1.3): whether the curve has a point at this y."""
    prime = 2**255 - 19
    y = int.from_bytes(encoded, "little") % 2**255
    d = -121665 * pow(121666, -1, prime)
    squared = (y * y - 1) * pow(d * y * y + 1, -1, prime) % prime
    return squared == 0 or pow(squared, (prime - 1) // 2, prime) == 1


async def ignore(_: Exception) -> None:
    pass


async def test_what_is_allowed_is_what_is_published(install: Install, kubernetes: Kubernetes) -> None:
    """Every line of accounts.conf is needed: held against what the services say in stops of every kind."""
    async with (
        install(DEPLOY / "overlays" / "evaluation", trace=True) as installation,
        connected(installation, "admin") as admin,
        Operator(kubernetes, requeue=0.2),
    ):
        await make_the_streams(installation, admin.client)
        early = await Call.start(kubernetes, "livekit-voice", unique("early"))
        await early.lose_bindings()  # what was before, the watchers have to ask the stream
        stopping = await Call.start(kubernetes, "livekit-voice", unique("stopping"), shutdown_timeout="1s")
        await stopping.cancel()
        await stopping.wait_observed()
        await installation.start("watcher", 1, **QUICK)
        sweeping = {**QUICK, "EXEUNT_SWEEP_INTERVAL": "300ms", "EXEUNT_OVERDUE_AFTER": "300ms"}
        await installation.start("timeout-scheduler", 1, **sweeping)
        async with asyncio.timeout(30):  # that is overdue, as long as there is no terminator
            while ASKED_WHEN_OVERDUE not in used(installation, "timeout-scheduler"):  # noqa: ASYNC110 - a log is polled
                await asyncio.sleep(0.1)
        await installation.start_all(0, **sweeping)
        await early.delete()
        await set_aside_something(installation, admin.client)
        await stop_in_every_way(installation, kubernetes)
        await stop_while_nothing_is_stored(installation, kubernetes, admin.client)
        await stop_without_the_bus(installation, kubernetes, admin.client)
        unpublished = {service: allow_list(service) for service in SERVICES}
        deadline = asyncio.get_running_loop().time() + 20
        while any(unpublished.values()) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)
            unpublished = {service: allow_list(service) - used(installation, service) for service in SERVICES}
    assert unpublished == {service: set() for service in SERVICES}
    assert "Violation" not in (installation.folder / "nats-0.log").read_text()


async def test_what_the_bridge_is_allowed_is_what_it_says(
    install: Install, kubernetes: Kubernetes, tmp_path: Path
) -> None:
    """The component as it is applied, with LiveKit's own key file, and LiveKit configured as docs/livekit.md says."""
    port, bridge = free_port(), "livekit-bridge"
    config = {"webhook": documented_webhooks(f"http://127.0.0.1:{port}/webhook")}
    async with (
        install(with_components(tmp_path, bridge), trace=True) as installation,
        LiveKitServer(tmp_path / "livekit", binary=find_livekit(), config=config) as livekit,
        LiveKitRoom(livekit, unique("room")) as room,
        Operator(kubernetes, requeue=0.2),
    ):
        secret = ("secret", "generic", "livekit-keys", "-n", NAMESPACE, f"--from-file=keys.yaml={livekit.keys_file}")
        await installation.kubectl("apply", "-f", "-", stdin=(
            await installation.kubectl("create", *secret, "--dry-run=client", "-o", "yaml")
        ).encode())  # fmt: skip
        await installation.start_all(0, **QUICK)
        address = {"EXEUNT_LIVEKIT_URL": livekit.url, "EXEUNT_LIVEKIT_WEBHOOK_ADDR": f"127.0.0.1:{port}"}
        for instance in range(2):  # the second finds what the first has made
            await installation.start(bridge, instance, **address)
            await installation.mesh.stop(bridge, instance)
        await installation.start(bridge, 2, **address)

        await room.join("bubu-agent-respond-1f3a")
        caller = await room.join("alice")
        call = await Call.start(
            kubernetes, "livekit-voice", unique("room"), shutdown_timeout="1h",
            annotations={TRIGGER_TOKEN: caller.room_sid},
        )  # fmt: skip
        await call.cancel()
        await caller.leave()
        await call.wait_finished(within=30)
        await call.wait_cleaned_up()
        assert allow_list(bridge) - used(installation, bridge) == set()
    assert "Violation" not in (installation.folder / "nats-0.log").read_text()


def documented_webhooks(url: str) -> Object:
    """What docs/livekit.md says for LiveKit's configuration, with this as the bridge's URL and no other."""
    text = (DEPLOY.parent / "docs" / "livekit.md").read_text()
    (block,) = re.findall(r"^```yaml\nwebhook:\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    webhook: Object = yaml.safe_load(block)
    assert webhook["urls"][0] == "http://exeunt-livekit-bridge.exeunt.svc:8090/webhook"
    return {**webhook, "api_key": "exeunt", "urls": [url]}


async def make_the_streams(installation: Installation, admin: Client) -> None:
    """Each service in turn is the first one."""
    for service in SERVICES:
        await installation.start(service, 0, **QUICK)
        await installation.mesh.stop(service)
        for stream in STREAMS:
            assert await admin.jetstream().delete_stream(stream)


async def set_aside_something(installation: Installation, admin: Client) -> None:
    async with connected(installation, "topology-signals", "_INBOX_topology_signals") as bridge:
        await bridge.client.jetstream().publish("exeunt.signals.livekit-voice.call", b"no signal")
    for subject in (f"exeunt.runs.{RUN}.cancel-requested", f"exeunt.deadlines.due.{RUN}"):
        await admin.jetstream().publish(subject, b"no event")


async def stop_in_every_way(installation: Installation, kubernetes: Kubernetes) -> None:
    calls = {
        timeout: await Call.start(kubernetes, "livekit-voice", unique(timeout), shutdown_timeout=timeout)
        for timeout in ("0s", "1s", "19s", "20s", "21s")
    }
    for timeout in ("19s", "20s", "21s"):
        await calls[timeout].lose_bindings()  # several, for the watchers to race
    for call in calls.values():
        await call.cancel()
    storyless = await Call.start(kubernetes, "livekit-voice", unique("storyless"), annotations={SHUTDOWN_TIMEOUT: "2s"})
    await kubernetes.delete(STORY, "livekit-voice", storyless.story)
    await storyless.cancel()
    signaled = await Call.start(kubernetes, "livekit-voice", unique("signaled"))
    await signaled.cancel()
    async with connected(installation, "topology-signals", "_INBOX_topology_signals") as bridge:
        await send(bridge.client.jetstream(), signaled)
    for call in (*calls.values(), storyless, signaled):
        await call.wait_finished()
        await call.wait_cleaned_up()
    await create_step_run(kubernetes, signaled.namespace, signaled.name, "late")
    await signaled.wait_cleaned_up(30)


async def stop_while_nothing_is_stored(installation: Installation, kubernetes: Kubernetes, admin: Client) -> None:
    """Neither what the watcher publishes, nor what the timeout-scheduler does; and a new terminator has to read what
    was.
    """
    armed, left, canceled = await asyncio.gather(
        Call.start(kubernetes, "livekit-voice", unique("armed"), shutdown_timeout="20s"),
        Call.start(kubernetes, "livekit-voice", unique("left"), shutdown_timeout="60s"),
        Call.start(kubernetes, "livekit-voice", unique("canceled"), shutdown_timeout="1s"),
    )
    await armed.cancel()
    await armed.wait_observed()
    await asyncio.sleep(2)  # its deadline is armed meanwhile

    async def ask(call: str, body: object = None) -> Object:
        answer = await admin.request(f"$JS.API.STREAM.{call}.RUNS", msgspec.json.encode(body or {}), timeout=5)
        decoded: Object = msgspec.json.decode(answer.data)
        assert "error" not in decoded
        return decoded

    await installation.start("terminator", 1, **QUICK)
    config = (await ask("INFO"))["config"]
    await ask("UPDATE", {**config, "discard": "new", "max_msgs": 1})
    await left.lose_bindings()
    await asyncio.gather(left.cancel(), canceled.cancel())
    await asyncio.gather(*(call.wait_finished(60) for call in (armed, left, canceled)))
    await ask("UPDATE", config)
    await installation.mesh.stop("terminator", 1)


async def stop_without_the_bus(installation: Installation, kubernetes: Kubernetes, admin: Client) -> None:
    """On each event that may end a run; and the outcome of one finds that of another terminator in its place."""
    gone, up = await asyncio.gather(
        Call.start(kubernetes, "livekit-voice", unique("gone"), shutdown_timeout="60s"),
        Call.start(kubernetes, "livekit-voice", unique("up"), shutdown_timeout="15s"),
    )
    await up.cancel()
    token = (await up.wait_observed()).replace(".", "_")
    subject = f"exeunt.runs.{up.namespace}.{up.name}.{up.uid}.{token}.outcome.deadline-reached"
    await admin.jetstream().publish(subject, b"that of another one")
    await installation.nats[0].kill()
    await gone.cancel()
    await gone.wait_observed()
    await gone.signal_topology_terminated()
    for call in (gone, up):
        await call.wait_finished(60)
    await create_step_run(kubernetes, gone.namespace, gone.name, "late")
    await gone.wait_cleaned_up(30)
    await installation.nats[0].start()


def unique(name: str) -> str:
    return f"call-{name}-{uuid.uuid4().hex[:6]}"


def allow_list(service: str) -> set[str]:
    """What accounts.conf lets a service publish."""
    text = re.sub(r"#.*", "", (DEPLOY / "nats" / "accounts.conf").read_text())
    user = text.partition(f"nkey: ${service.upper().replace('-', '_')}\n")[2].partition("subscribe")[0]
    return set(re.findall(r'"([^"]+)"', user))


def used(installation: Installation, service: str) -> set[str]:
    """What accounts.conf lets a service publish, and it has published; an ack stands for both its forms."""
    log = (installation.folder / "nats-0.log").read_text()
    message = set(re.findall(rf':exeunt-{service}" - "[^"]+" - <<- \[H?PUB (\S+)', log))
    message |= {
        subject.replace("$JS.ACK.", "$JS.ACK._.account.", 1) for subject in message if subject.startswith("$JS.ACK.")
    }
    return {pattern for pattern in allow_list(service) if any(matches(pattern, subject) for subject in message)}


def matches(pattern: str, subject: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", "[^.]+").replace(">", ".+")
    return re.fullmatch(expression, subject) is not None
