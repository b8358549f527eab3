"""Consumer groups that are new, or lost: where they begin, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from penstock import ConfigurationError, Context, Service
from penstock.topology import parse
from tests.hands import Raw, fields_of
from tests.mesh import eventually, running, settled
from tests.servers import Server

MESH = """
streams: {ingest: {}, events: {}}
services:
  worker:
    consumes: {ingest: {start: oldest}}
    publishes: [events]
"""
GONE = "the consumer group was gone"
NEW = "a new consumer group on a stream with history"


@pytest.fixture
def service() -> Service:
    made = Service("worker")

    @made.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        ctx.emit("events", f"done.{data}")

    return made


def add(raw: Raw, *numbers: int, **options: Any) -> list[str]:
    return [raw.xadd("ingest", {"type": "t", "data": str(number)}, **options).decode() for number in numbers]


def done(raw: Raw) -> list[int]:
    return [int(fields["type"].removeprefix("done.")) for fields in fields_of(raw, "events")]


def all_done(raw: Raw) -> Callable[[], bool]:
    return lambda: settled(raw, "ingest", "worker")


def told(lines: list[Any], what: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"].startswith(what)]


async def test_a_group_that_was_destroyed_while_nothing_ran_goes_on_where_it_stood(
    service: Service, server: Server, raw: Raw
) -> None:
    add(raw, *range(300))
    async with running(service, MESH, server):
        await eventually(all_done(raw))
    raw.xgroup_destroy("ingest", "worker")
    add(raw, 300, 301)
    with structlog.testing.capture_logs() as lines:
        async with running(service, MESH, server):
            await eventually(all_done(raw))
    assert sorted(done(raw)) == list(range(302)), "none runs again"
    (line,) = told(lines, GONE)
    assert (line["entries"], line["group"], line["log_level"]) == (2, "worker", "warning")


async def test_a_group_that_is_destroyed_under_a_running_service_loses_nothing_of_what_it_had_not_settled(
    service: Service, server: Server, raw: Raw
) -> None:
    release = asyncio.Event()

    @service.on("ingest", type="slow")
    async def slow(data: Any, ctx: Context) -> None:
        await release.wait()
        ctx.emit("events", f"done.{data}")

    add(raw, *range(50))
    async with running(service, MESH, server):
        await eventually(all_done(raw))
    async with running(service, MESH, server):
        raw.xadd("ingest", {"type": "slow", "data": "50"})
        await eventually(lambda: raw.xpending("ingest", "worker")["pending"] == 1)
        raw.xgroup_destroy("ingest", "worker")
        release.set()
        add(raw, 51)
        await eventually(lambda: {50, 51} <= set(done(raw)))
        await eventually(all_done(raw))
    assert sorted(done(raw)) == list(range(52))


async def test_what_was_noted_of_a_stream_that_was_deleted_since_hides_nothing(
    service: Service, server: Server, raw: Raw
) -> None:
    add(raw, 1, id="9999999999999-0")
    async with running(service, MESH, server):
        await eventually(all_done(raw))
    raw.delete("ingest")
    add(raw, 2)
    async with running(service, MESH, server):
        await eventually(all_done(raw))
    assert done(raw) == [1, 2]


@pytest.mark.parametrize(("start", "expected"), [("oldest", [1, 2, 3, 4]), ("newest", [4]), ("time", [2, 3, 4])])
async def test_a_new_service_on_an_old_stream_begins_where_streams_yaml_says(
    service: Service, server: Server, raw: Raw, start: str, expected: list[int]
) -> None:
    then = datetime(2026, 11, 22, 10, tzinfo=UTC)
    for number, minutes in enumerate((-1, 0, 1), 1):
        add(raw, number, id=f"{round((then + timedelta(minutes=minutes)).timestamp() * 1000)}-0")
    mesh = MESH.replace("oldest", "2026-11-22T11:00:00+01:00" if start == "time" else start)
    with structlog.testing.capture_logs() as lines:
        async with running(service, mesh, server):
            add(raw, 4)
            await eventually(all_done(raw))
        async with running(service, mesh, server):  # it has read the stream now: there is nothing to say
            pass
    assert sorted(done(raw)) == expected
    (line,) = told(lines, NEW)
    assert (line["entries"], line["skipped"]) == (len(expected) - 1, 4 - len(expected))


def test_a_start_that_is_none_is_refused_with_what_may_stand_there() -> None:
    with pytest.raises(ConfigurationError, match=r"worker\.consumes\.ingest\.start: expected oldest, newest or a time"):
        parse(MESH.replace("oldest", "2026-11-22T10:00:00"))
