"""The metrics service, put together."""

from __future__ import annotations

import asyncio
import contextlib

from penstock import BatchContext, ConfigurationError, Event, Service
from penstock.keys import METRICS
from penstock.metrics.tally import encode
from penstock.metrics.windows import OPEN, SERVICE, counted_streams, parts_of
from penstock.redis.connection import server_ms, unavailable
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.streams.election import Election
from penstock.streams.position import watermark_of
from penstock.topology import Topology
from penstock_services.metrics.api import serve_api
from penstock_services.metrics.close import Closer
from penstock_services.metrics.count import tally
from penstock_services.metrics.mesh import MeshWatch

_BATCH = 500
_TICK = 1.0  # seconds


def build(settings: Settings, topology: Topology) -> Service:
    """Return the metrics service.

    Raises:
        ConfigurationError: streams.yaml does not let it publish windows.
    """
    if METRICS not in topology.service(SERVICE).publishes:
        raise ConfigurationError(f"streams.yaml: services.{SERVICE}.publishes does not list {METRICS}; add it")
    service = Service(SERVICE)
    lateness_ms = round(settings.metrics_lateness * 1000)

    async def count(events: list[Event], ctx: BatchContext) -> None:
        for start, tallies in tally(events, lateness_ms, await server_ms(ctx.redis)).items():
            ctx.state.append(parts_of(start), encode(tallies))
            ctx.state.zadd(OPEN, {str(start): start})

    for stream in counted_streams(topology):
        service.on(stream, batch=_BATCH)(count)

    @service.task
    async def close_windows(runtime: Runtime) -> None:
        closer = Closer(runtime.redis, runtime.keys, lateness_ms=lateness_ms, most_series=settings.metrics_series)
        mesh = MeshWatch(runtime.redis, runtime.keys, runtime.topology)
        election = Election(runtime.redis, runtime.keys, SERVICE, tick=_TICK)
        while not runtime.stopping.is_set():
            try:
                await _tick(runtime, election, closer, mesh)
            except Exception as error:  # the reader says so when Redis is away
                if unavailable(error) is None:
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await runtime.stopping.wait()

    service.task(serve_api)
    return service


async def _tick(runtime: Runtime, election: Election, closer: Closer, mesh: MeshWatch) -> None:
    """Do what is due, in one of all replicas. An idle mesh is asked little."""
    now = await server_ms(runtime.redis)
    closing = await closer.is_due()
    if not (closing or mesh.is_due(now)) or not await election.won():
        return
    await mesh.tick(now)
    if closing:
        streams = counted_streams(runtime.topology)
        await closer.tick(*await watermark_of(runtime.redis, runtime.keys, streams, SERVICE))
