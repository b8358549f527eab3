"""The heartbeat: alive, and these entries are still mine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from penstock.redis.connection import blocking_client
from penstock.streams import heartbeat
from penstock.streams.heartbeat import GIVEN_UP, Beats, Heartbeat, Held, ServerClock, alive
from tests.hands import FRESH, GROUP, KEYS, ME, OTHER, PARKED, SOURCES, STREAM, Raw, add, make_groups, take, taken
from tests.mesh import eventually
from tests.processes import eventually as eventually_while_blocking
from tests.servers import Server

BEATS = KEYS.beats(GROUP)


class Hands:
    """What a consumer believes to hold, and what it is told to have lost."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.lost: list[Held] = []
        self.was_silent: list[bool] = []
        self.seen: list[Beats] = []

    def lose(self, held: list[Held], was_silent: bool) -> None:
        self.lost += held
        self.was_silent.append(was_silent)


@asynccontextmanager
async def beating(server: Server, *, lease: float = 30.0, hands: Hands | None = None) -> AsyncIterator[Hands]:
    holding = hands or Hands()
    heart = Heartbeat(
        blocking_client(server.url, timeout=1.0, name=f"{ME}:heartbeat"),
        KEYS,
        group=GROUP,
        consumer=ME,
        sources=SOURCES,
        lease=lease,
        in_flight=lambda: holding.held,
        lost=holding.lose,
        observe=holding.seen.append,
    )
    heart.start()
    try:
        await heart.beaten.wait()
        yield holding
    finally:
        await heart.stop()


@pytest.fixture(autouse=True)
def groups(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    make_groups(raw)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.25)  # a quicker heart, for quicker tests
    monkeypatch.setattr(heartbeat, "LIFETIME", 1.0)


def fresh(entries: list[str]) -> list[Held]:
    return [(FRESH.index, entry) for entry in entries]


def idle(raw: Raw, entry: str) -> int:
    row = raw.xpending_range(STREAM, GROUP, entry, entry, 1)[0]
    return int(row["time_since_delivered"])


def deliveries(raw: Raw) -> list[int]:
    return [row["times_delivered"] for row in raw.xpending_range(STREAM, GROUP, "-", "+", 10_000)]


def beat(raw: Raw) -> bytes | None:
    found: bytes | None = raw.hget(BEATS, ME)
    return found


async def test_a_consumer_that_beats_is_alive_and_gone_when_it_stops(server: Server, raw: Raw) -> None:
    async with beating(server):
        seconds, microseconds = raw.time()
        now = seconds * 1000 + microseconds // 1000
        assert alive(raw.hgetall(BEATS), now) == {ME}
        assert alive(raw.hgetall(BEATS), now + 7_000) == frozenset()

    assert not raw.exists(BEATS)


async def test_every_beat_differs_from_the_one_before(server: Server, raw: Raw) -> None:
    async with beating(server):
        first = beat(raw)
        await eventually(lambda: beat(raw) != first, what="the next beat")


async def test_a_beat_tells_of_everybody_in_the_group(server: Server, raw: Raw) -> None:
    raw.hset(BEATS, OTHER, "7:1")
    hands = Hands()
    async with beating(server, hands=hands):
        await eventually(lambda: hands.seen, what="a look at the others")
        assert hands.seen[0].of[OTHER] == "7:1"
        assert hands.seen[0].of.keys() == {ME, OTHER}


async def test_a_beat_resets_the_idle_time_of_what_is_in_hand_and_counts_no_delivery(server: Server, raw: Raw) -> None:
    held, left = taken(raw, 2)
    raw.xclaim(STREAM, GROUP, ME, 0, [held, left], idle=100_000, justid=True)
    hands = Hands()
    hands.held = fresh([held])
    async with beating(server, hands=hands):
        assert idle(raw, held) < 50_000
        assert idle(raw, left) >= 100_000  # it is ours, but nobody works on it
        assert deliveries(raw) == [1, 1]


async def test_an_entry_that_another_has_is_told_as_lost_and_left_to_it(server: Server, raw: Raw) -> None:
    mine, theirs = taken(raw, 2)
    add(raw, key=PARKED.key)
    (again,) = take(raw, key=PARKED.key)
    raw.xclaim(STREAM, GROUP, OTHER, 0, [theirs], idle=100_000, justid=True)
    raw.xack(PARKED.key, GROUP, again)
    hands = Hands()
    hands.held = [*fresh([mine, theirs]), (PARKED.index, again)]
    async with beating(server, hands=hands):
        await eventually(lambda: hands.lost, what="the loss is told")
        assert set(hands.lost) == {(FRESH.index, theirs), (PARKED.index, again)}
        assert idle(raw, theirs) >= 100_000
        owner = raw.xpending_range(STREAM, GROUP, theirs, theirs, 1)[0]["consumer"]
        assert owner == OTHER.encode()


