"""Where a group stands: ages, and the watermark up to which everything is settled."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, client
from penstock.streams.position import Position, position
from tests.mesh import eventually
from tests.servers import Server

KEYS = Keys()
RETRY, DELAYED = KEYS.retry("events", "metrics"), KEYS.delayed("events", "metrics")


@pytest.fixture
async def redis_client(server: Server) -> AsyncIterator[AsyncRedis]:
    made = client(server.url)
    yield made
    await made.aclose()


def now_ms(raw: Any) -> int:
    seconds, micros = raw.time()
    return int(seconds) * 1000 + int(micros) // 1000


def publish(raw: Any, *times: int) -> None:
    for time in times:
        raw.xadd("events", {"type": "x"}, id=f"{time}-0")


def read(raw: Any, count: int, consumer: str = "one") -> None:
    raw.xreadgroup("metrics", consumer, {"events": ">"}, count=count)


async def look(redis_client: AsyncRedis) -> Position:
    return await position(redis_client, KEYS, "events", "metrics")


async def test_without_a_stream_the_watermark_is_now(raw: Any, redis_client: AsyncRedis) -> None:
    before = now_ms(raw)
    stood = await look(redis_client)
    assert before <= stood.now <= now_ms(raw)
    assert (stood.watermark, stood.lag_age, stood.oldest_pending) == (stood.now, 0.0, 0.0)


async def test_a_group_that_does_not_exist_yet_has_everything_to_read(raw: Any, redis_client: AsyncRedis) -> None:
    publish(raw, 5_000, 6_000)
    stood = await look(redis_client)
    assert (stood.watermark, stood.unread) == (5_000, 5_000)
    assert stood.lag_age == (stood.now - 5_000) / 1000


async def test_the_watermark_follows_the_first_unread_entry(raw: Any, redis_client: AsyncRedis) -> None:
    publish(raw, 5_000, 6_000, 7_000)
    raw.xgroup_create("events", "metrics", "0")
    read(raw, 2)
    raw.xack("events", "metrics", "5000-0", "6000-0")
    stood = await look(redis_client)
    assert (stood.watermark, stood.unread, stood.pending) == (7_000, 7_000, None)
    read(raw, 1)
    raw.xack("events", "metrics", "7000-0")
    stood = await look(redis_client)
    assert (stood.watermark, stood.lag_age) == (stood.now, 0.0)


async def test_the_watermark_waits_for_the_oldest_entry_in_anybodys_hands(raw: Any, redis_client: AsyncRedis) -> None:
    publish(raw, 5_000, 6_000, 7_000)
    raw.xgroup_create("events", "metrics", "0")
    read(raw, 1, "slow")
    read(raw, 2, "quick")
    raw.xack("events", "metrics", "6000-0", "7000-0")
    stood = await look(redis_client)
    assert (stood.watermark, stood.lag_age) == (5_000, 0.0)
    assert stood.oldest_pending == (stood.now - 5_000) / 1000


async def test_lag_age_is_right_where_the_servers_own_lag_is_unknown(raw: Any, redis_client: AsyncRedis) -> None:
    publish(raw, 5_000, 6_000, 7_000, 8_000)
    raw.xgroup_create("events", "metrics", "0")
    read(raw, 1)
    raw.xdel("events", "6000-0")
    assert raw.xinfo_groups("events")[0]["lag"] is None
    assert (await look(redis_client)).unread == 7_000


async def test_there_is_no_watermark_while_an_event_waits_for_another_try(raw: Any, redis_client: AsyncRedis) -> None:
    raw.xadd(RETRY, {"type": "x"}, id="9000-0")
    stood = await look(redis_client)
    assert (stood.watermark, stood.retry, stood.waiting) == (None, 9_000, 1)
    assert stood.oldest_pending == (stood.now - 9_000) / 1000
    raw.delete(RETRY)
    raw.zadd(DELAYED, {"x": 1})
    assert (await look(redis_client)).watermark is None
    raw.delete(DELAYED)
    assert (await look(redis_client)).watermark is not None


async def test_an_unread_id_of_a_time_that_has_not_come_is_as_old_as_it_has_been_seen(
    raw: Any, redis_client: AsyncRedis
) -> None:
    publish(raw, 9_999_999_999_999)
    first = await look(redis_client)
    assert (first.watermark, first.lag_age) == (first.now, 0.0)
    await eventually(lambda: now_ms(raw) > first.now + 20)
    later = await look(redis_client)
    assert later.lag_age == (later.now - first.now) / 1000
    raw.xgroup_create("events", "metrics", "0")
    read(raw, 1)
    assert (await look(redis_client)).lag_age == 0.0
    raw.xadd("events", {"type": "x"})
    again = await look(redis_client)
    assert again.unread == again.now, "another entry has not waited since then"
