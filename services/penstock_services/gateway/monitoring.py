"""What monitoring asks of the gateway as of every service, and the document that describes all their routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import resources

from aiohttp import web

from penstock.service.runtime import Runtime
from penstock.web.server import health, json

Handler = Callable[[web.BaseRequest, str], Awaitable[web.Response]]


class Monitoring:
    """Answers /metrics of this process, /health/* of the mesh and /openapi.json."""

    def __init__(self, runtime: Runtime) -> None:
        self._telemetry = runtime.telemetry
        self._document = resources.files(__package__).joinpath("openapi.json").read_bytes()
        self.paths: dict[str, Handler] = {
            "/metrics": self._measurements,
            "/openapi.json": self._describe,
            **{path: telling(tell) for path, tell in health(runtime).items()},
        }

    async def _measurements(self, _: web.BaseRequest, __: str) -> web.Response:
        return web.Response(text=self._telemetry.exposition(), content_type="text/plain", charset="utf-8")

    async def _describe(self, _: web.BaseRequest, __: str) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")


def telling(tell: Callable[[], Awaitable[object]]) -> Handler:
    """Return a handler that answers with what `tell` returns, in JSON."""

    async def telling(_: web.BaseRequest, __: str) -> web.Response:
        return json(await tell())

    return telling
