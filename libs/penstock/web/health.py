"""What every service answers: liveness, readiness, its measurements, and the health of the mesh."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import msgspec
from aiohttp import web

from penstock.keys import Keys
from penstock.mesh.health import breakers_health, dlq_health
from penstock.redis.connection import AsyncRedis
from penstock.service.runtime import Runtime
from penstock.single_flight import SingleFlight
from penstock.web.problems import Problem
from penstock.web.routes import Endpoint, HttpRoute, Request, get, json

HEALTH: dict[str, Callable[[AsyncRedis, Keys], Awaitable[object]]] = {
    "/health/circuit-breakers": breakers_health,
    "/health/dlq": dlq_health,
}
"""What every service answers about the mesh, by path."""


class Lively(msgspec.Struct, frozen=True):
    """What /livez answers."""

    status: Literal["alive"] = "alive"


class Ready(msgspec.Struct, frozen=True, omit_defaults=True):
    """What /readyz answers if so. `degraded`: it does, as well as it can; `why` is a sentence."""

    status: Literal["ready", "degraded"]
    why: str = ""


def common_routes(runtime: Runtime, own: Sequence[HttpRoute] = ()) -> list[HttpRoute]:
    """Return the routes that every service has, but for those that it has of its own."""
    routes = [
        get("/livez", _live, scope="public", vital=True),
        get("/readyz", _readiness(runtime), scope="public", vital=True),
        get("/metrics", _measurements(runtime), scope="scrape"),
        # Probes cannot make it cost more than a look every 2 s.
        *(
            get(path, answering(SingleFlight(functools.partial(look, runtime.redis, runtime.keys))))
            for path, look in HEALTH.items()
        ),
    ]
    taken = {route.path for route in own}
    return [route for route in routes if route.path not in taken]


def answering(look: Callable[[], Awaitable[object]]) -> Endpoint:
    """Return an endpoint that answers with what `look` returns, in JSON."""

    async def answer(_: Request) -> web.Response:
        return json(await look())

    return answer


async def _live(_: Request) -> web.Response:
    return json(Lively())


def _readiness(runtime: Runtime) -> Endpoint:
    async def ready(_: Request) -> web.Response:
        if runtime.stopping.is_set():
            raise Problem(503, "stopping")
        if hung := runtime.hung():
            raise Problem(503, f"threads of plain handlers that hang: {hung}")
        if trouble := runtime.trouble():
            raise Problem(503, f"not ready: {trouble}")
        await runtime.redis.ping()
        return json(Ready("ready"))

    return ready


def _measurements(runtime: Runtime) -> Endpoint:
    async def measurements(_: Request) -> web.Response:
        text = runtime.telemetry.exposition(hung_threads=runtime.hung())
        if (spooling := runtime.publisher.spooling) is not None:
            text += spooling.exposition()
        return web.Response(text=text, content_type="text/plain", charset="utf-8")

    return measurements
