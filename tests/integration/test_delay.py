"""Delayed events: they wait in Redis, and go on when they are due."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from penstock.streams import delay
from penstock.streams.delay import Promoter
from tests.hands import Raw, connected, end, fields_of
from tests.mesh import eventually
from tests.servers import Server

SET, STREAM = "events:scheduled", "events"
FAR = 2**52


def now_ms(raw: Raw) -> int:
    seconds, microseconds = raw.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def schedule(raw: Raw, event_type: str, due_ms: float, *, key: str = SET, **fields: str) -> None:
    flat = ["type", event_type, *(part for pair in fields.items() for part in pair)]
    raw.zadd(key, {msgspec.msgpack.encode(flat): due_ms})


@asynccontextmanager
async def moving(server: Server, *routes: tuple[str, str]) -> AsyncIterator[Promoter]:
    async with connected(server) as client:
        promoter = Promoter(client, list(routes) or [(SET, STREAM)])
        task = asyncio.create_task(promoter.run())
        try:
            yield promoter
            assert not task.done()
        finally:
            await end(task)


def types(raw: Raw, stream: str = STREAM) -> list[str]:
    return [fields["type"] for fields in fields_of(raw, stream)]


async def test_what_is_due_goes_to_its_stream_in_order_and_the_rest_waits(server: Server, raw: Raw) -> None:
    now = now_ms(raw)
    schedule(raw, "second", now - 1)
    schedule(raw, "first", now - 2, id="A", data="{}")
    schedule(raw, "later", FAR)
    async with moving(server):
        await eventually(lambda: types(raw) == ["first", "second"], what="both are moved")

    assert fields_of(raw, STREAM)[0] == {"type": "first", "id": "A", "data": "{}"}
    assert raw.zcard(SET) == 1


async def test_what_becomes_due_is_moved_then(server: Server, raw: Raw) -> None:
    schedule(raw, "soon", now_ms(raw) + 150)
    async with moving(server):
        await eventually(lambda: types(raw) == ["soon"], what="it is moved")
        assert now_ms(raw) >= float(raw.xrange(STREAM)[0][0].split(b"-")[0])


async def test_a_set_with_more_than_one_call_can_move_is_emptied(server: Server, raw: Raw) -> None:
    for number in range(450):
        schedule(raw, str(number), number)
    async with moving(server):
        await eventually(lambda: raw.xlen(STREAM) == 450, what="all are moved")

    assert types(raw) == [str(number) for number in range(450)]


@pytest.mark.parametrize(("size", "moved"), [(700_000, 2), (1_000_000, 1), (200_000, 5)])
async def test_one_call_moves_about_so_many_bytes(server: Server, raw: Raw, size: int, moved: int) -> None:
    for number in range(8):
        schedule(raw, str(number), number, data="x" * size)
    async with connected(server) as client:
        await delay._promote(client, [SET, STREAM], [200, 1_000_000])

    assert types(raw) == [str(number) for number in range(moved)]


async def test_each_route_has_its_own_stream(server: Server, raw: Raw) -> None:
    schedule(raw, "a", 1, key="a:scheduled")
    schedule(raw, "b", 1, key="b:scheduled")
    async with moving(server, ("a:scheduled", "a"), ("b:scheduled", "b")):
        await eventually(lambda: (types(raw, "a"), types(raw, "b")) == (["a"], ["b"]), what="both are moved")


async def test_several_movers_move_each_event_once(server: Server, raw: Raw) -> None:
    for number in range(300):
        schedule(raw, str(number), number)
    async with moving(server), moving(server), moving(server):
        await eventually(lambda: not raw.exists(SET), what="all are moved")

    assert sorted(types(raw)) == sorted(str(number) for number in range(300))


async def test_an_event_of_thousands_of_fields_is_moved(server: Server, raw: Raw) -> None:
    schedule(raw, "wide", 1, **{f"f{number}": "v" for number in range(2_999)})
    async with moving(server):
        await eventually(lambda: types(raw) == ["wide"], what="it is moved")


def looked(raw: Raw) -> int:
    return int(raw.info("commandstats").get("cmdstat_zrangebyscore", {}).get("calls", 0))


async def test_a_mover_that_is_told_looks_at_once(server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delay, "_LONGEST_WAIT", 3_600.0)
    schedule(raw, "far", FAR)
    looks = looked(raw)
    async with moving(server) as promoter:
        await eventually(lambda: looked(raw) > looks, what="it has looked, and waits for what is far")
        schedule(raw, "sooner", 1)
        promoter.look_again()
        await eventually(lambda: types(raw) == ["sooner"], what="it is moved before the hour is over")


async def test_while_redis_takes_no_writes_nothing_is_moved_or_lost(
    server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delay, "_LONGEST_WAIT", 0.05)
    schedule(raw, "due", 1)
    raw.config_set("maxmemory", "1")
    try:
        async with moving(server):
            await eventually(lambda: "errorstat_OOM" in raw.info("errorstats"), what="a move was refused")
            assert raw.zcard(SET) == 1
            raw.config_set("maxmemory", "0")
            await eventually(lambda: types(raw) == ["due"], what="it is moved")
    finally:
        raw.config_set("maxmemory", "0")
