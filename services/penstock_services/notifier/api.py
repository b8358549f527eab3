"""What the service tells over HTTP: who was notified, with what result."""

from __future__ import annotations

from aiohttp import web

from penstock.mesh.deliveries import DeliveryQuery, attempts, failed
from penstock.service.runtime import Runtime
from penstock.web.routes import HttpRoute, Request, get, json
from penstock.web.server import serve


async def serve_api(runtime: Runtime) -> None:
    """Serve `routes` until the service is asked to stop."""
    settings = runtime.settings
    await serve(
        runtime,
        routes(runtime),
        host=settings.notifier_host,
        port=settings.notifier_port,
        variable="PENSTOCK_NOTIFIER_PORT",
    )


def routes(runtime: Runtime) -> list[HttpRoute]:
    """Return what answers on /v1/deliveries and /v1/deliveries/failed; services.notifier.openapi describes it."""

    async def deliveries(request: Request) -> web.Response:
        found = await attempts(runtime.redis, runtime.keys, DeliveryQuery.parse(request.query))
        return json({"deliveries": found})

    async def given_up(request: Request) -> web.Response:
        limit = DeliveryQuery.parse(request.query, known=("limit",)).limit
        return json({"deliveries": await failed(runtime.redis, runtime.keys, limit=limit)})

    return [get("/v1/deliveries", deliveries), get("/v1/deliveries/failed", given_up)]
