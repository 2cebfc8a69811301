"""Plays a reader's browser: a headless Chromium that shows one page and tells what is on it.

Spoken to by the Chrome DevTools Protocol, whose evaluations do not fall under the page's Content-Security-Policy.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

BINARY: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The Chromium of this machine, or None."""


class Browser:
    """One window. `heard` is what the protocol reported since the page was opened."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="exeunt-browser-", ignore_cleanup_errors=True)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        assert BINARY is not None
        profile = Path(self._folder.name)
        self._process = await asyncio.create_subprocess_exec(
            *(BINARY, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            *("--disable-dev-shm-usage", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._session = aiohttp.ClientSession()
        async with asyncio.timeout(30):
            while len(reported := _lines(profile / "DevToolsActivePort")) < 2:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.05)
            port = reported[0]
            async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                (target,) = (each for each in await answer.json() if each["type"] == "page")
            self._socket = await self._session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
        self._listening = asyncio.create_task(self._listen())
        for domain in ("Page", "Network", "Log", "Runtime"):
            await self.call(f"{domain}.enable")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.cancel()
        await asyncio.wait({self._listening})
        await self._socket.close()
        await self._session.close()
        self._process.kill()
        await self._process.wait()
        self._folder.cleanup()

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """One command of the protocol and its result."""
        number = len(self._answers) + 1
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(20):
            answer = await self._answers[number]
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def show(self, page: Path, *, width: int, scheme: str) -> None:
        """Open the page in a window of that width, with the colour scheme that its reader prefers."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        self.heard.clear()
        await self.call("Page.navigate", url=page.as_uri())
        async with asyncio.timeout(20):
            while not any(each["method"] == "Page.loadEventFired" for each in self.heard):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def _listen(self) -> None:
        async for message in self._socket:
            answer: dict[str, Any] = message.json()
            if "id" in answer:
                self._answers[answer["id"]].set_result(answer)
            else:
                self.heard.append(answer)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
