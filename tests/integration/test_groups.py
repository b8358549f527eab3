"""Consumer groups that are new, or lost: where they begin, and what is told of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog

from penstock import ConfigurationError, Context, Service, TryAgain
from penstock.streams import rescue
from penstock.topology import parse
from tests.hands import Raw, fields_of
from tests.mesh import eventually, running, settled
from tests.servers import Server

MESH = """
streams: {ingest: {kind: facts}, events: {}}
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


RENAMED = MESH.replace("  worker:", "  shop:\n    formerly: worker")


def named(name: str, charged: list[str]) -> Service:
    made = Service(name)

    @made.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        async def charge() -> str:
            charged.append(str(data))
            return "charged"

        await ctx.step("charge", charge)
        if data == 3 and ctx.attempt == 1:
            raise TryAgain("later", after=3600)
        ctx.emit("events", f"done.{data}")

    return made


async def test_a_renamed_service_goes_on_with_all_that_its_former_group_had_to_do(server: Server, raw: Raw) -> None:
    charged: list[str] = []
    add(raw, 1, 2, 3)
    async with running(named("worker", charged), MESH, server):
        await eventually(lambda: raw.zcard("ingest:worker:delayed") == 1 and len(done(raw)) == 2)
    add(raw, 4, 5)
    raw.xreadgroup("worker", "died", {"ingest": ">"}, count=1)  # 4 is in flight
    raw.zadd("ingest:worker:delayed", {raw.zrange("ingest:worker:delayed", 0, 0)[0]: 1})  # 3 is due
    with structlog.testing.capture_logs() as lines:
        async with running(named("shop", charged), RENAMED, server):
            await eventually(lambda: len(done(raw)) == 5)
            await eventually(lambda: settled(raw, "ingest", "shop"))
    assert sorted(done(raw)) == [1, 2, 3, 4, 5]
    assert sorted(charged) == ["1", "2", "3", "4", "5"], "its steps are known"
    assert [group["name"] for group in raw.xinfo_groups("ingest")] == [b"shop"]
    assert not raw.exists("ingest:worker:retry", "ingest:worker:delayed")
    (line,) = told(lines, "took over from the former name")
    assert (line["former"], line["to_try_again"], line["entries"]) == ("worker", 2, 1)


async def test_what_is_given_back_to_a_former_group_later_comes_to_the_new_one(
    server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue, "_SWEEP", 0.1)
    add(raw, 1)
    async with running(named("worker", []), MESH, server):
        await eventually(lambda: done(raw) == [1])
    async with running(named("shop", []), RENAMED, server):
        raw.xadd("ingest:worker:retry", {"type": "t", "data": "6"})  # as the replay of a dead letter does
        await eventually(lambda: done(raw) == [1, 6])


async def test_a_renamed_service_waits_for_processes_of_its_former_name(server: Server, raw: Raw) -> None:
    old = named("worker", [])
    new = named("shop", [])
    with structlog.testing.capture_logs() as lines:
        async with running(old, MESH, server) as runtime:
            ready = asyncio.Event()

            async def run_new() -> None:
                async with running(new, RENAMED, server):
                    ready.set()
                    await eventually(lambda: sorted(done(raw)) == [1, 2])

            task = asyncio.create_task(run_new())
            await eventually(lambda: told(lines, "waiting for processes of the former name"))
            add(raw, 1)
            await eventually(lambda: done(raw) == [1])
            assert not ready.is_set()
            runtime.stopping.set()
        add(raw, 2)
        await task


def test_a_start_that_is_none_is_refused_with_what_may_stand_there() -> None:
    with pytest.raises(ConfigurationError, match=r"worker\.consumes\.ingest\.start: expected oldest, newest or a time"):
        parse(MESH.replace("oldest", "2026-11-22T10:00:00"))
