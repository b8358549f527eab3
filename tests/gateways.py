"""Gateway processes that tests start, and clients that speak to them byte by byte where it matters."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import Any

from tests.processes import eventually, service_process
from tests.servers import Server, free_port

DEMO_SECRET = "whsec_cGVuc3RvY2stZGVtby1zZWNyZXQtMDAwMQ=="
JSON = {"Content-Type": "application/json"}


@dataclass
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes

    @classmethod
    def read(cls, response: HTTPResponse, *, head: bool = False) -> Answer:
        """Read an answer; an error must be a problem document (RFC 9457), whoever it comes from."""
        answer = cls(response.status, response.headers, response.read())
        if answer.status >= 400 and not head:
            assert answer.headers["Content-Type"] == "application/problem+json", answer
            assert answer.json["status"] == answer.status, answer
            assert answer.json["detail"], answer
        return answer

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def detail(self) -> str:
        return str(self.json["detail"])


@dataclass
class Gateway:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            return Answer.read(connection.getresponse(), head=method == "HEAD")

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, event: Any, headers: Mapping[str, str] | None = None, *, path: str = "/v1/events") -> Answer:
        """POST JSON (bytes as they are)."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        return self.request("POST", path, body, {**JSON, **(headers or {})})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def exchange(self, data: bytes, method: str = "POST") -> Answer:
        """Send bytes as they are and read one answer; one to HEAD has no body."""
        with self.connect() as client:
            with contextlib.suppress(ConnectionError):  # it may answer and hang up before it has read all
                client.sendall(data)
            return read_answer(client, method)

    def ready(self) -> bool:
        try:
            return self.get("/readyz").status == 200
        except (OSError, HTTPException):
            return False

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def read_answer(client: socket.socket, method: str = "POST") -> Answer:
    with contextlib.closing(HTTPResponse(client, method=method)) as response:
        response.begin()
        return Answer.read(response, head=method == "HEAD")


@contextlib.contextmanager
def running_gateway(server: Server, folder: Path, **env: str) -> Iterator[Gateway]:
    """Run the gateway on `server` until the end of the context; `env` adds to its environment.

    It must have logged no error by then, and nothing but JSON.
    """
    port = free_port()
    log = folder / f"gateway-{port}.log"
    given = {"REDIS_URL": server.url, "PENSTOCK_GATEWAY_PORT": str(port), **env}
    with service_process("-m", "penstock_services.gateway", env=given, log=log) as process:
        gateway = Gateway(port, process, log)
        eventually(gateway.ready, what="the gateway is ready")
        yield gateway
        assert [line for line in gateway.logged() if line["level"] == "error"] == []
