"""The mesh of the trace tests, and looking at its traces without the command line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from penstock.keys import Keys
from penstock.redis.connection import client
from penstock.topology import load
from penstock.traces import Attempt, Trace, TracedEvent, TraceList, Traces, TraceState
from tests.processes import eventually, service_process
from tests.servers import Server

T = TypeVar("T")
TOPOLOGY = Path(__file__).parent / "integration" / "traces.yaml"
JOBS = "tests.integration.trace_jobs"


@contextlib.contextmanager
def worker(server: Server, **env: str) -> Iterator[None]:
    """Run the shipped worker with the jobs of the trace tests."""
    given = {"REDIS_URL": server.url, "PENSTOCK_TOPOLOGY": str(TOPOLOGY), "PENSTOCK_JOBS": f"{JOBS}:jobs", **env}
    with service_process("-m", "penstock_services.worker", env=given):
        yield


@contextlib.contextmanager
def shipping(server: Server) -> Iterator[None]:
    """Run the service that does not report."""
    given = {"REDIS_URL": server.url, "PENSTOCK_TOPOLOGY": str(TOPOLOGY)}
    with service_process("-m", "penstock", "run", f"{JOBS}:shipping", env=given):
        yield


def look(server: Server, wanted: str, *, newest: int = 10_000) -> Trace | None:
    """Return a trace by its id, or by that of one of its events."""
    return _ask(server, lambda traces: traces.find(wanted, newest=newest))


def recent(server: Server, *, limit: int = 50, newest: int = 10_000) -> TraceList:
    """Return the latest traces."""
    return _ask(server, lambda traces: traces.recent(limit=limit, newest=newest))


def wait_for(server: Server, wanted: str, state: TraceState) -> Trace:
    """Wait until a trace is in `state`."""

    def check() -> Trace | None:
        trace = look(server, wanted)
        return trace if trace is not None and trace.state == state else None

    eventually(check, what=f"the trace of {wanted} is {state}")
    found = look(server, wanted)
    assert found is not None
    return found


def attempts_of(event: TracedEvent, group: str = "worker") -> tuple[Attempt, ...]:
    [hop] = [hop for hop in event.hops if hop.group == group]
    return hop.attempts


def _ask(server: Server, wanted: Callable[[Traces], Awaitable[T]]) -> T:
    async def ask() -> T:
        redis = client(server.url)
        try:
            return await wanted(Traces(redis, Keys(), load(TOPOLOGY)))
        finally:
            await redis.aclose()

    return asyncio.run(ask())
