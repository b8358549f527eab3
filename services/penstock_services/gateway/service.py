"""The gateway service: an HTTP server inside the life of a Penstock service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from importlib import resources

from aiohttp import web

from penstock import ConfigurationError, Service, Unavailable
from penstock.jobs.identities import Identities
from penstock.redis.connection import telling_unavailable
from penstock.service.runtime import Runtime
from penstock.settings import Settings, is_loopback
from penstock.topology import Topology
from penstock.web.limits import Limits
from penstock.web.routes import HttpRoute, Request, get
from penstock.web.server import Server
from penstock_services.gateway import orchestrator
from penstock_services.gateway.connections import ConnectionRoutes
from penstock_services.gateway.events import NAME, Events, publishable
from penstock_services.gateway.live import LiveRoutes
from penstock_services.gateway.sources import WebhookSource
from penstock_services.gateway.sources import sources as webhook_sources
from penstock_services.gateway.traces import TracePages
from penstock_services.gateway.upstream import Upstream
from penstock_services.gateway.webhooks import Webhooks


def build(settings: Settings, topology: Topology) -> Service:
    """Return the gateway for the webhook sources in `topology`.

    Raises:
        ConfigurationError: a source cannot be used, events would go where the gateway may not publish, or everybody
            could reach it and nobody said that they may.
    """
    sources = webhook_sources(topology, demo=settings.demo_webhook)
    publishes = publishable(topology)
    if not publishes:
        raise ConfigurationError(
            f"streams.yaml: services.{NAME}.publishes is empty, and no stream has kind: work; name one of the two"
        )
    for stream in sorted({source.hook.stream for source in sources.values()}.difference(publishes)):
        raise ConfigurationError(f"streams.yaml: services.{NAME}.publishes does not list {stream}; add it")
    _check_address(settings, topology)
    service = Service(NAME, spools=True)

    @service.task
    async def serve(runtime: Runtime) -> None:
        for source in sources.values():
            source.warn()
        upstream = Upstream(runtime, frozenset(publishes))
        await upstream.look()
        identities = await _identities(runtime)
        host, port = settings.gateway_host, settings.gateway_port
        table = routes(runtime, identities, upstream, sources)
        server = Server(runtime, table, host=host, limits=Limits.of(settings), opened=settings.gateway_open)
        listening = await server.listen(host, port, variable="PENSTOCK_GATEWAY_PORT")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(upstream.watch())
            await runtime.stopping.wait()
            await server.finish(listening)

    return service


async def _identities(runtime: Runtime) -> Identities:
    spooling = runtime.publisher.spooling
    identities = Identities(runtime.redis, runtime.keys, copy=None if spooling is None else spooling.secret_path)
    if spooling is not None:  # later may be too late
        with contextlib.suppress(Unavailable), telling_unavailable():
            await identities.prepare()
    return identities


def routes(
    runtime: Runtime, identities: Identities, upstream: Upstream, sources: Mapping[str, WebhookSource]
) -> list[HttpRoute]:
    """Return what the gateway answers beside what every service does; `openapi.API` describes it."""
    document = resources.files(__package__).joinpath("openapi.json").read_bytes()

    async def describe(_: Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    return [
        *Events(runtime, identities, upstream).routes,
        *LiveRoutes(runtime).routes,
        *ConnectionRoutes(runtime).routes,
        *Webhooks(runtime, identities, upstream, sources).routes,
        *TracePages(runtime).routes,
        *orchestrator.routes(runtime),
        get("/openapi.json", describe),
        get("/readyz", upstream.answer_ready, scope="public", vital=True),
    ]


def _check_address(settings: Settings, topology: Topology) -> None:
    host = settings.gateway_host
    if not (is_loopback(host) or topology.clients or settings.gateway_open):
        raise ConfigurationError(
            f"PENSTOCK_GATEWAY_HOST: everybody who reaches {host} could publish events and read results. Declare "
            "clients in streams.yaml, or set PENSTOCK_GATEWAY_OPEN=true if that is meant"
        )
