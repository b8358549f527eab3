"""What the service tells over HTTP: windows as JSON, totals and gauges for Prometheus."""

from __future__ import annotations

from aiohttp import web

from penstock.metrics.report import WindowQuery, report
from penstock.metrics.windows import WindowReader
from penstock.service.runtime import Runtime
from penstock.streams.lag import LagCounter
from penstock.web.routes import HttpRoute, Request, get, json
from penstock.web.server import serve
from penstock_services.metrics.mesh import gauges
from penstock_services.metrics.prometheus import CONTENT_TYPE, exposition


async def serve_api(runtime: Runtime) -> None:
    """Serve `routes` until the service is asked to stop."""
    settings = runtime.settings
    await serve(
        runtime,
        routes(runtime),
        host=settings.metrics_host,
        port=settings.metrics_port,
        variable="PENSTOCK_METRICS_PORT",
    )


def routes(runtime: Runtime) -> list[HttpRoute]:
    """Return what answers on /v1/metrics and /metrics; services.metrics.openapi describes it."""
    lags = LagCounter(runtime.redis)

    async def windows(request: Request) -> web.Response:
        return json(await report(runtime.redis, runtime.keys, runtime.topology, WindowQuery.parse(request.query)))

    async def prometheus(_: Request) -> web.Response:
        totals = await WindowReader(runtime.redis, runtime.keys).totals()
        page = exposition(totals, await gauges(runtime.redis, runtime.keys, runtime.topology, lags))
        return web.Response(body=page.encode(), headers={"Content-Type": CONTENT_TYPE})

    return [get("/v1/metrics", windows), get("/metrics", prometheus, scope="scrape")]
