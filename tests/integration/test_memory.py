"""Memory: what is settled gives way before Redis is full, the oldest first; what is not stays."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from penstock.keys import Keys
from penstock.streams.memory import Memory, MemoryRelief, measure
from penstock.topology import parse
from penstock_services.metrics.mesh import Growth
from tests.command_line import TOPOLOGY
from tests.gateways import Gateway, running_gateway
from tests.hands import Raw, connected
from tests.processes import ROOT, eventually, service_process
from tests.servers import Server

MESH = parse("streams: {ingest: {}, events: {}}\nservices: {worker: {consumes: {ingest: {}}, publishes: [events]}}")
TTL = 604_800
MB = 1_000_000


@asynccontextmanager
async def relief(server: Server) -> AsyncIterator[MemoryRelief]:
    async with connected(server) as client:
        yield MemoryRelief(client, Keys(), MESH, ["ingest", "events"], service="worker", share=0.7, job_ttl=TTL)


def fill(raw: Raw, stream: str, count: int, *, at: int) -> list[str]:
    """Add as many entries of half a kB, a second apart from second `at` on."""
    with raw.pipeline(transaction=False) as pipeline:
        for number in range(count):
            pipeline.xadd(stream, {"type": "t", "data": "x" * 500}, id=f"{1_000 * (at + number)}-0")
        return [entry_id.decode() for entry_id in pipeline.execute()]


def read(raw: Raw, count: int) -> None:
    """Have the worker read and settle entries of `ingest`."""
    raw.xgroup_create("ingest", "worker", "0")
    if count:
        ((_, rows),) = raw.xreadgroup("worker", "me", {"ingest": ">"}, count=count)
        raw.xack("ingest", "worker", *(entry_id for entry_id, _ in rows))


def limit(raw: Raw, share: float) -> None:
    """Give the server so much memory that it is full to `share`."""
    raw.config_set("maxmemory", round(raw.info("memory")["used_memory"] / share))


async def share(server: Server) -> float:
    async with connected(server) as client:
        return (await measure(client)).share


async def test_the_oldest_that_is_settled_by_all_goes_until_there_is_room(own_server: Server) -> None:
    with own_server.client() as raw:
        entries = fill(raw, "ingest", 20_000, at=1)
        fill(raw, "events", 5_000, at=30_000)  # younger than all of ingest, and nobody reads it
        read(raw, 18_000)
        limit(raw, 0.8)
        async with relief(own_server) as subject:
            await subject.relieve()

        assert await share(own_server) <= 0.66
        assert raw.xlen("events") == 5_000
        assert 2_000 < raw.xlen("ingest") < 18_000
        assert raw.xrange("ingest", entries[18_000], count=1)[0][0].decode() == entries[18_000]


async def test_what_is_not_settled_stays_and_is_told_once(own_server: Server) -> None:
    with own_server.client() as raw:
        fill(raw, "ingest", 5_000, at=1)
        read(raw, 0)
        limit(raw, 0.9)
        async with relief(own_server) as subject:
            with capture_logs() as lines:
                await subject.relieve()
                await subject.relieve()

        assert raw.xlen("ingest") == 5_000
        assert [line["log_level"] for line in lines] == ["error"]


async def test_a_server_with_room_or_without_a_limit_is_left_alone(own_server: Server) -> None:
    with own_server.client() as raw:
        fill(raw, "ingest", 5_000, at=1)
        async with relief(own_server) as subject:
            await subject.relieve()
            limit(raw, 0.6)
            await subject.relieve()

        assert raw.xlen("ingest") == 5_000


async def test_records_of_finished_jobs_go_the_older_first(own_server: Server) -> None:
    with own_server.client() as raw:
        with raw.pipeline(transaction=False) as pipeline:
            for hour in range(160):  # a hundred records of each hour of the week
                for number in range(100):
                    record = json.dumps({"state": ("completed", "dead", "cancelled")[number % 3], "result": "x" * 500})
                    key = f"job:{hour}-{number}"
                    pipeline.hset(key, "redis-cli", f"ingest-1-0 {record}")
                    pipeline.expire(key, TTL - hour * 3_600)
            for source, state in (("a", "completed"), ("b", "retrying")):
                pipeline.hset("job:retried", source, f"ingest-1-0 {json.dumps({'state': state})}")
            pipeline.expire("job:retried", 60)
            pipeline.execute()
        limit(raw, 0.8)
        async with relief(own_server) as subject:
            await subject.relieve()

        assert await share(own_server) <= 0.66
        assert raw.exists("job:retried")
        left = Counter(int(key.rpartition(b":")[2].partition(b"-")[0]) for key in raw.keys("job:*-*"))
        assert all(left[hour] == 100 for hour in range(75)), "none of the younger half went"
        assert left.total() < 14_000
        ends = Counter(int(key.rpartition(b"-")[2]) % 3 for key in raw.keys("job:*-*"))
        assert max(ends.values()) < 160 * 33, "some of each went, however they had ended"


async def test_a_full_redis_is_no_reason_not_to_make_room(own_server: Server) -> None:
    with own_server.client() as raw:
        fill(raw, "ingest", 5_000, at=1)
        read(raw, 5_000)
        limit(raw, 1.1)
        async with relief(own_server) as subject:
            await subject._tick()

        assert await share(own_server) <= 0.7
        raw.set("there", "is room")


@pytest.mark.parametrize("rate", [0, 1_000, -1_000])
def test_the_time_to_full_follows_from_the_last_ten_minutes(rate: int) -> None:
    growth = Growth()
    told = [growth.time_to_full(10_000 * n, Memory(MB + 10 * rate * n, 2 * MB)) for n in range(100)]

    assert told[:6] == [None] * 6, "a minute is the least to say it from"
    if rate > 0:
        assert told[50] == pytest.approx(500)
    else:
        assert set(told) == {None}


def test_a_mesh_that_keeps_up_never_fills_its_redis(own_server: Server, tmp_path: Path) -> None:
    """Twice as much is worked off as memory holds."""
    (tmp_path / "streams.yaml").write_text(TOPOLOGY)  # the worker alone: nobody else holds events up
    env = {
        "REDIS_URL": own_server.url,
        "PENSTOCK_TOPOLOGY": str(tmp_path / "streams.yaml"),
        "PENSTOCK_JOBS": "tests.integration.script_jobs:jobs",
    }
    with own_server.client() as raw, service_process("-m", "penstock_services.worker", env=env):
        eventually(lambda: raw.exists("ingest:worker:retry"))
        most = raw.info("memory")["used_memory"] + 5 * MB
        raw.config_set("maxmemory", most)
        for _ in range(20):
            with raw.pipeline(transaction=False) as pipeline:
                for _ in range(500):
                    pipeline.xadd("ingest", {"type": "busy", "data": '"' + "x" * 200 + '"'})
                pipeline.execute()  # it would raise if Redis took no writes
            eventually(lambda: raw.xinfo_groups("ingest")[0]["lag"] == 0, deadline=60.0)
            eventually(lambda: raw.info("memory")["used_memory"] < 0.75 * most, what="room is made")
        eventually(lambda: raw.hget("state:worker:last", "id") and raw.get("state:worker:runs") == b"10000")
        assert not raw.exists("dlq")


def test_the_arithmetic_of_memory_follows_from_what_a_ticket_costs(own_server: Server, tmp_path: Path) -> None:
    page = (ROOT / "docs/operations.md").read_text().partition("## How much memory")[2].partition("\n## ")[0]
    text = " ".join(page.split())
    size, job = (float(number) for number in found(r"A ticket \((\d+) bytes of data\) costs about ([\d.]+) kB", text))
    rate, a_day = (float(number) for number in found(r"At (\d+) tickets a second that is (\d+) GB a day", text))
    full, room, minutes = (float(number) for number in found(r"in (\d+) MB \((\d+) MB .*?\) the last (\d+) min", text))
    waiting, backlog = found(r"A backlog of ([\d,]+) of them takes about (\d+) MB", text)

    data = {"ticket_id": "T-1", "priority": "high", "tenant_id": "acme", "timestamp": "2026-11-22T10:00:00Z"}
    data["description"] = "x" * round(size - len(json.dumps(data)))
    with own_server.client() as raw, running_gateway(own_server, tmp_path) as gateway:
        post(gateway, data, 500)
        before = used(raw)
        post(gateway, data, 2_000)
        unread = (used(raw) - before) / 2_000
        with service_process("-m", "penstock_services.worker", env={"REDIS_URL": own_server.url}):
            settles(raw, 2_500)
            before = used(raw)
            post(gateway, data, 2_000)
            settles(raw, 4_500)
            done = (used(raw) - before) / 2_000

    assert done == pytest.approx(job * 1_000, rel=0.15)
    assert unread * int(waiting.replace(",", "")) == pytest.approx(float(backlog) * MB, rel=0.15)
    assert a_day == pytest.approx(rate * 86_400 * job / MB, rel=0.05)
    assert room == pytest.approx(0.7 * full, rel=0.02)
    assert minutes == pytest.approx(room * 1_000 / (rate * job) / 60, rel=0.05)


def found(pattern: str, text: str) -> tuple[str, ...]:
    match = re.search(pattern, text)
    assert match is not None, pattern
    return match.groups()


def post(gateway: Gateway, data: dict[str, str], count: int) -> None:
    for _ in range(count // 100):
        assert gateway.post([{"type": "ticket.created", "data": data}] * 100).status == 202


def settles(raw: Raw, count: int) -> None:
    """Wait until so many tickets are done: each has led to two events."""
    eventually(lambda: raw.xlen("events") == 2 * count and raw.xpending("ingest", "worker")["pending"] == 0)


def used(raw: Raw) -> int:
    return int(raw.info("memory")["used_memory"])
