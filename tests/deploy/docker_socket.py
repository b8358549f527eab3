"""A socket between a client and the Docker engine, at which a test can see requests, break them, or hang up."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_CHANGES = re.compile(rb"(POST|DELETE) (?:/v[\d.]+)?(/containers/\S+) HTTP")


class DockerSocket:
    """Passes everything on. What changes a container is noted; `after` is called when the engine has done it."""

    def __init__(self, path: Path, engine: str) -> None:
        """`path` is where it listens, `engine` the engine's own socket."""
        self.path = path
        self.url = f"unix://{path}"
        self.changes: list[str] = []
        self.after: Callable[[str], None] = lambda _: None
        self._engine = engine
        self._open = threading.Event()
        self._open.set()
        self._connections: set[socket.socket] = set()

    def hang_up(self) -> None:
        """Be away: end every connection, and let nobody through until `answer`."""
        self._open.clear()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self) -> None:
        """Be there again."""
        self._open.set()

    def relay(self, client: socket.socket) -> None:
        """Pass a connection on until either side ends it."""
        if not self._open.is_set():
            return
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self._engine)
            self._connections |= {client, engine}
            asked: list[str] = []
            back = threading.Thread(target=self._pass, args=(engine, client, None, asked), daemon=True)
            back.start()
            self._pass(client, engine, self._note(asked), asked)
            back.join()
            self._connections -= {client, engine}

    def _note(self, asked: list[str]) -> Callable[[bytes], None]:
        def note(data: bytes) -> None:
            for method, path in _CHANGES.findall(data):
                asked.append(f"{method.decode()} {path.decode().partition('?')[0]}")

        return note

    def _pass(
        self, source: socket.socket, to: socket.socket, see: Callable[[bytes], None] | None, asked: list[str]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if see is not None:
                    see(data)
                elif asked:  # the engine has answered what was asked
                    change = asked.pop(0)
                    self.changes.append(change)
                    self.after(change)
                to.sendall(data)
        for end in (source, to):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def docker_socket(folder: Path, host: str) -> Iterator[DockerSocket]:
    """Listen in `folder`; `host` is the engine's DOCKER_HOST."""
    between = DockerSocket(folder / "engine.sock", host.removeprefix("unix://"))

    class _Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            between.relay(self.request)

    class _Listener(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """The engine is away, or the client: either is told the other by the end of the connection."""

    with _Listener(str(between.path), _Relay) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield between
        finally:
            between.hang_up()
            listener.shutdown()
            thread.join()
