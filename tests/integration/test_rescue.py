"""The work of the dead: handed back to the living, and the poison among it found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest

from penstock.dlq import dead_letter
from penstock.streams import rescue as sweeps
from penstock.streams.commit import Source
from penstock.streams.rescue import MOST_DEATHS, Rescuer
from tests.hands import (
    FRESH,
    GROUP,
    KEYS,
    ME,
    OTHER,
    PARKED,
    RETRY_STREAM,
    SOURCES,
    STREAM,
    Raw,
    add,
    connected,
    end,
    fields_of,
    make_groups,
    pending,
    snapshot,
    take,
    taken,
)
from tests.mesh import eventually
from tests.servers import Server

LIVE = f"live:{ME}"
Mode = Literal["rescue", "release", "stale"]


class Hands:
    """A janitor whose single moves a test can make."""

    def __init__(self, rescuer: Rescuer) -> None:
        self.rescuer = rescuer

    async def move(self, mode: Mode, *, source: Source = FRESH, consumer: str = ME) -> list[int]:
        return await self.rescuer._reassign(source, consumer, mode)


@asynccontextmanager
async def rescuer(server: Server) -> AsyncIterator[Hands]:
    async with connected(server) as client:
        yield Hands(Rescuer(client, KEYS, group=GROUP, sources=SOURCES, dlq="dlq"))


@pytest.fixture(autouse=True)
def groups(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    make_groups(raw)
    monkeypatch.setattr(sweeps, "_TICK", 0.1)  # more often, for quicker tests
    monkeypatch.setattr(sweeps, "LIFETIME", 0.1)


def consumers(raw: Raw, key: str = STREAM) -> set[str]:
    return {row["name"].decode() for row in raw.xinfo_consumers(key, GROUP)}


async def test_what_a_dead_consumer_had_goes_to_whoever_reads_the_retry_stream_next(server: Server, raw: Raw) -> None:
    first, second = taken(raw, 2, data="5", attempt="producer's own")
    async with rescuer(server) as hands:
        assert await hands.move("rescue") == [2, 0, 0, 1]

    assert fields_of(raw, RETRY_STREAM) == [
        {"type": "t", "data": "5", "retry.entry": entry, "attempt": "1", "retry.crashes": "1"}
        for entry in (first, second)
    ]
    assert pending(raw) == {}
    assert consumers(raw) == set()  # its name does not stay behind
    assert len(take(raw, consumer=OTHER, key=RETRY_STREAM)) == 2


async def test_a_consumer_that_turns_out_to_be_alive_is_left_alone(server: Server, raw: Raw) -> None:
    taken(raw, 2)
    raw.set(LIVE, "1")
    before = snapshot(raw)
    async with rescuer(server) as hands:
        assert await hands.move("rescue") == [-1]

    assert snapshot(raw) == before


async def test_only_the_dead_consumers_entries_move(server: Server, raw: Raw) -> None:
    (mine,) = taken(raw)
    add(raw)
    (theirs,) = take(raw, consumer=OTHER)
    async with rescuer(server) as hands:
        await hands.move("rescue")

    assert pending(raw) == {theirs: OTHER}
    assert [fields["retry.entry"] for fields in fields_of(raw, RETRY_STREAM)] == [mine]
    assert consumers(raw) == {OTHER}


async def test_an_attempt_that_died_is_counted_as_a_crash_and_not_as_an_attempt(server: Server, raw: Raw) -> None:
    add(raw, key=RETRY_STREAM, **{"retry.entry": "5-0", "attempt": "3", "retry.crashes": "0", "retry.error": "x"})
    take(raw, key=RETRY_STREAM)
    async with rescuer(server) as hands:
        await hands.move("rescue", source=PARKED)

    assert fields_of(raw, RETRY_STREAM) == [
        {"type": "t", "retry.entry": "5-0", "attempt": "3", "retry.crashes": "1", "retry.error": "x"}
    ]
    assert pending(raw, RETRY_STREAM) == {}


async def test_what_is_handed_back_in_order_is_no_crash(server: Server, raw: Raw) -> None:
    taken(raw, 2)
    async with rescuer(server) as hands:
        assert await hands.rescuer.release(ME) == 2

    assert [fields["retry.crashes"] for fields in fields_of(raw, RETRY_STREAM)] == ["0", "0"]
    assert consumers(raw) == set()


def suspects(raw: Raw, count: int, *, crashes: int = MOST_DEATHS - 1) -> list[str]:
    for number in range(count):
        add(raw, key=RETRY_STREAM, **{"retry.entry": f"{number + 1}-0", "retry.crashes": str(crashes), "attempt": "1"})
    return take(raw, key=RETRY_STREAM)


def crashes(raw: Raw) -> dict[str, str]:
    return {fields["retry.entry"]: fields["retry.crashes"] for fields in fields_of(raw, RETRY_STREAM)}


async def test_of_several_suspects_only_the_one_on_trial_is_charged(server: Server, raw: Raw) -> None:
    _, culprit, _ = suspects(raw, 3)
    raw.hset("trials:worker", ME, culprit)
    async with rescuer(server) as hands:
        assert await hands.move("rescue", source=PARKED) == [2, 1, 0, 1]

    assert crashes(raw) == {"1-0": "2", "3-0": "2"}
    (letter,) = fields_of(raw, "dlq")
    assert letter["dlq.entry"] == "2-0"
    assert not raw.hexists("trials:worker", ME)


async def test_suspects_that_were_on_no_trial_are_not_charged_again(server: Server, raw: Raw) -> None:
    suspects(raw, 2)
    async with rescuer(server) as hands:
        await hands.move("rescue", source=PARKED)

    assert crashes(raw) == {"1-0": "2", "2-0": "2"}
    assert not raw.exists("dlq")


async def test_the_first_deaths_are_charged_to_all_that_was_in_hand(server: Server, raw: Raw) -> None:
    suspects(raw, 2, crashes=1)
    async with rescuer(server) as hands:
        await hands.move("rescue", source=PARKED)

    assert crashes(raw) == {"1-0": "2", "2-0": "2"}


async def test_a_trial_that_ends_in_order_charges_nobody(server: Server, raw: Raw) -> None:
    (suspect,) = suspects(raw, 1)
    raw.hset("trials:worker", ME, suspect)
    async with rescuer(server) as hands:
        await hands.move("release", source=PARKED)

    assert crashes(raw) == {"1-0": "2"}
    assert not raw.exists("trials:worker")


async def test_the_dead_letter_of_a_culprit_says_what_happened(server: Server, raw: Raw) -> None:
    fields = {"type": "bomb", "data": "1", "retry.entry": "5-0", "attempt": "2", "retry.crashes": str(MOST_DEATHS - 1)}
    add(raw, key=RETRY_STREAM, **fields)
    (culprit,) = take(raw, key=RETRY_STREAM)
    raw.hset("trials:worker", ME, culprit)
    async with rescuer(server) as hands:
        await hands.move("rescue", source=PARKED)

    (letter,) = fields_of(raw, "dlq")
    codec = dead_letter.encode(
        stream=STREAM,
        group=GROUP,
        entry="5-0",
        reason="crashed",
        error="the process died 3 times with this event in hand, the last time alone",
        attempts=2,
        time=0,
        fingerprint="crashed:bomb",
    )
    as_codec_has_it = dict(zip(codec[::2], codec[1::2], strict=True))
    assert letter == {**fields, **as_codec_has_it, dead_letter.TIME: letter[dead_letter.TIME]}
    assert letter[dead_letter.TIME].endswith("Z")


async def test_entries_that_were_deleted_are_let_go_and_counted(server: Server, raw: Raw) -> None:
    gone, _ = taken(raw, 2)
    raw.xdel(STREAM, gone)
    async with rescuer(server) as hands:
        assert await hands.move("rescue") == [1, 0, 1, 1]

    assert pending(raw) == {}


async def test_more_than_one_call_can_move_is_moved_in_several(server: Server, raw: Raw) -> None:
    taken(raw, 450)
    async with rescuer(server) as hands:
        assert await hands.move("rescue") == [200, 0, 0, 0]
        assert consumers(raw) == {ME}
        assert await hands.rescuer.release(ME) == 250

    assert raw.xlen(RETRY_STREAM) == 450
    assert pending(raw) == {}


async def test_entries_that_nobody_has_worked_on_for_long_are_handed_back_whoever_has_them(
    server: Server, raw: Raw
) -> None:
    forgotten, worked_on = taken(raw, 2)
    raw.set(LIVE, "1")
    raw.xclaim(STREAM, GROUP, ME, 0, [forgotten], idle=61_000, justid=True)
    async with rescuer(server) as hands:
        assert await hands.move("stale", consumer="") == [1, 0, 0, 0]

    assert pending(raw) == {worked_on: ME}
    assert crashes(raw) == {forgotten: "0"}
    assert consumers(raw) == {ME}


async def test_releasing_what_was_flushed_away_is_nothing(server: Server, raw: Raw) -> None:
    taken(raw, 2)
    raw.flushall()
    async with rescuer(server) as hands:
        assert await hands.rescuer.release(ME) == 0


@asynccontextmanager
async def sweeping(*janitors: Rescuer) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one.run()) for one in janitors]
    try:
        yield
    finally:
        await end(*tasks)


def old_enough(server: Server) -> bool:
    """Whether the server has been up for longer than a consumer may take to show that it is alive."""
    with server.client() as raw:
        info: Any = raw.info("server")
        return bool(info["uptime_in_seconds"] > 0)


async def test_a_janitor_finds_the_dead_and_leaves_the_living(server: Server, raw: Raw) -> None:
    dead = taken(raw, 3)
    add(raw, 2)
    living = take(raw, consumer=OTHER)
    raw.set(f"live:{OTHER}", "1")
    await eventually(lambda: old_enough(server), what="the janitor trusts the server")
    async with rescuer(server) as one, rescuer(server) as two, sweeping(one.rescuer, two.rescuer):
        await eventually(lambda: raw.xlen(RETRY_STREAM) == 3, what="the dead consumer's entries are handed back")

    assert pending(raw) == dict.fromkeys(living, OTHER)
    assert sorted(crashes(raw)) == sorted(dead)
    assert consumers(raw) == {OTHER}


async def test_a_janitor_outlives_a_flush(server: Server, raw: Raw) -> None:
    await eventually(lambda: old_enough(server), what="the janitor trusts the server")
    async with rescuer(server) as hands, sweeping(hands.rescuer):
        lock = "lock:janitor:worker"
        await eventually(lambda: raw.exists(lock), what="it sweeps")
        raw.flushall()
        await eventually(lambda: raw.exists(lock), what="it sweeps, and finds no group")
        make_groups(raw)
        taken(raw, 1)
        await eventually(lambda: raw.xlen(RETRY_STREAM) == 1, what="it works again")
