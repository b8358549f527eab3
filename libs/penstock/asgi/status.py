"""The mesh at a glance, for an application to mount."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.asgi.types import Receive, Scope, Send, client_of, respond
from penstock.client.client import Penstock
from penstock.errors import ConfigurationError, Unavailable
from penstock.mesh.status import MeshLooks
from penstock.redis.connection import telling_unavailable
from penstock.web.openapi import PROBLEM
from penstock.web.problems import Problem, away

NAMES = ("status", "metrics", "alerts")


class Status:
    """An ASGI application that answers /status, /metrics and /alerts of the mesh, below wherever it is mounted.

    At `/api/v1/orchestrator` that makes the addresses of the gateway. It only reads. WHO MAY SEE IT IS NOT ASKED HERE:
    mount it behind the application's own access control. The client is the one that a lifespan has opened, or `mesh`.
    """

    def __init__(self, mesh: Penstock | None = None) -> None:
        self._mesh = mesh
        self._looks: tuple[Penstock, MeshLooks] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the server."""
        if scope["type"] != "http":
            raise RuntimeError(f"the mesh's status is there over HTTP, not {scope['type']}")
        name = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/")
        status, headers, body = await self.answer(scope, name)
        await respond(scope, send, status, headers, body)

    async def answer(self, scope: Scope, name: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a request for `name`."""
        try:
            found = await self._look(scope, name)
        except Problem as problem:
            return problem.status, {"Content-Type": PROBLEM, **problem.headers}, problem.body
        return 200, {"Content-Type": "application/json", "Cache-Control": "no-store"}, msgspec.json.encode(found)

    async def _look(self, scope: Scope, name: str) -> Any:
        if name not in NAMES:
            raise Problem(404, f"there is nothing at this address; there are {', '.join(NAMES)}")
        if scope["method"] not in ("GET", "HEAD"):
            raise Problem(405, "this address takes GET, HEAD", headers={"Allow": "GET, HEAD"})
        try:
            with telling_unavailable():
                return await self._of(scope).looks[name]()
        except Unavailable as error:
            raise away(error) from error
        except ConfigurationError as error:  # the mesh is in memory, and tells nothing of itself
            raise Problem(501, str(error)) from error

    def _of(self, scope: Scope) -> MeshLooks:
        mesh = self._mesh or client_of(scope)
        if mesh is None:
            raise RuntimeError("no client is open: give the application penstock.asgi.lifespan, or Status(mesh)")
        if self._looks is None or self._looks[0] is not mesh:
            self._looks = mesh, MeshLooks(mesh.redis, mesh.keys, mesh.topology)
        return self._looks[1]
