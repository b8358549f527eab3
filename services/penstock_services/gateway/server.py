"""The HTTP server: a deadline on every request head, a cap on connections, and an orderly end.

aiohttp.web has no timer for the request head and no cap, so the connection is where both live.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from typing import cast

import structlog
from aiohttp import web

from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.web.problems import Problem, overloaded

Handler = Callable[[web.BaseRequest], Awaitable[web.Response]]

_KEEP_ALIVE = 75.0  # seconds an idle connection is kept; longer than the 60 of common reverse proxies
_LINGER = 1.0  # seconds to take in the rest of a body that was refused, so that the answer arrives
_QUEUE = 1024  # connections that the kernel holds for us
_log = structlog.get_logger("penstock.gateway")
_slow_head = Problem(408, "the request's head did not arrive in time").raw()
_no_room = overloaded("too many connections", retry_after=1).raw()


class Connection(web.RequestHandler):
    """One connection; the head of each request must be complete in time."""

    __slots__ = ("_begun", "_busy", "_head_seconds", "_head_timer")

    def __init__(self, server: web.Server, *, head_seconds: float) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_KEEP_ALIVE,
            lingering_time=_LINGER,
            auto_decompress=False,  # compressed bodies are refused: nothing is to unpack them
        )
        self._head_seconds = head_seconds
        self._head_timer: asyncio.TimerHandle | None = None
        self._begun = False
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock: a connection that stays silent does not stay."""
        super().connection_made(transport)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Take in bytes; the first of a head start its clock."""
        if not self._busy:
            self._begun = True
            if self._head_timer is None:
                self._start_clock()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock."""
        self.head_complete()
        super().connection_lost(exc)

    def head_complete(self) -> None:
        """Stop the clock: a request is being answered."""
        self._busy, self._begun = True, False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def answered(self) -> None:
        """Expect the next request; until its first byte comes, the keep-alive time holds."""
        self._busy = False

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
        response = Problem(400, f"this is not a well-formed HTTP/1.1 request: {reason}").response()
        response.force_close()
        return response

    def _start_clock(self) -> None:
        self._head_timer = asyncio.get_running_loop().call_later(self._head_seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._begun and self.transport is not None:
            self.transport.write(_slow_head)
        self.force_close()


class _Refusal(asyncio.Protocol):
    """A connection above the cap: says so and hangs up, without reading a request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        stream.write(_no_room)
        stream.write_eof()
        # What the client is sending is taken in meanwhile: closing on unread bytes could cost it the answer.
        asyncio.get_running_loop().call_later(_LINGER, stream.abort)


class Listener(web.Server):
    """Accepts connections up to a cap and knows how many requests are under way."""

    def __init__(self, handler: Handler, settings: Settings) -> None:
        super().__init__(self._answer)
        self._answerer = handler
        self._settings = settings
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._stopping = False

    def accept(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        if len(self.connections) >= self._settings.gateway_max_connections:
            return _Refusal()
        return Connection(self, head_seconds=self._settings.gateway_head_timeout)

    async def listen(self) -> asyncio.Server:
        """Start to accept connections.

        Raises:
            ConfigurationError: the address cannot be had; the message names the variable to change.
        """
        host, port = self._settings.gateway_host, self._settings.gateway_port
        try:
            server = await asyncio.get_running_loop().create_server(self.accept, host, port, backlog=_QUEUE)
        except OSError as error:
            raise ConfigurationError(_explain(error, host, port)) from None
        _log.info("listening", addresses=[_url(*socket.getsockname()[:2]) for socket in server.sockets])
        return server

    async def finish(self, server: asyncio.Server) -> None:
        """Stop accepting; let requests under way end, within the grace time."""
        self._stopping = True
        server.close()
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                await self._quiet.wait()
        except TimeoutError:
            _log.warning("grace time is over: dropping requests under way", requests=self._under_way)
        self.pre_shutdown()
        await self.shutdown(1.0)  # answers that are being written

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        connection = cast(Connection, request.protocol)
        connection.head_complete()
        self._under_way += 1
        self._quiet.clear()
        try:
            response = await self._answerer(request)
        finally:
            connection.answered()
            self._under_way -= 1
            if not self._under_way:
                self._quiet.set()
        response.headers["Server"] = "penstock"
        if self._stopping or not request.content.is_eof():
            response.force_close()
        return response


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"PENSTOCK_GATEWAY_PORT: {host}:{port} is taken by another program; stop that one, or set "
            "PENSTOCK_GATEWAY_PORT to a free port"
        )
    if error.errno == errno.EACCES:
        return f"PENSTOCK_GATEWAY_PORT: only root may listen on port {port}; set it to one above 1023"
    reason = str(error.strerror).rpartition(": ")[2]
    return f"PENSTOCK_GATEWAY_HOST: cannot listen on {host}:{port} ({reason}); set it to an address of this machine"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
