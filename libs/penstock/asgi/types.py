"""ASGI in types (https://asgi.readthedocs.io/en/latest/specs/main.html), and what is read of a scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from penstock.client.client import Penstock

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

STATE = "mesh"
"""Where a lifespan puts the client: the name in the state of the application and of each request."""


def client_of(scope: Scope) -> Penstock | None:
    """Return the client that a lifespan has opened, None if there is none."""
    found = (scope.get("state") or {}).get(STATE)
    return found if isinstance(found, Penstock) else None


def header(scope: Scope, name: bytes) -> str | None:
    """Return the first header of a name, which is in lower case."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


async def respond(scope: Scope, send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Answer a request."""
    named = raw_headers({**headers, "Content-Length": str(len(body))} if status != 204 else headers)
    await send({"type": "http.response.start", "status": status, "headers": named})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def raw_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers as ASGI has them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
