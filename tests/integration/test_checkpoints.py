"""Checkpoints in Redis: the first result of a step counts, for as long as it is kept."""

from __future__ import annotations

import asyncio

import pytest

from penstock.errors import Unavailable
from penstock.keys import Keys
from penstock.resilience.checkpoint import NoCheckpoints, Pending, RedisCheckpoints, TakenOver
from tests.hands import Raw, connected
from tests.servers import Server, free_port

KEY = "checkpoint:worker:T-1"
HELD = Pending("ingest", "1-0", "c-1")


@pytest.fixture(autouse=True)
def held(raw: Raw) -> None:
    """Have the entry in flight."""
    raw.xadd("ingest", {"type": "t"}, id="1-0")
    raw.xgroup_create("ingest", "worker", "0")
    raw.xreadgroup("worker", "c-1", {"ingest": ">"})


async def test_the_first_of_many_writers_decides(server: Server, raw: Raw) -> None:
    async with connected(server) as client:
        checkpoints = RedisCheckpoints(client, Keys(), group="worker", ttl=100)
        kept = await asyncio.gather(
            *(checkpoints.store("T-1", "one", str(number).encode(), HELD) for number in range(30))
        )

        assert len(set(kept)) == 1
        assert await checkpoints.load("T-1") == {"one": kept[0]}
    assert raw.hgetall(KEY) == {b"one": kept[0]}


async def test_steps_are_kept_by_event_and_group_for_a_time(server: Server, raw: Raw) -> None:
    async with connected(server) as client:
        checkpoints = RedisCheckpoints(client, Keys(), group="worker", ttl=100)
        await checkpoints.store("T-1", "one", b"1", HELD)
        await checkpoints.store("T-1", "zwei \u2713", b"2", HELD)

        assert await checkpoints.load("T-1") == {"one": b"1", "zwei \u2713": b"2"}
        assert await checkpoints.load("T-2") == {}
        assert await RedisCheckpoints(client, Keys(), group="other", ttl=100).load("T-1") == {}
    assert 0 < raw.ttl(KEY) <= 100


async def test_a_new_step_gives_the_old_ones_more_time(server: Server, raw: Raw) -> None:
    async with connected(server) as client:
        checkpoints = RedisCheckpoints(client, Keys(), group="worker", ttl=1_000)
        await checkpoints.store("T-1", "one", b"1", HELD)
        raw.expire(KEY, 10)
        await checkpoints.store("T-1", "two", b"2", HELD)

    assert raw.ttl(KEY) > 10


async def test_using_a_checkpoint_gives_it_more_time(server: Server, raw: Raw) -> None:
    async with connected(server) as client:
        checkpoints = RedisCheckpoints(client, Keys(), group="worker", ttl=1_000)
        await checkpoints.store("T-1", "one", b"1", HELD)
        raw.expire(KEY, 10)
        await checkpoints.load("T-1")
        assert raw.ttl(KEY) > 10
        raw.expire(KEY, 5_000)
        await checkpoints.load("T-1")
        await checkpoints.store("T-1", "two", b"2", HELD)

    assert raw.ttl(KEY) > 1_000, "what has longer to live keeps that"


@pytest.mark.parametrize("end", ["acknowledged", "taken over", "group destroyed", "stream deleted"])
async def test_who_has_lost_the_entry_leaves_no_checkpoint(server: Server, raw: Raw, end: str) -> None:
    if end == "acknowledged":
        raw.xack("ingest", "worker", "1-0")
    elif end == "taken over":
        raw.xclaim("ingest", "worker", "c-2", 0, ["1-0"])
    elif end == "group destroyed":
        raw.xgroup_destroy("ingest", "worker")
    else:
        raw.delete("ingest")
    async with connected(server) as client:
        with pytest.raises(TakenOver, match="step one: another process has taken the event over"):
            await RedisCheckpoints(client, Keys(), group="worker", ttl=100).store("T-1", "one", b"1", HELD)

    assert not raw.exists(KEY)


async def test_an_entry_that_is_only_gone_from_its_stream_still_has_its_steps(server: Server, raw: Raw) -> None:
    raw.xdel("ingest", "1-0")
    async with connected(server) as client:
        stored = await RedisCheckpoints(client, Keys(), group="worker", ttl=100).store("T-1", "one", b"1", HELD)

    assert stored == b"1"


async def test_what_redis_refuses_for_now_is_unavailable_and_not_half_stored(server: Server, raw: Raw) -> None:
    raw.config_set("maxmemory", "1")
    try:
        async with connected(server) as client:
            checkpoints = RedisCheckpoints(client, Keys(), group="worker", ttl=100)
            with pytest.raises(Unavailable, match="out of memory"):
                await checkpoints.store("T-1", "one", b"1", HELD)
    finally:
        raw.config_set("maxmemory", "0")

    assert not raw.exists(KEY)


async def test_a_redis_that_is_not_there_is_unavailable() -> None:
    async with connected(f"redis://127.0.0.1:{free_port()}/0") as client:
        checkpoints = RedisCheckpoints(client, Keys(), group="worker", ttl=100)
        with pytest.raises(Unavailable, match="cannot connect"):
            await checkpoints.load("T-1")


async def test_without_checkpoints_every_step_is_new() -> None:
    checkpoints = NoCheckpoints()

    assert await checkpoints.store("T-1", "one", b"1", HELD) == b"1"
    assert await checkpoints.load("T-1") == {}
