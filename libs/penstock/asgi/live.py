"""What happens, as it happens, for an application to mount: Server-Sent Events and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from penstock.asgi.types import Receive, Scope, Send, client_of, header, raw_headers, respond
from penstock.client.client import Penstock
from penstock.errors import ConfigurationError, Unavailable
from penstock.live.connection import Connection
from penstock.live.live import Live
from penstock.live.registry import Registry
from penstock.live.sse import HEADERS, event_stream
from penstock.live.topic import Topic, Viewer
from penstock.live.websocket import PROTOCOL, WebSocketSession
from penstock.redis.connection import telling_unavailable, unavailable
from penstock.settings import Settings
from penstock.tasks import end
from penstock.web.openapi import PROBLEM
from penstock.web.problems import Problem, away
from penstock.web.tickets import Tickets, presented

Authorize = Callable[[Scope], Awaitable[Viewer | None]]
"""Says of a request or WebSocket, by its scope, whom it is for; None is nobody whom one knows."""
Sees = Callable[[Viewer, Topic], Awaitable[bool]]
"""Says whether somebody may be told of something, of what their tenant may be told of."""
_REFUSED = 1008  # why a WebSocket is closed (RFC 6455): policy


class LiveStreams:
    """An ASGI application that answers as the gateway does under /v1, below wherever it is mounted.

    /jobs/{id}/events and /stream are Server-Sent Events, /ws is a WebSocket, POST /tickets gives tickets. The client
    is the one that a lifespan has opened, or `mesh`. It belongs to one event loop; all its connections share a reader.
    """

    def __init__(
        self,
        authorize: Authorize,
        *,
        sees: Sees | None = None,
        origins: Iterable[str] = (),
        mesh: Penstock | None = None,
    ) -> None:
        """`origins` are those of pages that may ask beside the application's own, such as `https://shop.example`."""
        self._authorize = authorize
        self._sees = sees
        self._origins = frozenset(origins)
        self._mesh = mesh
        self._open: tuple[Penstock, Live, Tickets] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the server."""
        refuse = _refuse_socket if scope["type"] == "websocket" else _respond_problem
        try:
            with telling_unavailable():
                await self._answer(scope, receive, send)
        except Problem as problem:
            await refuse(scope, send, problem)
        except Unavailable as error:
            await refuse(scope, send, away(error))
        except TimeoutError:
            await refuse(scope, send, Problem(503, "this takes too long just now", headers={"Retry-After": "2"}))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/")
        query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1")))
        if scope["type"] == "websocket":
            if name != "ws":
                raise Problem(404, "there is nothing at this address")
            await self._socket(scope, receive, send, query)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"live streams are there over HTTP and WebSocket, not {scope['type']}")
        method = scope["method"]
        match name.split("/"):
            case ["tickets"] if method == "POST":
                await self._ticket(scope, send)
            case ["stream"] if method == "GET":
                await self._stream(scope, receive, send, Topic.of_query(query), query)
            case ["jobs", job_id, "events"] if method == "GET" and job_id:
                topic = Topic(job=unquote(job_id), source=query.get("source"))
                await self._stream(scope, receive, send, topic, query)
            case ["ws"] if method == "GET":
                raise Problem(426, "this address speaks WebSocket", headers={"Upgrade": "websocket"})
            case _:
                raise Problem(404, "there is nothing at this address")

    async def _ticket(self, scope: Scope, send: Send) -> None:
        _, tickets = self._of(scope)
        viewer = await self._viewer(scope, None)
        ticket = await tickets.give(msgspec.json.encode(viewer))
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        await respond(scope, send, 201, headers, msgspec.json.encode(ticket))

    async def _stream(self, scope: Scope, receive: Receive, send: Send, topic: Topic, query: Mapping[str, str]) -> None:
        live, _ = self._of(scope)
        viewer = await self._viewer(scope, query.get("ticket"))
        await self._admit(viewer, topic)
        connection = Connection(viewer)
        position = header(scope, b"last-event-id") or query.get("position")
        async with event_stream(live, connection, topic, position or None) as pieces:
            if pieces is None:
                await respond(scope, send, 204, {}, b"")
                return
            await send({"type": "http.response.start", "status": 200, "headers": raw_headers(HEADERS)})
            leaving = asyncio.create_task(_close_when_gone(receive, connection), name="live stream")
            try:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            except Exception as error:  # half of the answer is sent: whoever wants more comes back
                if unavailable(error) is None:
                    raise
            finally:
                await end([leaving])

    async def _socket(self, scope: Scope, receive: Receive, send: Send, query: Mapping[str, str]) -> None:
        await receive()  # websocket.connect
        live, _ = self._of(scope)
        offered = scope.get("subprotocols") or ()
        viewer = await self._viewer(scope, presented(query.get("ticket"), ",".join(offered)))
        connection = Connection(viewer, "websocket")

        async def admit(topic: Topic) -> None:
            await self._admit(viewer, topic)

        async def next_text() -> str | bytes | None:
            message = await receive()
            if message["type"] != "websocket.receive":
                return None
            text: str | bytes | None = message.get("text")
            return message.get("bytes") if text is None else text

        async def send_frame(frame: bytes) -> None:
            await send({"type": "websocket.send", "text": frame.decode()})

        async with live.open(connection):
            await send({"type": "websocket.accept", "subprotocol": PROTOCOL if PROTOCOL in offered else None})
            code = await WebSocketSession(live, connection, admit=admit).run(next_text, send_frame)
            with contextlib.suppress(Exception):  # it may be closed already, which each server says in its own way
                await send({"type": "websocket.close", "code": code})

    async def _viewer(self, scope: Scope, ticket: str | None) -> Viewer:
        self._check_origin(scope)
        if ticket is not None:
            _, tickets = self._of(scope)
            try:
                return msgspec.json.decode(await tickets.take(ticket), type=Viewer)
            except msgspec.MsgspecError:
                raise Problem(401, "this is no ticket of this application") from None
        viewer = await self._authorize(scope)
        if viewer is None:
            raise Problem(401, "nobody knows who this is")
        return viewer

    async def _admit(self, viewer: Viewer, topic: Topic) -> None:
        if self._sees is not None and not await self._sees(viewer, topic):
            raise Problem(403, "this is not for whoever asks")

    def _check_origin(self, scope: Scope) -> None:
        """Refuse pages of others: a browser sends them with what it knows its user by."""
        origin = header(scope, b"origin")
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != header(scope, b"host"):
            raise Problem(403, "this comes from a page of another origin, which may not speak for whoever reads it")

    def _of(self, scope: Scope) -> tuple[Live, Tickets]:
        mesh = self._mesh or client_of(scope)
        if mesh is None:
            raise RuntimeError(
                "no client is open: give the application penstock.asgi.lifespan, or LiveStreams(mesh=...)"
            )
        if self._open is None or self._open[0] is not mesh:
            try:
                parts = mesh.redis, mesh.keys
            except ConfigurationError as error:  # the mesh is in memory, and tells nothing of itself
                raise Problem(501, str(error)) from None
            settings = Settings.from_env()
            registry = Registry(*parts, name=settings.registry_key) if settings.registry_enabled else None
            live = Live(*parts, mesh.topology, stopping=asyncio.Event(), registry=registry)
            self._open = mesh, live, Tickets(*parts)
        return self._open[1:]


async def _respond_problem(scope: Scope, send: Send, problem: Problem) -> None:
    """Answer a request with a problem."""
    await respond(scope, send, problem.status, {"Content-Type": PROBLEM, **problem.headers}, problem.body)


async def _refuse_socket(scope: Scope, send: Send, problem: Problem) -> None:
    """Refuse a handshake, with the problem as the answer where the server can do that."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": _REFUSED, "reason": problem.detail[:100]})
        return
    headers = raw_headers({"Content-Type": PROBLEM, **problem.headers})
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": problem.body})


async def _close_when_gone(receive: Receive, connection: Connection) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    connection.close()
