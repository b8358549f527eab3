"""Closing windows, with the time given: what is closed when, and that nothing is lost or repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.keys import Keys
from penstock.metrics.tally import OTHER, Tallies, decode, encode
from penstock.metrics.windows import KEPT, MINUTES, OPEN, WindowReader, closed, parts_of
from penstock.redis.connection import AsyncRedis, client
from penstock_services.metrics.close import Closer
from penstock_services.metrics.count import tally
from tests.metrics import EPOCH_MS, job, published
from tests.servers import Server

LATENESS = 2_000
START = EPOCH_MS // 1000
NOW = EPOCH_MS + 3_600_000
KEYS = Keys()


@pytest.fixture
async def redis_client(server: Server) -> AsyncIterator[AsyncRedis]:
    made = client(server.url)
    yield made
    await made.aclose()


@pytest.fixture
def closer(redis_client: AsyncRedis) -> Closer:
    return make_closer(redis_client)


def make_closer(redis_client: AsyncRedis, *, most_series: int = 1_000) -> Closer:
    return Closer(redis_client, KEYS, lateness_ms=LATENESS, most_series=most_series)


def append(raw: Any, offset: int, kind: str = "job.completed", **rest: float) -> None:
    """Count one event taken `offset` seconds after START, as the commit of a batch does."""
    for start, tallies in tally([job(EPOCH_MS + offset * 1000, kind, **rest)], LATENESS, NOW).items():
        raw.rpush(key(parts_of(start)), encode(tallies))
        raw.zadd(key("open"), {str(start): start})


def key(name: str) -> str:
    return KEYS.state("metrics", name)


def counts(raw: Any, seconds: int) -> dict[int, int]:
    """Return how many events each closed window has, by its start after START."""
    return {
        start - START: sum(one.count or 0 for one in series if one.name == "events")
        for start, (series, _) in published(raw, seconds).items()
    }


def late(raw: Any) -> int:
    return sum(late for _, late in published(raw, 10).values())


async def test_a_window_closes_once_the_watermark_is_lateness_past_its_end(raw: Any, closer: Closer) -> None:
    append(raw, 3)
    await closer.tick(EPOCH_MS + 10_000 + LATENESS - 1, NOW)
    assert counts(raw, 10) == {}
    await closer.tick(EPOCH_MS + 10_000 + LATENESS, NOW)
    assert counts(raw, 10) == {0: 1}


async def test_without_a_watermark_nothing_closes(raw: Any, closer: Closer) -> None:
    append(raw, 3)
    await closer.tick(None, NOW)
    assert counts(raw, 10) == {}


async def test_a_minute_is_the_sum_of_its_windows_and_closes_after_them(raw: Any, closer: Closer) -> None:
    for offset in (0, 5, 10, 55, 60):
        append(raw, offset)
    await closer.tick(EPOCH_MS + 60_000 + LATENESS - 1, NOW)
    assert (counts(raw, 10), counts(raw, 60)) == ({0: 2, 10: 1}, {})
    await closer.tick(EPOCH_MS + 60_000 + LATENESS, NOW)
    assert (counts(raw, 10), counts(raw, 60)) == ({0: 2, 10: 1, 50: 1}, {0: 4})
    await closer.tick(EPOCH_MS + 120_000 + LATENESS, NOW)
    assert counts(raw, 60) == {0: 4, 60: 1}


async def test_what_comes_to_a_closed_window_counts_as_late_in_the_current_one(raw: Any, closer: Closer) -> None:
    append(raw, 0)
    await closer.tick(NOW, NOW)
    append(raw, 0)
    append(raw, 30)  # its window has never been open, but its minute is closed
    await closer.tick(NOW, NOW)
    assert (counts(raw, 10), counts(raw, 60)) == ({0: 1}, {0: 1})
    await closer.tick(NOW + 20_000, NOW + 20_000)
    assert (counts(raw, 10), late(raw)) == ({0: 1, 3_600: 2}, 2)


async def test_an_old_window_that_was_never_closed_is_counted_whenever_its_events_come(
    raw: Any, closer: Closer
) -> None:
    append(raw, 0)
    await closer.tick(NOW, NOW)
    append(raw, 70)
    await closer.tick(NOW, NOW)
    assert (counts(raw, 10), counts(raw, 60)) == ({0: 1, 70: 1}, {0: 1, 60: 1})


async def test_any_number_of_closers_close_each_window_once(raw: Any, redis_client: AsyncRedis) -> None:
    for offset in range(0, 600, 5):
        append(raw, offset)
    closers = [make_closer(redis_client) for _ in range(8)]
    while raw.zcard(key("open")) + raw.zcard(key("minutes")):
        await asyncio.gather(*(one.tick(NOW, NOW) for one in closers))
    assert counts(raw, 10) == dict.fromkeys(range(0, 600, 10), 2)
    assert counts(raw, 60) == dict.fromkeys(range(0, 600, 60), 12)
    assert (await WindowReader(redis_client, KEYS).totals()).count == 120


@pytest.mark.parametrize("slow_at", [OPEN, MINUTES])
async def test_a_closer_repeats_nothing_that_another_has_closed_since_it_looked(
    raw: Any, redis_client: AsyncRedis, monkeypatch: pytest.MonkeyPatch, slow_at: str
) -> None:
    append(raw, 0)
    slow, quick = make_closer(redis_client), make_closer(redis_client)
    look = slow._starts

    async def look_and_linger(name: str) -> list[int]:
        found = await look(name)
        if name == slow_at:
            await quick.tick(NOW, NOW)
        return found

    monkeypatch.setattr(slow, "_starts", look_and_linger)
    await slow.tick(NOW, NOW)
    assert (counts(raw, 10), counts(raw, 60)) == ({0: 1}, {0: 1})
    assert raw.zcard(key(OPEN)) + raw.zcard(key(MINUTES)) == 0


async def test_nothing_is_lost_that_is_appended_while_parts_are_joined(
    raw: Any, closer: Closer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(100):
        append(raw, 0)
    append_once_read(monkeypatch, raw)
    await closer.tick(None, NOW)
    assert raw.llen(key(parts_of(START))) == 2
    await closer.tick(NOW, NOW)
    assert counts(raw, 10) == {0: 101}


async def test_nothing_is_lost_that_is_appended_while_a_window_is_closed(
    raw: Any, closer: Closer, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(raw, 0)
    append_once_read(monkeypatch, raw)
    await closer.tick(NOW, NOW)
    assert counts(raw, 10) == {}
    await closer.tick(NOW, NOW)
    assert counts(raw, 10) == {0: 2}


def append_once_read(monkeypatch: pytest.MonkeyPatch, raw: Any) -> None:
    """Let one more event be counted just after a closer has read the parts of a window."""
    waiting = [0]

    def decode_and_append(part: bytes) -> Tallies:
        while waiting:
            append(raw, waiting.pop())
        return decode(part)

    monkeypatch.setattr("penstock_services.metrics.close.decode", decode_and_append)


async def test_many_parts_of_an_open_window_become_one(raw: Any, closer: Closer) -> None:
    for _ in range(500):
        append(raw, 0, duration=0.5)
    await closer.tick(None, NOW)
    assert raw.llen(key(parts_of(START))) == 1
    await closer.tick(NOW, NOW)
    ((series, _),) = published(raw, 10).values()
    assert [one.count for one in series] == [500, 500]


async def test_series_are_bounded_and_every_event_is_still_counted(
    raw: Any, redis_client: AsyncRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    closer = make_closer(redis_client, most_series=50)
    for number in range(120):
        append(raw, 0, f"type.{number}")
        append(raw, 10, f"type.{number}")
    append(raw, 0, "type.7")
    await closer.tick(None, NOW)
    await closer.tick(NOW, NOW)
    for seconds, expected in ((10, {0: 121, 10: 120}), (60, {0: 241})):
        assert counts(raw, seconds) == expected
        for series, _ in published(raw, seconds).values():
            assert [one.name for one in series] == ["events"] * 50 + ["overflow"]
            assert OTHER in {one.labels.get("type") for one in series}
    assert capsys.readouterr().out.count("more series than are kept") == 1
    totals = await WindowReader(redis_client, KEYS).totals()
    assert (len(totals.series), totals.count) == (50, 241)


async def test_a_window_of_many_series_is_published_in_parts(raw: Any, closer: Closer) -> None:
    for number in range(250):
        append(raw, 0, f"type.{number}")
    await closer.tick(NOW, NOW)
    assert counts(raw, 10) == {0: 250}
    assert raw.xlen("metrics") == 6


async def test_open_windows_never_expire_and_closed_ones_do_once_their_minute_is_closed(
    raw: Any, closer: Closer
) -> None:
    append(raw, 0)
    assert raw.ttl(key(parts_of(START))) == -1
    await closer.tick(EPOCH_MS + 15_000, NOW)
    assert raw.ttl(key(closed(10, START))) == -1
    await closer.tick(EPOCH_MS + 65_000, NOW)
    assert KEPT[10] - 60 < raw.ttl(key(closed(10, START))) <= KEPT[10]
    assert KEPT[60] - 60 < raw.ttl(key(closed(60, START))) <= KEPT[60]


async def test_nothing_is_left_of_a_window_but_what_is_kept(raw: Any, closer: Closer) -> None:
    append(raw, 0)
    await closer.tick(NOW, NOW)
    left = {name.decode() for name in raw.keys("*")}
    kept = {closed(10, START), closed(60, START), "mark", "revision", "totals"}
    assert left == {"metrics", *map(key, kept)}


async def test_readers_see_open_and_closed_windows_and_the_minute_made_of_both(
    raw: Any, closer: Closer, redis_client: AsyncRedis
) -> None:
    reader = WindowReader(redis_client, KEYS)
    for offset in (0, 10, 10, 20):
        append(raw, offset)
    await closer.tick(EPOCH_MS + 20_000 + LATENESS, NOW)

    async def seen(seconds: int) -> list[tuple[int, bool, int]]:
        windows = await reader.read(seconds, START - 600, START + 600)
        return [(window.start - START, window.is_open, window.tallies.count) for window in windows]

    assert await seen(10) == [(0, False, 1), (10, False, 2), (20, True, 1)]
    assert await seen(60) == [(0, True, 4)]
    await closer.tick(NOW, NOW)
    assert await seen(10) == [(0, False, 1), (10, False, 2), (20, False, 1)]
    assert await seen(60) == [(0, False, 4)]
    assert [window.start for window in await reader.read(10, START + 10, START + 20)] == [START + 10]


async def test_the_totals_count_open_and_closed_windows_and_late_events_once(
    raw: Any, closer: Closer, redis_client: AsyncRedis
) -> None:
    reader = WindowReader(redis_client, KEYS)
    seen = [(0, 0)]

    async def look() -> None:
        totals = await reader.totals()
        seen.append((totals.count, totals.late))

    for offset in (0, 0, 10):
        append(raw, offset)
        await look()
    await closer.tick(EPOCH_MS + 10_000 + LATENESS, NOW)
    await look()
    append(raw, 0)
    await look()
    await closer.tick(NOW, NOW)
    await look()
    assert seen == [(0, 0), (1, 0), (2, 0), (3, 0), (3, 0), (3, 0), (4, 1)]
