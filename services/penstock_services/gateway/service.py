"""The gateway service: an HTTP server inside the life of a Penstock service."""

from __future__ import annotations

import asyncio

from penstock import ConfigurationError, Service
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.topology import Topology
from penstock_services.gateway.app import STREAM, App
from penstock_services.gateway.server import Listener
from penstock_services.gateway.upstream import Upstream
from penstock_services.gateway.webhooks import sources

NAME = "gateway"


def build(settings: Settings, topology: Topology) -> Service:
    """Return the gateway for the webhook sources in `topology`.

    Raises:
        ConfigurationError: a source cannot be used, or events would go where the gateway may not publish.
    """
    known = sources(topology)
    streams = frozenset({STREAM, *(source.stream for source in known.values())})
    for stream in sorted(streams.difference(topology.service(NAME).publishes)):
        raise ConfigurationError(f"streams.yaml: services.{NAME}.publishes does not list {stream}; add it")
    service = Service(NAME)

    @service.task
    async def serve(runtime: Runtime) -> None:
        for source in known.values():
            source.warn()
        upstream = Upstream(runtime, streams)
        listener = Listener(App(runtime, known, upstream).answer, runtime.settings)
        await upstream.look()
        server = await listener.listen()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(upstream.watch())
            await runtime.stopping.wait()
            await listener.finish(server)

    return service
