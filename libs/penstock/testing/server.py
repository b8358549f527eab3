"""A Redis server for tests: one of our own, on a socket in a folder of its own, gone with them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from penstock import processes
from penstock.errors import ConfigurationError
from penstock.redis.binaries import choose_binary
from penstock.redis.connection import unavailable
from penstock.redis.lanes import Lanes

_DEADLINE = 20.0  # seconds to start, and to stop
_POLL = 0.01


class Server:
    """A server that runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = Lanes(url, name="penstock-testing").blocking_client(timeout=_DEADLINE, name="penstock-testing")

    def clear(self) -> None:
        """Remove all that it holds."""
        self._client.flushall()

    def answers(self) -> bool:
        """Whether it takes commands."""
        try:
            return bool(self._client.ping())
        except Exception as error:
            if unavailable(error) is None:
                raise
            return False

    def close(self) -> None:
        """Close the connection to it."""
        self._client.close()


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """Start a server, and stop it at the end.

    Raises:
        ConfigurationError: there is no server program, or it does not start.
    """
    binary = choose_binary()
    with tempfile.TemporaryDirectory(prefix="penstock-") as name:  # short: a socket's path has 107 characters
        folder = Path(name)
        process = subprocess.Popen(  # noqa: S603
            [
                *(binary.path, "--port", "0", "--unixsocket", str(folder / "s"), "--dir", name),
                *("--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"),
                *("--logfile", str(folder / "log")),
            ],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for the tests: they stop it
            preexec_fn=processes.dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - it calls prctl only
        )
        server = Server(f"unix://{folder / 's'}")
        try:
            deadline = time.monotonic() + _DEADLINE
            while not server.answers():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ConfigurationError(f"{binary} did not start: {(folder / 'log').read_text()[-500:]}")
                time.sleep(_POLL)
            yield server
        finally:
            server.close()
            process.terminate()
            try:
                process.wait(_DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
