"""The HTTP server of every service: a request's way from the socket to its endpoint, and a failure's to a problem."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Sequence
from typing import cast

import structlog
from aiohttp import web

from penstock import processes
from penstock.errors import ConfigurationError, InvalidEvent, Unavailable
from penstock.redis.connection import unavailable
from penstock.service.runtime import Runtime
from penstock.settings import is_loopback
from penstock.telemetry.server_spans import ServerSpan, record_unread
from penstock.web import tickets
from penstock.web.access import Access, AccessPolicy
from penstock.web.clients import Clients
from penstock.web.connections import SEND_BUFFER, SPARE, Connection
from penstock.web.health import common_routes
from penstock.web.limits import Limits
from penstock.web.problems import Problem, away, overloaded
from penstock.web.routes import HttpRoute, Request, RouteTable
from penstock.web.spans import server_span

_QUEUE = 1024  # connections that the kernel holds for us
_log = structlog.get_logger("penstock.http")


async def serve(runtime: Runtime, routes: Sequence[HttpRoute], *, host: str, port: int, variable: str) -> None:
    """Serve `routes`, and those that every service has, until the service is asked to stop.

    Replicas on one machine share the port: the kernel spreads connections over them. `variable` names the
    setting of the port, for errors.

    Raises:
        ConfigurationError: the address cannot be had, or a client's secret cannot be used.
    """
    server = Server(runtime, routes, host=host, limits=Limits())
    listening = await server.listen(host, port, variable=variable, shared=hasattr(socket, "SO_REUSEPORT"))
    await runtime.stopping.wait()
    await server.finish(listening)


class Server(web.Server):
    """Accepts connections up to a cap, admits requests, and knows how many are under way."""

    def __init__(
        self, runtime: Runtime, routes: Sequence[HttpRoute], *, host: str, limits: Limits, opened: bool = False
    ) -> None:
        super().__init__(self._take)
        settings = runtime.settings
        self.table = RouteTable([*routes, *common_routes(runtime, routes)])
        self._clients = Clients.of(runtime.topology, settings)
        self._policy = AccessPolicy(loopback=is_loopback(host), opened=opened, names=settings.host_names)
        self._access = Access(self._clients, self._policy)
        self._limits = limits
        self._tickets = tickets.Tickets(runtime.redis, runtime.keys)
        self._telemetry = runtime.telemetry
        self._drain_timeout = settings.drain_timeout
        self._peers: Counter[str] = Counter()
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._stopping = False

    # Connections

    async def listen(self, host: str, port: int, *, variable: str, shared: bool = False) -> asyncio.Server:
        """Start to accept connections; `variable` names the setting of the port, for errors.

        Raises:
            ConfigurationError: the address cannot be had; the message names the variable to change.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(self._accept, host, port, backlog=_QUEUE, reuse_port=shared or None)
        except OSError as error:
            raise ConfigurationError(_why_not(error, host, port, variable)) from None
        for listening in server.sockets:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # its connections inherit it
        _log.info("listening", addresses=[_url(*listening.getsockname()[:2]) for listening in server.sockets])
        self._say_who_may()
        return server

    async def finish(self, server: asyncio.Server) -> None:
        """Stop accepting; let requests under way end, within the grace time."""
        self._stopping = True
        server.close()
        try:
            async with asyncio.timeout(self._drain_timeout):
                await self._quiet.wait()
        except TimeoutError:
            _log.warning("grace time is over: dropping requests under way", requests=self._under_way)
        self.pre_shutdown()
        await self.shutdown(1.0)  # answers that are being written

    def has_room(self, connection: Connection) -> bool:
        """Return whether a new connection is within the bounds, and count it if it is.

        Whoever does not read what was answered makes room for others first.
        """
        of_peer = self._peers[connection.peer] >= self._limits.peer_connections
        if of_peer or self._peers.total() >= self._limits.connections:
            others = [one for one in cast(Sequence[Connection], self.connections) if one is not connection]
            if not self._make_room([one for one in others if one.peer == connection.peer] if of_peer else others):
                return False
        self._peers[connection.peer] += 1
        return True

    def _make_room(self, others: Sequence[Connection]) -> bool:
        stuck = [(one.stuck_since, number) for number, one in enumerate(others) if one.stuck_since is not None]
        if stuck:
            others[min(stuck)[1]].drop()
            return True
        spare = [one for one in others if one.spare]
        if len(spare) >= SPARE:
            spare[0].drop()  # a probe sends its request at once; this one has waited longest
        return False

    def gone(self, connection: Connection) -> None:
        """Count a connection out."""
        if not connection.spare:
            self._peers[connection.peer] -= 1
            if not self._peers[connection.peer]:
                del self._peers[connection.peer]

    def _accept(self) -> asyncio.Protocol:
        return Connection(self, self._limits)

    def _say_who_may(self) -> None:
        if self._policy.opened and not self._clients.declared:
            _log.warning("OPEN: whoever reaches this address may publish, read and act; declare clients to close it")
        elif not self._policy.loopback and not self._clients.declared:
            _log.warning("closed but for probes and signed webhooks: streams.yaml declares no clients")

    # Requests

    async def _take(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(Connection, request.protocol)
        connection.head_complete()
        self._under_way += 1
        self._quiet.clear()
        try:
            response = await self.answer(request, spare=connection.spare)
        finally:
            connection.answered()
            self._under_way -= 1
            if not self._under_way:
                self._quiet.set()
        response.headers["Server"] = "penstock"
        if connection.spare:
            connection.linger(response)
        elif self._stopping or not request.content.is_eof():
            response.force_close()
        return response

    async def answer(self, request: web.BaseRequest, *, spare: bool = False) -> web.StreamResponse:
        """Answer a request; every failure becomes a problem document, and every answer ends its span."""
        span = server_span(self._telemetry, request)
        try:
            route, rest = self._find(request, span, spare=spare)
            holder = await self._holder(request) if route.ticketed else None
            caller = self._access.admit(request, route.scope, own_tenant=route.own_tenant, holder=holder)
            response = await route.endpoint(Request(request, caller, rest, self._limits, span))
        except Problem as problem:
            span.end(problem.status, why=problem.detail)
            return problem.response()
        except Exception as error:  # noqa: BLE001 - it becomes an answer, and a log line if it is ours
            failure = _failure(error)
            span.end(failure.status, error=type(error).__name__, why=failure.detail)
            return failure.response()
        except BaseException as error:
            span.end(None, error=type(error).__name__)
            raise
        span.end(response.status)
        return response

    async def _holder(self, request: web.BaseRequest) -> str | None:
        """Return whom the ticket stands for that a request comes with, if it does."""
        protocols = request.headers.get("Sec-WebSocket-Protocol")
        ticket = tickets.presented(request.query.get("ticket"), protocols)
        return None if ticket is None else (await self._tickets.take(ticket)).decode()

    def refused(self, status: int, *, since: int) -> None:
        """Take note of a request that was refused before it could be read; `since` as `record_unread` has it."""
        record_unread(self._telemetry, status, since=since)

    def _find(self, request: web.BaseRequest, span: ServerSpan, *, spare: bool) -> tuple[HttpRoute, str]:
        """Return the route, once it is sure that there is room, and that no page of another site asks."""
        try:
            route, rest = self.table.find(request.method, request.rel_url.raw_path)
        except Problem:
            self._access.check_origin(request, navigable=False)
            raise
        span.route, span.quiet = route.path, route.quiet
        self._access.check_origin(request, navigable=route.navigable)
        if spare and not route.vital:
            raise overloaded("too many connections", retry_after=1)
        return route, rest


def _failure(error: Exception) -> Problem:
    reason = error if isinstance(error, Unavailable) else unavailable(error)
    if reason is None and isinstance(error, InvalidEvent):  # the keys in Redis are not what they should be
        reason = Unavailable(str(error))
    if reason is not None:
        return away(reason)
    if isinstance(error, ConfigurationError):  # what was asked for, as a parameter says it
        return Problem(400, str(error))
    _log.error("a request failed", exc_info=error)
    return Problem(500, "this is an error of the service; its log has the details")


def _why_not(error: OSError, host: str, port: int, variable: str) -> str:
    if error.errno == errno.EADDRINUSE:
        who = processes.listener(port)
        return f"{variable}: {host}:{port} is taken by {who}; stop that one, or set {variable} to a free port"
    if error.errno == errno.EACCES:
        return f"{variable}: only root may listen on port {port}; set it to one above 1023"
    reason = str(error.strerror).rpartition(": ")[2]
    setting = variable.removesuffix("_PORT") + "_HOST"
    return f"{setting}: cannot listen on {host}:{port} ({reason}); set it to an address of this machine"


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
