"""A proxy between a service and Redis that cuts connections at the worst moments."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.servers import Server, free_port


class Cutter:
    """Forwards loopback TCP to a server's socket; `cut` drops replies that are on their way.

    The server has executed the command then, and the client will never know: the classic lost reply.
    """

    def __init__(self, upstream: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.cuts = 0
        self._upstream = upstream
        self._armed = threading.Event()
        self._closed = threading.Event()
        self._needle = b""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut_reply_to(self, needle: bytes) -> None:
        """Cut the connection on which a command that contains `needle` is sent next, before its reply."""
        self._needle = needle
        self._armed.set()

    def close(self) -> None:
        self._closed.set()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                downstream, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX)
            try:
                upstream.connect(str(self._upstream))
            except OSError:  # the server is away, and so it is for whoever comes through here
                _close(downstream)
                upstream.close()
                continue
            doomed = threading.Event()
            for pump in (self._requests, self._replies):
                threading.Thread(target=pump, args=(downstream, upstream, doomed), daemon=True).start()

    def _requests(self, downstream: socket.socket, upstream: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := downstream.recv(65536):
                if self._armed.is_set() and self._needle in data:
                    self._armed.clear()
                    doomed.set()
                upstream.sendall(data)
        _close(upstream)

    def _replies(self, downstream: socket.socket, upstream: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65536):
                if doomed.is_set():
                    self.cuts += 1
                    break
                downstream.sendall(data)
        _close(downstream)
        _close(upstream)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def cutter(server: Server) -> Iterator[Cutter]:
    """Run a cutter before `server`."""
    made = Cutter(server.socket)
    try:
        yield made
    finally:
        made.close()
