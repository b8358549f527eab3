"""Guards: what a handler reads, decides and writes is one step, however many replicas do the same."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from penstock import BatchContext, Context, Event, Service
from penstock.redis.connection import AsyncRedis
from penstock.service.effects import State
from tests.hands import Raw, fields_of
from tests.mesh import eventually, running, settled
from tests.servers import Server

TOPOLOGY = """
streams: {ingest: {kind: facts}, events: {}}
services:
  sums:
    consumes: {ingest: {retry: {attempts: 3, base: 0.01, jitter: 0}}}
    publishes: [events]
    concurrency: 20
"""
EVENTS = 60


async def add_up(redis: AsyncRedis, state: State, count: int) -> int:
    """Read a number, think, and write it back with `count` more: what goes wrong without a guard."""
    found = await redis.hget(state.key("sum"), "total")
    await asyncio.sleep(0)
    total = int(found or 0) + count
    state.expect("sum", "total", found.decode() if found else None)
    state.hset("sum", {"total": total})
    return total


def one_by_one(attempts: list[int]) -> Service:
    service = Service("sums")

    @service.on("ingest")
    async def count(_: Event, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        ctx.emit("events", "counted", await add_up(ctx.redis, ctx.state, 1))

    return service


def in_batches(_: list[int]) -> Service:
    service = Service("sums")

    @service.on("ingest", batch=7)
    async def count(events: list[Event], ctx: BatchContext) -> None:
        total = await add_up(ctx.redis, ctx.state, len(events))
        for at, event in enumerate(events):
            ctx.emit(event, "events", "counted", total - at)

    return service


@pytest.mark.parametrize("build", [one_by_one, in_batches])
async def test_no_update_is_lost_between_handlers_and_replicas(server: Server, raw: Raw, build: object) -> None:
    assert callable(build)
    attempts: list[int] = []
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(running(build(attempts), TOPOLOGY, server))
        for _ in range(EVENTS):
            raw.xadd("ingest", {"type": "t"})
        await eventually(lambda: settled(raw, "ingest", "sums"), what="all is settled")

    assert raw.hget("state:sums:sum", "total") == b"%d" % EVENTS
    totals = [int(fields["data"]) for fields in fields_of(raw, "events")]
    assert sorted(totals) == list(range(1, EVENTS + 1))  # each number was reached once
    assert set(attempts) <= {1}  # running again for a guard is no attempt
    assert not raw.exists("dlq")


async def test_a_run_that_fails_is_not_held_by_its_guard(server: Server, raw: Raw) -> None:
    service = Service("sums")
    runs: list[int] = []

    @service.on("ingest")
    async def fail(_: Event, ctx: Context) -> None:
        runs.append(ctx.attempt)
        ctx.state.expect("sum", "total", "never")
        raise ValueError("boom")

    async with running(service, TOPOLOGY, server):
        raw.xadd("ingest", {"type": "t"})
        await eventually(lambda: raw.exists("dlq"), what="it is dead")

    assert runs == [1, 2, 3]


async def test_a_guard_on_what_is_no_hash_is_a_mistake_and_told(server: Server, raw: Raw) -> None:
    service = Service("sums")

    @service.on("ingest")
    async def guarded(_: Event, ctx: Context) -> None:
        ctx.state.expect("sum", "total", None)

    raw.set("state:sums:sum", "text")
    async with running(service, TOPOLOGY, server):
        raw.xadd("ingest", {"type": "t"})
        await eventually(lambda: raw.exists("dlq"), what="it is dead")

    (letter,) = fields_of(raw, "dlq")
    assert letter["dlq.error"] == "effects: state:sums:sum holds a string, not a hash to guard"
