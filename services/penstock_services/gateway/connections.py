"""`GET /v1/connections`: who follows what, over which connection; `POST /v1/connections/{id}/messages`: tell one."""

from __future__ import annotations

import msgspec
from aiohttp import web

from penstock.live.registry import Connections, LiveConnection
from penstock.service.runtime import Runtime
from penstock.web.body import parse
from penstock.web.problems import Problem
from penstock.web.routes import Request, get, json, post


class ConnectionList(msgspec.Struct, frozen=True):
    """The live connections of all processes, the oldest first."""

    connections: list[LiveConnection]


class Told(msgspec.Struct, frozen=True):
    """Which connection a message is on its way to."""

    connection: str


class ConnectionRoutes:
    """Looks into the registry of live connections."""

    def __init__(self, runtime: Runtime) -> None:
        settings = runtime.settings
        self._connections = Connections(runtime.redis, runtime.keys, name=settings.registry_key)
        self.routes = [
            get("/v1/connections", self._list, scope="operate", own_tenant=True),
            post("/v1/connections/{id}/messages", self._tell, scope="operate", own_tenant=True),
        ]

    async def _list(self, request: Request) -> web.Response:
        return json(ConnectionList(await self._connections.all(tenant=request.caller.tenant)))

    async def _tell(self, request: Request) -> web.Response:
        message = parse(await request.read_json())
        if not await self._connections.tell(request.rest, message, tenant=request.caller.tenant):
            raise Problem(404, "there is no such connection, or not any more")
        return json(Told(request.rest), status=202)
