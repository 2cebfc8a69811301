import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from exeunt.errors import UsageError
from exeunt_local import binaries, go_build
from exeunt_local.binaries import DEFAULT_KUBERNETES, Binaries, BinariesMissing
from exeunt_local.nats_server import NatsServer
from exeunt_local.processes import Process, ProcessFailed, free_port


def sleeper(folder: Path, *, ready_within: float) -> Process:
    """A process that never listens."""
    command = ["/bin/sh", "-c", "echo never ready; exec sleep 60"]
    url = f"http://127.0.0.1:{free_port()}/"
    return Process(command, log=folder / "sleeper.log", ready_url=url, ready_within=ready_within)


def is_alive(pid: int) -> bool:
    """Whether it runs; a dead child that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while is_alive(pid):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_a_process_that_ends_too_soon_shows_the_tail_of_its_log(servers: Binaries, tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match=r"ended with exit code 1(.*\n)*.*Unexpected EOF"):
        await NatsServer(tmp_path, binary=servers.nats_server, config="nonsense {").start()


async def test_a_process_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    process = sleeper(tmp_path, ready_within=2)
    with pytest.raises(ProcessFailed, match=r"sleeper was not ready after 2 s(.*\n)*.*never ready"):
        await process.start()
    assert process.pid is None


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    process = sleeper(tmp_path, ready_within=30)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await process.start()
    assert process.pid is None


async def test_a_stop_gives_the_exit_code_and_a_second_one_does_too(servers: Binaries, tmp_path: Path) -> None:
    async with NatsServer(tmp_path, binary=servers.nats_server) as nats_server:
        assert await nats_server._process.stop() == 0
        assert await nats_server._process.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
async def test_a_child_does_not_outlive_a_killed_owner(servers: Binaries, tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio, sys; from pathlib import Path; from exeunt_local.nats_server import NatsServer\n"
        "async def main():\n"
        "    async with NatsServer(Path(sys.argv[1]), binary=Path(sys.argv[2])) as server:\n"
        "        print(server._process.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())",
        str(tmp_path),
        str(servers.nats_server),
        stdout=asyncio.subprocess.PIPE,
    )
    assert owner.stdout is not None
    child = int(await owner.stdout.readline())
    os.kill(child, 0)
    owner.send_signal(signal.SIGKILL)
    await owner.wait()
    await until_gone(child)
    await owner.communicate()


async def test_given_binaries_must_be_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "etcd").touch(mode=0o755)
    monkeypatch.delenv("KUBERNETES", raising=False)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(BinariesMissing, match=r"has no executable kube-apiserver$"):
        await binaries.find()


async def test_binaries_that_are_not_built_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setattr(go_build, "cache_folder", lambda: tmp_path)
    with pytest.raises(BinariesMissing, match="exeunt up --prepare-only"):
        await binaries.find()


@pytest.mark.parametrize(
    ("asked", "found"),
    [(None, f"v{DEFAULT_KUBERNETES}"), ("", f"v{DEFAULT_KUBERNETES}"), ("1.37.2", "v1.37.2"), ("v1.34", "v1.34.")],
)
async def test_another_kubernetes_is_asked_for_by_its_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str | None, found: str
) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("KUBERNETES", raising=False)
    monkeypatch.setattr(go_build, "cache_folder", lambda: tmp_path)
    if asked is not None:
        monkeypatch.setenv("KUBERNETES", asked)
    with pytest.raises(BinariesMissing, match=rf"^kubernetes-{re.escape(found)}.* is not built yet"):
        await binaries.find()


async def test_a_kubernetes_that_cannot_be_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("KUBERNETES", "1.3")
    with pytest.raises(UsageError, match=r"^KUBERNETES=1\.3 is not among .*: 1\.34.*, 1\.37"):
        await binaries.find()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", "/somewhere")
    with pytest.raises(UsageError, match="exclude each other"):
        await binaries.find()


@pytest.mark.parametrize("version", binaries.versions_of_kubernetes())
def test_a_control_plane_is_what_its_folder_says(version: str) -> None:
    assert go_build.pinned(binaries._CONTROL_PLANES / version, "k8s.io/kubernetes") == version
