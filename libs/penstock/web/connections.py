"""Connections: a deadline on every request head and on every answer, and a bound on how many there are.

aiohttp.web has no such timers and no cap, so the connection is where they live.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

from penstock.web.limits import Limits
from penstock.web.problems import Problem, overloaded

if TYPE_CHECKING:
    from penstock.web.server import Server

SPARE = 32  # connections beyond the cap, for probes: what they are answered cannot be taken by others
SEND_BUFFER = 262_144  # bytes that the kernel holds for a client that does not read
_KEEP_ALIVE = 75.0  # seconds an idle connection is kept; longer than the 60 of common reverse proxies
_LINGER = 1.0  # seconds to take in the rest of a body that was refused, so that the answer arrives
_SPARE_HEAD = 1.0  # seconds a connection without room has for its request's head
_slow_head = Problem(408, "the request's head did not arrive in time").raw()
_no_room = overloaded("too many connections", retry_after=1).raw()


def share_of(address: str) -> str:
    """Return by what the connections from an address are counted: of IPv6 its /64, as one host may have all of that."""
    if ":" not in address:
        return address
    ip = ipaddress.IPv6Address(address.partition("%")[0])
    return str(ip.ipv4_mapped or ipaddress.IPv6Network((ip, 64), strict=False))


class Connection(web.RequestHandler):
    """One connection; the head of each request must be complete in time, and each answer be read in time."""

    __slots__ = (
        "_began",
        "_begun",
        "_busy",
        "_head_timer",
        "_limits",
        "_send_timer",
        "_served",
        "_server",
        "on_lost",
        "peer",
        "spare",
        "stuck_since",
    )

    def __init__(self, server: Server, limits: Limits) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_KEEP_ALIVE,
            lingering_time=_LINGER,
            auto_decompress=False,  # compressed bodies are refused: nothing is to unpack them
        )
        self._server = server
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._begun = False
        self._began = 0
        self._busy = False
        self._served = False
        self.on_lost: Callable[[], None] | None = None
        """What to call when it has ended."""
        self.peer = ""
        self.spare = False
        """Whether there was no room: only what is vital is answered."""
        self.stuck_since: float | None = None
        """Since when the client has not read what waits for it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock: a connection that stays silent does not stay."""
        super().connection_made(transport)
        name = transport.get_extra_info("peername")
        self.peer = share_of(str(name[0])) if name else ""
        self.spare = not self._server.has_room(self)
        self._start_clock(_SPARE_HEAD if self.spare else self._limits.head_timeout)

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the first of a head start its clock."""
        if not self._busy:
            if not self._begun:
                self._begun, self._began = True, time.time_ns()
            if self._head_timer is None:
                self._start_clock(self._limits.head_timeout)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clocks."""
        self.head_complete()
        self._reads()
        self._server.gone(self)
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        """Start the clock of a client that does not read its answers."""
        super().pause_writing()
        loop = asyncio.get_running_loop()
        self.stuck_since = loop.time()
        self._send_timer = loop.call_later(self._limits.send_timeout, self.drop)

    def resume_writing(self) -> None:
        """Stop that clock."""
        self._reads()
        super().resume_writing()

    def head_complete(self) -> None:
        """Stop the clock: a request is being answered."""
        self._busy, self._begun, self._served = True, False, True
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def answered(self) -> None:
        """Expect the next request; until its first byte comes, the keep-alive time holds."""
        self._busy = False

    def linger(self, response: web.StreamResponse) -> None:
        """End soon; what the client is sending is taken in meanwhile, as closing on it could cost it the answer."""
        response.headers["Connection"] = "close"
        if self._head_timer is None:
            self._start_clock(_LINGER)

    def drop(self) -> None:
        """End the connection, whatever waits to be written."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP."""
        self.head_complete()
        if status != 400:
            return super().handle_error(request, status, exc, message)
        reason = (message or "").strip().partition("\n")[0].rstrip(":")
        self._server.refused(400, since=self._began)
        response = Problem(400, f"this is not a well-formed HTTP/1.1 request: {reason}").response()
        response.force_close()
        return response

    def _reads(self) -> None:
        self.stuck_since = None
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _start_clock(self, seconds: float) -> None:
        self._head_timer = asyncio.get_running_loop().call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        if self.transport is not None and self._begun:
            self.transport.write(_slow_head)
            self._server.refused(408, since=self._began)
        elif self.transport is not None and self.spare and not self._served:
            self.transport.write(_no_room)
            self._served = True
            self._start_clock(_LINGER)
            return
        self.force_close()
