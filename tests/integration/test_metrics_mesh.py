"""The gauges of the mesh: right, and published once for each window."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from penstock.keys import Keys
from penstock.metrics.windows import KEPT, WindowReader
from penstock.redis.connection import AsyncRedis, client
from penstock.schemas import MetricsWindow
from penstock.spool.spooling import State
from penstock.streams.lag import LagCounter
from penstock.topology import Topology, parse
from penstock_services.metrics.mesh import MeshWatch, gauges
from tests.metrics import EPOCH_MS, published
from tests.servers import Server

KEYS = Keys()
START = EPOCH_MS // 1000
TOPOLOGY = parse("""
streams: {ingest: {}, events: {}, metrics: {}}
services:
  worker: {consumes: {ingest: {}}, publishes: [events]}
  metrics: {consumes: {events: {}}, publishes: [metrics]}
""")


@pytest.fixture
async def redis_client(server: Server) -> AsyncIterator[AsyncRedis]:
    made = client(server.url)
    yield made
    await made.aclose()


async def measured(redis_client: AsyncRedis, topology: Topology = TOPOLOGY) -> dict[tuple[str, str, str], float]:
    return {
        (one.labels["stream"], one.labels["group"], one.name): one.value or 0.0
        for one in await gauges(redis_client, KEYS, topology, LagCounter(redis_client))
        if one.labels
    }


async def test_every_declared_group_has_every_gauge_even_before_it_exists(raw: Any, redis_client: AsyncRedis) -> None:
    names = ("lag_age", "lag", "oldest_pending", "pending", "delayed", "retry", "dead", "consumers")
    assert await measured(redis_client) == {
        (stream, group, name): 0 for stream, group in (("ingest", "worker"), ("events", "metrics")) for name in names
    }


async def test_gauges_tell_what_waits_where(raw: Any, redis_client: AsyncRedis) -> None:
    now = int(raw.time()[0])
    for age in (100, 90, 80, 70, 60):
        raw.xadd("ingest", {"type": "x"}, id=f"{(now - age) * 1000}-0")
    raw.xgroup_create("ingest", "worker", "0")
    raw.xreadgroup("worker", "worker-a", {"ingest": ">"}, count=2)
    raw.xreadgroup("worker", "worker-b", {"ingest": ">"}, count=1)
    raw.hset(KEYS.beats("worker"), "worker-a", f"1:{round(time.time() * 1000)}")
    raw.zadd(KEYS.delayed("ingest", "worker"), {"one": 1, "two": 2})
    raw.xadd(KEYS.retry("ingest", "worker"), {"type": "x"})
    for _ in range(3):
        letter = raw.xadd("dlq", {"type": "x", "dlq.stream": "ingest", "dlq.group": "worker"})
    raw.hset(KEYS.replayed, letter, "2026-11-22T10:00:00Z")

    found = {name: value for (stream, _, name), value in (await measured(redis_client)).items() if stream == "ingest"}
    assert 70 <= found.pop("lag_age") <= 75
    assert 100 <= found.pop("oldest_pending") <= 105
    assert found == {"lag": 2, "pending": 3, "delayed": 2, "retry": 1, "dead": 2, "consumers": 1}


async def test_gauges_are_published_once_for_each_window_however_many_watch(raw: Any, redis_client: AsyncRedis) -> None:
    watches = [MeshWatch(redis_client, KEYS, TOPOLOGY) for _ in range(5)]
    for now in range(EPOCH_MS, EPOCH_MS + 180_000, 1_000):
        await asyncio.gather(*(watch.tick(now) for watch in watches))
    short, long = published(raw, 10, "mesh"), published(raw, 60, "mesh")
    assert sorted(short) == list(range(START - 10, START + 170, 10))
    assert sorted(long) == [START - 60, START, START + 60]
    assert {len(series) for series, _ in [*short.values(), *long.values()]} == {17}


async def test_gauges_of_a_lagging_mesh_do_not_wait_for_its_events_to_be_counted(
    raw: Any, redis_client: AsyncRedis
) -> None:
    raw.xadd("events", {"type": "x"}, id="5000-0")
    await MeshWatch(redis_client, KEYS, TOPOLOGY).tick(EPOCH_MS + 10_000)
    ((_, entry),) = raw.xrange("metrics")
    window = msgspec.json.decode(entry[b"data"], type=MetricsWindow)
    lag_ages = {one.labels["group"]: one.value for one in window.series if one.name == "lag_age"}
    assert window.scope == "mesh"
    assert (lag_ages["metrics"] or 0) > 1_000_000


async def test_gauges_are_kept_as_long_as_their_windows(raw: Any, redis_client: AsyncRedis) -> None:
    watch = MeshWatch(redis_client, KEYS, TOPOLOGY)
    for now in range(EPOCH_MS, EPOCH_MS + 61_000, 10_000):
        await watch.tick(now)
    for seconds in (10, 60):
        ttl = raw.ttl(KEYS.state("metrics", f"mesh:{seconds}:{START}"))
        assert KEPT[seconds] - 60 < ttl <= KEPT[seconds]
    windows = await WindowReader(redis_client, KEYS).read(60, START, START + 60)
    assert [(window.start, window.is_open, len(window.gauges)) for window in windows] == [(START, False, 17)]


async def test_windows_during_which_nobody_watched_have_no_gauges(raw: Any, redis_client: AsyncRedis) -> None:
    await MeshWatch(redis_client, KEYS, TOPOLOGY).tick(EPOCH_MS)
    await MeshWatch(redis_client, KEYS, TOPOLOGY).tick(EPOCH_MS + 3_600_000)
    assert sorted(published(raw, 10, "mesh")) == [START - 10, START + 3_590]


async def test_gauges_tell_what_waits_in_spools(raw: Any, redis_client: AsyncRedis) -> None:
    now = time.time_ns() // 1_000_000
    one = State(program="gateway", host="a", events=3, bytes=300, oldest=now - 90_000, aside=1)
    raw.hset("spools", "1", msgspec.json.encode(one))
    raw.hset("spools", "2", msgspec.json.encode(msgspec.structs.replace(one, events=4, oldest=now, bytes=50)))
    raw.hset("spools", "3", msgspec.json.encode(State(program="shop", host="b", events=7)))
    told = {
        (series.labels["program"], series.name): series.value
        for series in await gauges(redis_client, KEYS, TOPOLOGY, LagCounter(redis_client))
        if series.name.startswith("spool_")
    }
    age = told.pop(("gateway", "spool_age"))
    assert age is not None
    assert 90 <= age < 120
    assert told == {
        ("gateway", "spool_events"): 7,
        ("gateway", "spool_bytes"): 350,
        ("gateway", "spool_aside"): 1,
        ("shop", "spool_events"): 7,
        ("shop", "spool_bytes"): 0,
        ("shop", "spool_age"): 0,
        ("shop", "spool_aside"): 0,
    }
