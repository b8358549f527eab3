"""`GET /v1/jobs/{job_id}/events` and `GET /v1/stream`: what happens, as it happens (Server-Sent Events).

First comes the state, with the position that it holds for, then what follows. Whoever comes back with Last-Event-ID
gets all that was told meanwhile, or `resync`: then what it knows is too old to go on from, and it begins anew.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import fnmatch
import random
import re
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, cast

import msgspec
import structlog
from aiohttp import web

from penstock.client.live import Filter, Follower, Live, Message
from penstock.redis.connection import unavailable
from penstock.service.runtime import Runtime
from penstock.web.connections import Connection
from penstock.web.problems import Problem
from penstock.web.routes import Request, get
from penstock_services.gateway.events import asked_job, present

_PING = 15.0  # seconds of silence after which a comment says that the connection is alive
_CATCH_UP = 5.0  # seconds
_PAUSE_MS = (1_000, 3_000)  # after which a client comes back: not all at once
_MOST_TYPES = 20
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Type": "text/event-stream",
    "Server": "penstock",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}
_END: Final = b"event: end\ndata: {}\n\n"
_log = structlog.get_logger("penstock.live")


class Snapshot(NamedTuple):
    """How things are at the beginning. `over`: nothing more will come."""

    name: str
    data: bytes
    over: bool = False


Look = Callable[[], Awaitable[Snapshot]]


class LiveRoutes:
    """Answers with streams of events, all of which follow one reader."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._live = Live(runtime.redis, runtime.keys, runtime.topology, stopping=runtime.stopping)
        self.routes = [
            get("/v1/jobs/{job_id}/events", self._job, own_tenant=True),
            get("/v1/stream", self._stream, own_tenant=True),
        ]

    async def _job(self, request: Request) -> web.StreamResponse:
        """Tell what becomes of a job until it is over."""

        async def look() -> Snapshot:
            job = await asked_job(self._runtime, request)
            return Snapshot("state", msgspec.json.encode(present(request.rest, job)), job.is_over)

        job = await asked_job(self._runtime, request)
        wanted = Filter(job=request.rest, source=request.query.get("source"), tenant=job.tenant)
        return await self._answer(request, wanted, look)

    async def _stream(self, request: Request) -> web.StreamResponse:
        """Tell what happens in the mesh, as far as it is asked for and the caller's."""

        async def look() -> Snapshot:
            return Snapshot("ready", b"{}")

        return await self._answer(request, _filter(request), look)

    async def _answer(self, request: Request, wanted: Filter, look: Look) -> web.StreamResponse:
        if request.http.method == "HEAD":
            return web.Response(headers=_HEADERS)
        follower = Follower(wanted)
        async with self._live.followed_by(follower):
            asked = request.headers.get("Last-Event-ID")
            missed = await self._live.resume(follower, asked) if asked else None
            if missed is None:
                first, over = await self._begin(follower, look, resync=bool(asked))
            else:
                snapshot = await look()
                over = snapshot.over
                if over:  # the last of what was told may still be under way to here
                    async with asyncio.timeout(_CATCH_UP):
                        await self._live.catch_up()
                    missed += follower.take()
                    if not missed:
                        return web.Response(status=204)  # with which a browser stops coming back
                first = [*map(_told, missed), _block(snapshot.data, name=snapshot.name)]
            return await self._send(request, follower, look, first, over=over)

    async def _begin(self, follower: Follower, look: Look, *, resync: bool) -> tuple[list[bytes], bool]:
        """Return the state, with the position from which on everything follows; and whether anything will."""
        follower.begin_anew()
        position = self._live.position
        snapshot = await look()
        begins = [_block(b"{}", name="resync", position=position)] if resync else []
        return [*begins, _block(snapshot.data, name=snapshot.name, position=position)], snapshot.over

    async def _send(
        self, request: Request, follower: Follower, look: Look, first: list[bytes], *, over: bool
    ) -> web.StreamResponse:
        cast(Connection, request.http.protocol).on_lost = follower.close
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request.http)
        try:
            await response.write(b"retry: %d\n\n" % random.randint(*_PAUSE_MS) + b"".join(first))  # noqa: S311 - no secret
            while not over and not follower.closed:
                blocks, over = await self._next(follower, look)
                await response.write(b"".join(blocks))
            if over:
                await response.write(_END)
            await response.write_eof()
        except ConnectionError:  # the client has gone
            follower.close()
        except Exception as error:  # noqa: BLE001 - half of the answer is sent: whoever wants more comes back
            if unavailable(error) is None:
                _log.error("a live stream failed", exc_info=error)
            response.force_close()
        return response

    async def _next(self, follower: Follower, look: Look) -> tuple[list[bytes], bool]:
        """Return what is to be sent next, and whether it is the last."""
        try:
            async with asyncio.timeout(_PING):
                await follower.wait()
        except TimeoutError:
            # A position without data is no event to anybody, and what a client comes back with.
            where = f"id: {self._live.position}\n" if follower.is_level else ""
            return [f": alive\n{where}\n".encode()], False
        if follower.missed:
            try:
                return await self._begin(follower, look, resync=True)
            except Problem:  # it is not known any more
                return [_block(b"{}", name="resync", position=self._live.position)], True
        messages = follower.take()
        over = follower.filter.job is not None and any(message.ends for message in messages)
        return [*map(_told, messages)], over


def _filter(request: Request) -> Filter:
    """Return what a request asks for.

    Raises:
        Problem: 403 another tenant's, 400 too many types.
    """
    query, bound = request.query, request.caller.tenant
    tenant = query.get("tenant", bound)
    if bound is not None and tenant != bound:
        raise Problem(403, f"client {request.caller.name} is bound to tenant {bound}")
    names = [name for name in query.get("type", "").split(",") if name]
    if len(names) > _MOST_TYPES:
        raise Problem(400, f"type: at most {_MOST_TYPES} of them, separated by commas")
    types = [re.compile(fnmatch.translate(name)) for name in names]
    subject = query.get("subject")

    def wants(event_type: str, about: str | None) -> bool:
        return (subject is None or about == subject) and (
            not types or any(pattern.match(event_type) for pattern in types)
        )

    return Filter(tenant=tenant, any_tenant=tenant is None, wants=wants)


def _told(message: Message) -> bytes:
    return _block(message.data, name="" if message.position else "progress", position=message.position)


def _block(data: bytes, *, name: str = "", position: str | None = None) -> bytes:
    """Return an event as the stream has it; the data is one line. Without a name it is a `message`."""
    lines = [f"id: {position}".encode()] if position else []
    if name:
        lines.append(f"event: {name}".encode())
    return b"\n".join([*lines, b"data: " + data, b"\n"])
