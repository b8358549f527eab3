"""Reading: nothing stranded, and groups that come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis

from penstock.streams.read import Reader, Row
from tests.chaos.cutter import cutter
from tests.hands import (
    FRESH,
    GROUP,
    ME,
    PARKED,
    RETRY_STREAM,
    SOURCES,
    STREAM,
    Raw,
    add,
    connected,
    make_groups,
    pending,
    take,
)
from tests.mesh import eventually
from tests.servers import Server


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Reader]:
    async with connected(url) as client:
        reader = Reader(client, group=GROUP, consumer=ME, sources=SOURCES)
        try:
            yield reader
        finally:
            await reader.aclose()


def ids(rows: list[Row]) -> list[str]:
    return [entry_id for _, entry_id, _ in rows]


async def test_entries_of_all_streams_come_with_where_they_are_from(server: Server, raw: Raw) -> None:
    make_groups(raw)
    (fresh,) = add(raw, a="1")
    (parked,) = add(raw, key=RETRY_STREAM)
    async with reading(server.url) as reader:
        rows = await reader.new(SOURCES, count=10, block_ms=1)

    assert sorted(rows, key=lambda row: row[0].index) == [
        (PARKED, parked, [b"type", b"t"]),
        (FRESH, fresh, [b"type", b"t", b"a", b"1"]),
    ]


async def test_only_the_streams_that_are_asked_for_are_read(server: Server, raw: Raw) -> None:
    make_groups(raw)
    add(raw)
    (parked,) = add(raw, key=RETRY_STREAM)
    async with reading(server.url) as reader:
        assert ids(await reader.new([PARKED], count=10, block_ms=1)) == [parked]

    assert pending(raw) == {}


async def test_no_more_is_read_than_there_is_room_for(server: Server, raw: Raw) -> None:
    make_groups(raw)
    entries = add(raw, 5)
    async with reading(server.url) as reader:
        assert ids(await reader.new(SOURCES, count=2, block_ms=1)) == entries[:2]
        assert ids(await reader.new(SOURCES, count=10, block_ms=1)) == entries[2:]
        assert await reader.new(SOURCES, count=10, block_ms=1) == []


async def test_a_blocked_read_ends_with_the_first_entry(server: Server, raw: Raw) -> None:
    make_groups(raw)
    async with reading(server.url) as reader:
        blocked = asyncio.create_task(reader.new(SOURCES, count=10, block_ms=15_000))
        await eventually(lambda: raw.info("clients")["blocked_clients"] == 1, what="the read blocks")
        entries = add(raw)

        assert ids(await blocked) == entries


async def test_own_pending_entries_are_read_page_by_page(server: Server, raw: Raw) -> None:
    make_groups(raw)
    entries = add(raw, 5)
    take(raw, 3)
    take(raw, 2, consumer="other")
    async with reading(server.url) as reader:
        first = await reader.pending({}, count=2)
        second = await reader.pending({STREAM: entries[1]}, count=2)
        third = await reader.pending({STREAM: entries[2]}, count=2)

    assert (ids(first), ids(second), third) == (entries[:2], entries[2:3], [])


async def test_pending_entries_that_were_deleted_have_no_fields(server: Server, raw: Raw) -> None:
    make_groups(raw)
    deleted, kept = add(raw, 2)
    take(raw)
    raw.xdel(STREAM, deleted)
    async with reading(server.url) as reader:
        rows = await reader.pending({}, count=10)

    assert rows == [(FRESH, deleted, None), (FRESH, kept, [b"type", b"t"])]


async def test_a_group_that_is_gone_is_an_error_and_can_be_made_again(server: Server, raw: Raw) -> None:
    make_groups(raw)
    async with reading(server.url) as reader:
        await reader.new(SOURCES, count=10, block_ms=1)
        raw.flushall()
        with pytest.raises(redis.ResponseError, match="NOGROUP"):
            await reader.new(SOURCES, count=10, block_ms=1)
        make_groups(raw)
        entries = add(raw)

        assert ids(await reader.new(SOURCES, count=10, block_ms=1)) == entries


async def test_a_flush_ends_a_blocked_read(server: Server, raw: Raw) -> None:
    make_groups(raw)
    async with reading(server.url) as reader:
        blocked = asyncio.create_task(reader.new(SOURCES, count=10, block_ms=15_000))
        await eventually(lambda: raw.info("clients")["blocked_clients"] == 1, what="the read blocks")
        raw.flushall()
        with pytest.raises(redis.ResponseError, match=r"NOGROUP|no longer exists"):
            await blocked


async def test_a_read_that_was_cut_short_leaves_its_entries_to_the_next_look_at_what_is_pending(
    server: Server, raw: Raw
) -> None:
    make_groups(raw)
    with cutter(server) as proxy:
        async with reading(proxy.url) as reader:
            await reader.new(SOURCES, count=10, block_ms=1)
            (entry,) = add(raw)
            proxy.cut_reply_to(b"XREADGROUP")
            with pytest.raises(redis.ConnectionError):
                await reader.new(SOURCES, count=10, block_ms=1)

            assert await reader.new(SOURCES, count=10, block_ms=1) == []  # delivered, as far as Redis knows
            assert ids(await reader.pending({}, count=10)) == [entry]


async def test_a_read_that_was_cancelled_does_not_leave_its_reply_to_the_next(server: Server, raw: Raw) -> None:
    make_groups(raw)
    async with reading(server.url) as reader:
        blocked = asyncio.create_task(reader.new(SOURCES, count=10, block_ms=15_000))
        await eventually(lambda: raw.info("clients")["blocked_clients"] == 1, what="the read blocks")
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocked
        await eventually(lambda: raw.info("clients")["blocked_clients"] == 0, what="its connection is gone")
        entries = add(raw)

        assert ids(await reader.new(SOURCES, count=10, block_ms=1)) == entries
