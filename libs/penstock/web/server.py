"""A small HTTP server beside a service: liveness, readiness and what the service has to tell."""

from __future__ import annotations

import errno
import functools
import socket
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Literal

import msgspec
import structlog
from aiohttp import web

from penstock.errors import ConfigurationError
from penstock.keys import Keys
from penstock.mesh.health import breakers_health, dlq_health
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.service.runtime import Runtime
from penstock.web.openapi import PROBLEM, ProblemDetails
from penstock.web.single_flight import SingleFlight

HEALTH: dict[str, Callable[[AsyncRedis, Keys], Awaitable[object]]] = {
    "/health/circuit-breakers": breakers_health,
    "/health/dlq": dlq_health,
}
"""What every service answers about the mesh, by path."""
_COME_BACK = "2"  # seconds; about what a restart or failover of Redis takes
_SHUTDOWN = 1.0  # seconds for answers that are being written
_log = structlog.get_logger("penstock.http")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Lively(msgspec.Struct, frozen=True):
    """What /livez answers."""

    status: Literal["alive"] = "alive"


class Ready(msgspec.Struct, frozen=True):
    """What /readyz answers if so."""

    status: Literal["ready"] = "ready"


async def serve(runtime: Runtime, routes: Sequence[web.RouteDef], *, host: str, port: int, variable: str) -> None:
    """Serve until the service is asked to stop: what `application` has.

    Replicas on one machine share the port: the kernel spreads connections over them. `variable` names the
    setting of the port, for errors. Answers to what fails because Redis is away are 503.

    Raises:
        ConfigurationError: the address cannot be had; the message names the variable to change.
    """
    app = application(runtime, routes)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    try:
        shared = hasattr(socket, "SO_REUSEPORT")
        await web.TCPSite(runner, host, port, reuse_port=shared).start()
        _log.info("listening", addresses=[f"{bound[0]}:{bound[1]}" for bound in runner.addresses])
        await runtime.stopping.wait()
    except OSError as error:
        raise ConfigurationError(_why_not(error, host, port, variable)) from None
    finally:
        await runner.cleanup()


def application(runtime: Runtime, routes: Sequence[web.RouteDef]) -> web.Application:
    """Return `routes`, /livez, /readyz, /health/* and, unless it is among them, /metrics of this process."""
    app = web.Application(middlewares=[_explain_errors])
    app.add_routes(routes)
    app.add_routes([web.get("/livez", _live), web.get("/readyz", _readiness(runtime))])
    app.add_routes([web.get(path, _telling(tell)) for path, tell in health(runtime).items()])
    if all(getattr(route, "path", "") != "/metrics" for route in routes):
        app.add_routes([web.get("/metrics", _measurements(runtime))])
    return app


def health(runtime: Runtime) -> dict[str, SingleFlight[object]]:
    """Return what tells the health of the mesh, by path; probes cannot make it cost more than a look every 2 s."""
    return {path: SingleFlight(functools.partial(tell, runtime.redis, runtime.keys)) for path, tell in HEALTH.items()}


def json(value: Any, status: int = 200) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def problem(status: int, detail: str, **headers: str) -> web.Response:
    """Return an error answer as problem details (RFC 9457)."""
    document = ProblemDetails("about:blank", HTTPStatus(status).phrase, status, detail)
    return web.Response(status=status, body=msgspec.json.encode(document), content_type=PROBLEM, headers=headers)


async def _live(_: web.Request) -> web.Response:
    return json(Lively())


def _readiness(runtime: Runtime) -> _Handler:
    async def ready(_: web.Request) -> web.Response:
        if runtime.stopping.is_set():
            return problem(503, "stopping")
        if not runtime.ready:
            return problem(503, "not reading its streams yet, or Redis is away")
        await runtime.redis.ping()
        return json(Ready())

    return ready


def _telling(tell: SingleFlight[object]) -> _Handler:
    async def telling(_: web.Request) -> web.Response:
        return json(await tell())

    return telling


def _measurements(runtime: Runtime) -> _Handler:
    async def measurements(_: web.Request) -> web.Response:
        return web.Response(text=runtime.telemetry.exposition(), content_type="text/plain", charset="utf-8")

    return measurements


@web.middleware
async def _explain_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return problem(error.status, f"{request.method} {request.path}: {error.reason}")
    except ConfigurationError as error:
        return problem(400, str(error))
    except Exception as error:
        away = unavailable(error)
        if away is None:
            raise
        return problem(503, str(away), **{"Retry-After": _COME_BACK})


def _why_not(error: OSError, host: str, port: int, variable: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{variable}: {host}:{port} is taken by another program; stop that one, or set {variable} to a free port"
    return f"{variable}: cannot listen on {host}:{port} ({error.strerror})"