async def test_what_is_lost_while_beats_get_through_was_taken_by_hand(server: Server, raw: Raw) -> None:
    hands = Hands()
    async with beating(server, hands=hands):
        hands.held = fresh(taken(raw, 1))
        raw.xgroup_delconsumer(STREAM, GROUP, ME)
        await eventually(lambda: hands.lost, what="the loss is told")
    assert not any(hands.was_silent)


async def test_what_is_lost_during_silence_was_taken_over(server: Server, raw: Raw) -> None:
    hands = Hands()
    async with beating(server, hands=hands):
        hands.held = fresh(taken(raw, 1))
        raw.client_pause(1_500)
        raw.xgroup_delconsumer(STREAM, GROUP, ME)  # as the rescuer does
        await eventually(lambda: hands.lost, what="the loss is told")
    assert all(hands.was_silent)


async def test_after_a_flush_everything_in_hand_is_lost_and_the_beat_goes_on(server: Server, raw: Raw) -> None:
    hands = Hands()
    async with beating(server, hands=hands):
        hands.held = fresh(taken(raw, 3))
        raw.flushall()
        await eventually(lambda: len(hands.lost) >= 3, what="the loss is told")
        await eventually(lambda: raw.hexists(BEATS, ME), what="the next beat")


async def test_thousands_in_hand_are_kept_with_one_beat(server: Server, raw: Raw) -> None:
    pipeline = raw.pipeline(transaction=False)
    for _ in range(12_000):
        pipeline.xadd(STREAM, {"type": "t"})
    pipeline.execute()
    entries = take(raw, 12_000)
    raw.xclaim(STREAM, GROUP, ME, 0, [entries[0], entries[-1]], idle=100_000, justid=True)
    hands = Hands()
    hands.held = fresh(entries)
    async with beating(server, hands=hands):
        assert idle(raw, entries[0]) < 50_000
        assert idle(raw, entries[-1]) < 50_000
        assert hands.lost == []


def until_true(check: Callable[[], object], what: str) -> None:
    """Wait without letting the event loop run."""
    eventually_while_blocking(check, what=what)


async def test_a_handler_that_blocks_the_loop_is_not_taken_for_a_dead_process(server: Server, raw: Raw) -> None:
    async with beating(server):
        raw.delete(BEATS)
        until_true(lambda: raw.hexists(BEATS, ME), "a beat while the loop is blocked")


async def test_a_loop_that_is_blocked_beyond_its_lease_is(server: Server, raw: Raw) -> None:
    async with beating(server, lease=0.1):
        until_true(lambda: beat(raw) == GIVEN_UP.encode(), "it gives up while the loop is blocked")
        await eventually(lambda: beat(raw) != GIVEN_UP.encode(), what="a beat now that the loop runs again")


async def test_a_beat_that_redis_cannot_take_is_followed_by_one_that_it_can(server: Server, raw: Raw) -> None:
    async with beating(server):
        raw.config_set("maxmemory", "1")
        try:
            raw.delete(BEATS)
            refused = raw.info("errorstats")
            await eventually(lambda: raw.info("errorstats") != refused, what="a beat was refused")
        finally:
            raw.config_set("maxmemory", "0")
        await eventually(lambda: raw.hexists(BEATS, ME), what="a beat")


def test_a_step_of_the_servers_clock_is_told_from_a_reply_that_took_long() -> None:
    clock = ServerClock()
    assert clock.step(0.0, 0.1, 1000.0) == 0.0
    assert clock.step(1.0, 9.0, 1009.0) == 0.0, "it hung before it looked at its clock"
    assert clock.step(10.0, 18.0, 1010.0) == 0.0, "it hung after it had looked at its clock"
    assert clock.step(19.0, 19.1, 4619.0) == pytest.approx(3600 - 0.1, abs=10)
    assert clock.step(20.0, 20.1, 1020.0) == pytest.approx(-3600, abs=0.2)
    assert clock.step(21.0, 21.1, 1021.0) == 0.0
