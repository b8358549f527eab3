"""Ports: what a service answers over HTTP, every route of it, in the event loop of a test."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from penstock.keys import Keys
from penstock.redis.lanes import Lanes
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.streams.publish import Publisher
from penstock.telemetry.measures import Measures
from penstock.topology import parse
from penstock.web.limits import Limits
from penstock.web.routes import HttpRoute
from penstock.web.server import Server as HttpServer
from tests.processes import ROOT
from tests.routes import OWN
from tests.servers import Server

SHIPPED = (ROOT / "streams.yaml").read_text()


class Port:
    """A service's HTTP in this event loop."""

    def __init__(self, session: aiohttp.ClientSession, port: int, routes: tuple[HttpRoute, ...]) -> None:
        self._session = session
        self.number = port
        self.requests = [
            (route, method, re.sub(r"\{\w+\}", "x", route.path))
            for route in routes
            for method in ((route.method, "HEAD") if route.method == "GET" else (route.method,))
        ]

    async def __call__(self, method: str, path: str, **headers: str) -> int:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(method, f"http://127.0.0.1:{self.number}{path}", headers=names) as answer:
            return answer.status

    async def raw(self, request: bytes) -> int:
        """Return the status of what is answered to bytes; the connection ends with it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        writer.write(request)
        status = int((await reader.readline()).split()[1])
        writer.close()
        await writer.wait_closed()
        return status


@contextlib.asynccontextmanager
async def serving(
    service: str, server: Server, *, host: str = "127.0.0.1", clients: str = "", opened: bool = False, **how: Any
) -> AsyncIterator[Port]:
    lanes = Lanes(server.url, name=service)
    settings = Settings(redis_url=server.url, **how)
    async with (
        contextlib.aclosing(lanes),
        Publisher(lanes.client(), Keys(settings.prefix)) as publisher,
        aiohttp.ClientSession() as session,
    ):
        runtime = Runtime(
            service,
            settings=settings,
            topology=parse(SHIPPED + clients),
            lanes=lanes,
            publisher=publisher,
            telemetry=Measures(),
        )
        http = HttpServer(runtime, OWN[service](runtime), host=host, limits=Limits(), opened=opened)
        listening = await http.listen(host, 0, variable="PENSTOCK_PORT")
        try:
            yield Port(session, listening.sockets[0].getsockname()[1], http.table.routes)
        finally:
            await http.finish(listening)
