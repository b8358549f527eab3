"""Web applications that tests run in a real uvicorn."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.command_line import environment
from tests.processes import ROOT, eventually
from tests.servers import free_port


class Answer(msgspec.Struct):
    """What was answered; status 0: nothing was."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """A web application on a port of its own."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.process = process
        self.log = log

    def request(self, method: str, path: str, data: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            body = None if data is None else json.dumps(data)
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, named, answer.read())
        except OSError:
            return Answer(0)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, **headers)

    def post(self, path: str, data: Any = None, **headers: str) -> Answer:
        return self.request("POST", path, data, **headers)

    def stop(self) -> int:
        """Stop it in an orderly way; return its exit code."""
        self.process.terminate()
        return self.process.wait(30)


@contextlib.contextmanager
def serving(app: str, folder: Path, log: Path, *options: str, probe: str = "/", **env: str) -> Iterator[Site]:
    """Serve an application of `folder`, with `env` added to a clean environment, until it answers `probe`."""
    port = free_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "uvicorn", app, "--port", str(port), *options],
            cwd=folder,
            env=environment(PYTHONPATH=str(ROOT), **env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    site = Site(port, process, log)
    try:
        eventually(
            lambda: process.poll() is not None or site.get(probe).status, what=f"{app} answers", every=0.05, deadline=40
        )
        assert process.poll() is None, log.read_text()
        yield site
    finally:
        if process.poll() is None:
            site.stop()
