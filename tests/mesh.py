"""A service that runs within the test's own event loop, and waiting for what it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from penstock import Service
from penstock.service.lifecycle import serve
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.topology import Topology, parse
from tests.hands import Raw, end
from tests.servers import Server

DEADLINE = 20.0


async def eventually(check: Callable[[], object], *, deadline: float = DEADLINE, what: str = "") -> None:
    """Wait until `check` is true; fail with what it last returned after `deadline` seconds."""
    until = time.monotonic() + deadline
    while not (last := check()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {deadline} s: {what or check}; last: {last!r}")
        await asyncio.sleep(0.005)  # a poll of something that sends no signal


@asynccontextmanager
async def running(
    service: Service, topology: Topology | str, server: Server, **settings: Any
) -> AsyncIterator[Runtime]:
    """Run a service as `penstock run` does; it has made its groups and reads. At the end it is stopped in order."""
    mesh = parse(topology) if isinstance(topology, str) else topology
    introduced: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()

    async def introduce(runtime: Runtime) -> None:
        introduced.set_result(runtime)
        await runtime.stopping.wait()

    service.task(introduce)
    chosen = msgspec.structs.replace(Settings(redis_url=server.url), **settings)
    served = asyncio.create_task(serve(service, chosen, mesh))
    try:
        starting: set[asyncio.Future[Any]] = {served, introduced}
        await asyncio.wait(starting, return_when=asyncio.FIRST_COMPLETED)
        if introduced.done():
            runtime = introduced.result()
            await eventually(lambda: runtime.ready or served.done(), what=f"{service.name} is ready")
            if not served.done():
                yield runtime
                runtime.stopping.set()
        await served
    finally:
        await end(served)
        service.tasks.remove(introduce)


def settled(raw: Raw, stream: str, group: str) -> bool:
    """Return whether `group` has read all of `stream`, and has nothing in flight, parked or to be tried again."""
    groups = {info["name"].decode(): info for info in raw.xinfo_groups(stream)}
    info = groups[group]
    last = raw.xrevrange(stream, count=1)
    if info["pending"] or (last and info["last-delivered-id"] != last[0][0]):
        return False
    # Last: an entry is parked when it is no longer in flight, not the other way round.
    return not waiting(raw, stream, group)


def waiting(raw: Raw, stream: str, group: str) -> int:
    """Return how many events wait for another try or are in hand for it, at one instant: they go to and fro."""
    with raw.pipeline(transaction=True) as pipeline:
        pipeline.zcard(f"{stream}:{group}:delayed")
        pipeline.xlen(f"{stream}:{group}:retry")
        return sum(pipeline.execute())
