"""Chromium without a window, driven over the DevTools protocol (https://chromedevtools.github.io/devtools-protocol)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.processes import DEADLINE, eventually

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Return the browser's program; without one skip the test, but fail under CI."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("CI must test the pages in Chromium: install it (apt install chromium)")
    return found or pytest.skip("there is no Chromium to test the pages in (apt install chromium)")


class Browser:
    """One tab. `complaints` are errors, refused requests and broken policies; `requests` what it asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.complaints: list[str] = []
        self.requests: list[str] = []

    async def listen(self) -> None:
        """Take in what the browser says, until it goes."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, method: str, what: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(what["exceptionDetails"]))
        elif method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.complaints.append(what["entry"]["text"])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(DEADLINE):
            said = await answer
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + DEADLINE
        while not await self.run(f"Boolean({script})"):
            if time.monotonic() > end:
                raise AssertionError(f"not within {DEADLINE} s: {script}\n{await self.text()}\n{self.complaints}")
            await asyncio.sleep(0.02)  # a poll of what sends no signal

    async def text(self) -> str:
        """Return what is to be read on the page."""
        return str(await self.run("document.body ? document.body.innerText : ''"))

    async def press(self, key: str) -> None:
        code = {"Enter": 13, "Tab": 9, " ": 32}[key]
        typed = "\r" if key == "Enter" else key if key == " " else ""
        for kind in ("keyDown", "keyUp"):
            text = {"text": typed} if kind == "keyDown" and typed else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def prefer(self, **features: str) -> None:
        """Set media features, such as color_scheme="dark"."""
        chosen = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        await self.call("Emulation.setEmulatedMedia", features=chosen)

    async def resize(self, width: int, height: int) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    async def screenshot(self) -> bytes:
        """Return what is seen, as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])


@contextlib.contextmanager
def running_chromium(folder: Path) -> Iterator[int]:
    """Run a browser until the end of the context, with its profile in `folder`; yield the port it is driven by."""
    port = folder / "profile" / "DevToolsActivePort"
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(chromium(), "--headless", "--disable-gpu", *quiet, *sandbox),
                *("--remote-debugging-port=0", f"--user-data-dir={port.parent}", "about:blank"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        eventually(lambda: port.exists() and "\n" in port.read_text(), what="Chromium has started")
        yield int(port.read_text().partition("\n")[0])
    finally:
        process.terminate()
        process.wait(DEADLINE)


@contextlib.asynccontextmanager
async def tab(port: int) -> AsyncIterator[Browser]:
    """Open a tab in a running browser until the end of the context."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{port}"))
        async with session.put("/json/new") as answer:
            target = await answer.json()
        socket = await stack.enter_async_context(session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0))
        browser = Browser(socket)
        listening = asyncio.create_task(browser.listen())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await browser.call(f"{domain}.enable")
        try:
            yield browser
        finally:
            await browser.call("Page.close")
            listening.cancel()
            await asyncio.wait([listening])
