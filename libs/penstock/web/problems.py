"""Error answers: problem details for HTTP APIs (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from penstock.errors import Unavailable
from penstock.web.openapi import PROBLEM, ProblemDetails

if TYPE_CHECKING:
    from aiohttp import web

_COME_BACK = "2"  # seconds; about what a restart or failover of Redis takes


class Problem(Exception):
    """Ends a request with an error answer. `detail` is a sentence for the person who wrote the client."""

    def __init__(self, status: int, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}

    @property
    def body(self) -> bytes:
        """The problem document."""
        title = HTTPStatus(self.status).phrase
        return msgspec.json.encode(ProblemDetails("about:blank", title, self.status, self.detail))

    def response(self) -> web.Response:
        """Return the answer."""
        from aiohttp import web  # noqa: PLC0415 - what answers over ASGI has no need of it

        return web.Response(status=self.status, body=self.body, headers=self.headers, content_type=PROBLEM)

    def raw(self) -> bytes:
        """Return the answer as it goes over a connection that closes with it and has no request yet."""
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {PROBLEM}",
            f"Content-Length: {len(self.body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + self.body


def away(error: Unavailable) -> Problem:
    """Return the answer while Redis cannot take events."""
    return Problem(
        503,
        f"{error}; send the same request again later",
        headers={"Retry-After": _COME_BACK},
    )


def overloaded(detail: str, *, retry_after: int) -> Problem:
    """Return the answer while there is too much to do; `retry_after` in seconds."""
    return Problem(429, detail, headers={"Retry-After": str(retry_after)})
