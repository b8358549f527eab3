"""What happens, as it happens, with aiohttp: two kinds of streams (Server-Sent Events), WebSockets, and tickets.

What is told, and to whom, is `penstock.live`'s.
"""

from __future__ import annotations

from typing import Final, cast

import structlog
from aiohttp import WSMsgType, web

from penstock.live.connection import Connection
from penstock.live.live import Live
from penstock.live.registry import Registry
from penstock.live.sse import HEADERS, event_stream
from penstock.live.topic import Topic, Viewer
from penstock.live.websocket import MOST_TEXT, PROTOCOL, WebSocketSession
from penstock.redis.connection import unavailable
from penstock.service.runtime import Runtime
from penstock.web.clients import Caller
from penstock.web.connections import Connection as HttpConnection
from penstock.web.problems import Problem
from penstock.web.routes import Request, get, json, post
from penstock.web.tickets import Tickets

_HEADERS: Final = {**HEADERS, "Server": "penstock"}
_HEARTBEAT = 25.0  # seconds between the pings of a WebSocket
_log = structlog.get_logger("penstock.live")


class LiveRoutes:
    """Answers with what happens; all connections follow one reader."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        named = settings.registry_key if settings.registry_enabled else None
        registry = None if named is None else Registry(runtime.redis, runtime.keys, name=named)
        mesh = runtime.redis, runtime.keys, runtime.topology
        self._live = Live(*mesh, stopping=runtime.stopping, registry=registry)
        self._tickets = Tickets(runtime.redis, runtime.keys)
        self.routes = [
            post("/v1/tickets", self._ticket, scope="read", own_tenant=True),
            get("/v1/jobs/{job_id}/events", self._job, own_tenant=True, ticketed=True),
            get("/v1/stream", self._stream, own_tenant=True, ticketed=True),
            get("/v1/ws", self._socket, own_tenant=True, ticketed=True),
        ]

    async def _ticket(self, request: Request) -> web.Response:
        """Give a ticket that opens one connection."""
        response = json(await self._tickets.give(request.caller.name.encode()), status=201)
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _job(self, request: Request) -> web.StreamResponse:
        """Tell what becomes of a job until it is over."""
        return await self._send(request, Topic(job=request.rest, source=request.query.get("source")))

    async def _stream(self, request: Request) -> web.StreamResponse:
        """Tell what happens in the mesh, as far as it is asked for and the caller's."""
        return await self._send(request, Topic.of_query(request.query))

    async def _send(self, request: Request, topic: Topic) -> web.StreamResponse:
        connection = Connection(_viewer(request.caller))
        if request.http.method == "HEAD":
            await self._live.check(topic, connection.viewer)
            return web.Response(headers=_HEADERS)
        position = request.headers.get("Last-Event-ID") or request.query.get("position")
        async with event_stream(self._live, connection, topic, position or None) as pieces:
            if pieces is None:
                return web.Response(status=204)
            cast(HttpConnection, request.http.protocol).on_lost = connection.close
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(request.http)
            try:
                async for piece in pieces:
                    await response.write(piece)
                await response.write_eof()
            except ConnectionError:  # the client has gone
                connection.close()
            except Exception as error:  # noqa: BLE001 - half of the answer is sent: whoever wants more comes back
                if unavailable(error) is None:
                    _log.error("a live stream failed", exc_info=error)
                response.force_close()
        return response

    async def _socket(self, request: Request) -> web.StreamResponse:
        """Tell whatever is subscribed to, over a WebSocket."""
        # Compressing costs more than it saves: messages are small, and each would have a window of its own.
        socket = web.WebSocketResponse(
            heartbeat=_HEARTBEAT, max_msg_size=MOST_TEXT, compress=False, protocols=(PROTOCOL,)
        )
        if not socket.can_prepare(request.http):
            raise Problem(426, "this address speaks WebSocket", headers={"Upgrade": "websocket"})
        caller = request.caller
        connection = Connection(_viewer(caller), "websocket")

        async def admit(_: Topic) -> None:
            caller.spend(1)

        async def receive() -> str | bytes | None:
            message = await socket.receive()
            return message.data if message.type in (WSMsgType.TEXT, WSMsgType.BINARY) else None

        async def send(frame: bytes) -> None:
            await socket.send_frame(frame, WSMsgType.TEXT)

        async with self._live.open(connection):
            cast(HttpConnection, request.http.protocol).on_lost = connection.close
            await socket.prepare(request.http)
            code = await WebSocketSession(self._live, connection, admit=admit).run(receive, send)
            await socket.close(code=code)
        return socket


def _viewer(caller: Caller) -> Viewer:
    return Viewer(name=caller.name, tenant=caller.tenant, all_tenants=caller.tenant is None)
