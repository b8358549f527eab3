"""Retention: streams shrink to what is to be kept, and never by what somebody has yet to read or to settle."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from penstock.keys import Keys
from penstock.streams.retention import Retention
from penstock.topology import parse
from tests.hands import Raw, connected, fields_of
from tests.servers import Server

NOW = round(time.time() * 1000)
DAY = 86_400_000


@pytest.fixture(autouse=True)
def exact(raw: Raw) -> Iterator[None]:
    """Trimming goes by whole nodes of a stream: make them small."""
    raw.config_set("stream-node-max-entries", "1")
    yield
    raw.config_set("stream-node-max-entries", "100")


@asynccontextmanager
async def retention(
    server: Server,
    *,
    groups: tuple[str, ...] = (),
    age: str = "1d",
    entries: int = 1_000_000,
    hard_limit: int | str = "null",
    abandoned: str = "",
) -> AsyncIterator[Retention]:
    services = "".join(f"  {group}: {{consumes: {{events: {{}}}}}}\n" for group in groups)
    mesh = parse(
        f"streams: {{events: {{abandoned: [{abandoned}], "
        f"retention: {{age: {age}, entries: {entries}, hard_limit: {hard_limit}}}}}}}\n"
        + (f"services:\n{services}" if services else "")
    )
    async with connected(server) as client:
        yield Retention(client, Keys(), mesh, ["events"], events="told")


def fill(raw: Raw, count: int, *, age_ms: int = 0) -> list[str]:
    return [raw.xadd("events", {"type": "t"}, id=f"{NOW - age_ms}-{number + 1}").decode() for number in range(count)]


def left(raw: Raw) -> list[str]:
    return [entry_id.decode() for entry_id, _ in raw.xrange("events")]


def told(raw: Raw) -> list[tuple[str, dict[str, Any]]]:
    return [(fields["type"], json.loads(fields["data"])) for fields in fields_of(raw, "told")]


def read(raw: Raw, group: str, count: int, *, ack: bool = True) -> list[str]:
    ((_, rows),) = raw.xreadgroup(group, "c", {"events": ">"}, count=count)
    ids = [entry_id for entry_id, _ in rows]
    if ack:
        raw.xack("events", group, *ids)
    return [entry_id.decode() for entry_id in ids]


async def test_large_entries_are_looked_at_a_few_at_a_time_and_all_go(server: Server, raw: Raw) -> None:
    for _ in range(20):
        raw.xadd("events", {"data": "x" * 1_000_000})
    before = raw.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"]
    async with retention(server, entries=2) as subject:
        assert await subject.trim("events") == 18
    assert raw.info("commandstats")["cmdstat_xrange"]["calls"] - before >= 5


async def test_old_entries_go(server: Server, raw: Raw) -> None:
    fill(raw, 5, age_ms=2 * DAY)
    kept = fill(raw, 3)
    async with retention(server) as subject:
        assert await subject.trim("events") == 5

    assert left(raw) == kept


async def test_entries_beyond_the_number_to_keep_go(server: Server, raw: Raw) -> None:
    entries = fill(raw, 10)
    async with retention(server, entries=4) as subject:
        assert await subject.trim("events") == 6

    assert left(raw) == entries[-4:]


async def test_a_stream_within_its_bounds_is_left_alone(server: Server, raw: Raw) -> None:
    entries = fill(raw, 4)
    async with retention(server, entries=4) as subject:
        assert await subject.trim("events") == 0

    assert left(raw) == entries


async def test_a_stream_that_does_not_exist_is_nothing_to_trim(server: Server, raw: Raw) -> None:
    async with retention(server) as subject:
        assert await subject.trim("events") == 0

    assert not raw.exists("events")


async def test_what_a_declared_group_has_not_read_stays(server: Server, raw: Raw) -> None:
    entries = fill(raw, 10, age_ms=2 * DAY)
    raw.xgroup_create("events", "reader", "0")
    read(raw, "reader", 4)
    async with retention(server, groups=("reader",)) as subject:
        assert await subject.trim("events") == 4

    assert left(raw) == entries[4:]


async def test_what_a_declared_group_has_in_hand_stays(server: Server, raw: Raw) -> None:
    entries = fill(raw, 10)
    raw.xgroup_create("events", "reader", "0")
    read(raw, "reader", 3)
    in_hand = read(raw, "reader", 1, ack=False)
    read(raw, "reader", 100)
    async with retention(server, groups=("reader",), entries=2) as subject:
        assert await subject.trim("events") == 3
        raw.xack("events", "reader", *in_hand)
        assert await subject.trim("events") == 5

    assert left(raw) == entries[-2:]


async def test_the_slowest_declared_group_decides(server: Server, raw: Raw) -> None:
    entries = fill(raw, 10, age_ms=2 * DAY)
    for group, count in (("fast", 9), ("slow", 2), ("medium", 5)):
        raw.xgroup_create("events", group, "0")
        read(raw, group, count)
    async with retention(server, groups=("fast", "slow", "medium")) as subject:
        await subject.trim("events")

    assert left(raw) == entries[2:]


async def test_a_declared_group_that_does_not_exist_yet_holds_everything(server: Server, raw: Raw) -> None:
    entries = fill(raw, 10, age_ms=2 * DAY)
    async with retention(server, groups=("newcomer",)) as subject:
        assert await subject.trim("events") == 0

    assert left(raw) == entries


async def test_a_group_that_somebody_else_declares_holds_what_it_has_not_read(server: Server, raw: Raw) -> None:
    entries = fill(raw, 10, age_ms=2 * DAY)
    raw.xgroup_create("events", "somebody", "0")
    read(raw, "somebody", 4)
    async with retention(server) as subject:
        with structlog.testing.capture_logs() as lines:
            assert await subject.trim("events") == 4

    assert left(raw) == entries[4:]
    assert [line["group"] for line in lines] == ["somebody"]
    assert "streams.events.abandoned" in lines[0]["advice"]


async def test_a_group_that_was_declared_abandoned_holds_nothing(server: Server, raw: Raw) -> None:
    fill(raw, 10, age_ms=2 * DAY)
    raw.xgroup_create("events", "somebody", "0")
    read(raw, "somebody", 1, ack=False)
    async with retention(server, abandoned="somebody") as subject:
        assert await subject.trim("events") == 10


async def test_beyond_the_hard_limit_even_the_unread_goes_and_is_told(server: Server, raw: Raw) -> None:
    entries = fill(raw, 10)
    raw.xgroup_create("events", "slow", "0")
    read(raw, "slow", 3)
    async with retention(server, groups=("slow",), entries=2, hard_limit=5) as subject:
        with structlog.testing.capture_logs() as lines:
            assert await subject.trim("events") == 5
            assert await subject.trim("events") == 0

    assert left(raw) == entries[-5:]
    assert [line["count"] for line in lines if line["log_level"] == "error"] == [2]
    assert told(raw) == [
        ("retention.held", {"stream": "events", "group": "slow"}),
        ("retention.dropped", {"stream": "events", "group": "slow", "count": 2}),
    ]


async def test_a_hard_limit_that_nobody_is_behind_drops_nothing_unread(server: Server, raw: Raw) -> None:
    fill(raw, 10)
    raw.xgroup_create("events", "fast", "0")
    read(raw, "fast", 9)
    async with retention(server, groups=("fast",), entries=5, hard_limit=5) as subject:
        assert await subject.trim("events") == 5

    assert told(raw) == []


async def test_that_trimming_is_held_up_is_told_once_a_minute(server: Server, raw: Raw) -> None:
    fill(raw, 10, age_ms=2 * DAY)
    async with retention(server, groups=("newcomer",)) as subject:
        for _ in range(3):
            await subject.trim("events")
        assert told(raw) == [("retention.held", {"stream": "events", "group": "newcomer"})]
        raw.delete("lock:held:events")  # the minute is over
        await subject.trim("events")

    assert len(told(raw)) == 2


async def test_who_holds_trimming_up_is_said_once(server: Server, raw: Raw) -> None:
    fill(raw, 10, age_ms=2 * DAY)
    raw.xgroup_create("events", "slow", "0")
    async with retention(server, groups=("slow",)) as subject:
        with structlog.testing.capture_logs() as lines:
            await subject.trim("events")
            await subject.trim("events")

    assert [(line["stream"], line["group"]) for line in lines] == [("events", "slow")]


async def test_more_than_one_call_can_remove_goes_in_several(
    server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.streams.retention._MOST_ENTRIES", 10)
    entries = fill(raw, 95)
    async with retention(server, entries=20) as subject:
        assert await subject.trim("events") == 75

    assert left(raw) == entries[-20:]


async def test_nodes_that_do_not_add_up_to_what_a_call_removes_do_not_stop_it(
    server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.streams.retention._MOST_ENTRIES", 50)
    raw.config_set("stream-node-max-entries", "7")
    for _ in range(1_000):
        raw.xadd("events", {"type": "t"})
    async with retention(server, entries=20) as subject:
        await subject.trim("events")

    assert 20 <= raw.xlen("events") < 27


async def test_ids_that_producers_chose_are_trimmed_by_their_order(server: Server, raw: Raw) -> None:
    for entry_id in ("1-1", "1-4294967296", "2-0", "2-1"):
        raw.xadd("events", {"type": "t"}, id=entry_id)
    raw.xgroup_create("events", "reader", "0")
    read(raw, "reader", 2)
    async with retention(server, groups=("reader",)) as subject:
        await subject.trim("events")

    assert left(raw) == ["2-0", "2-1"]


@pytest.mark.parametrize("seed", range(15))
async def test_whatever_the_groups_are_at_nothing_unread_or_in_hand_ever_goes(
    server: Server, raw: Raw, seed: int
) -> None:
    dice = random.Random(seed)
    groups = ("a", "b", "c")
    for group in groups:
        raw.xgroup_create("events", group, "0", mkstream=True)
    needed: dict[str, set[str]] = {group: set() for group in groups}
    keep = dice.randint(1, 10)
    async with retention(server, groups=groups, entries=keep) as subject:
        for _ in range(12):
            new = [raw.xadd("events", {"type": "t"}).decode() for _ in range(dice.randint(0, 6))]
            for group in groups:
                needed[group].update(new)
                if needed[group] and dice.random() < 0.7:
                    rows = raw.xreadgroup(group, "c", {"events": ">"}, count=dice.randint(1, 6))
                    held = {entry_id.decode() for _, entries in rows for entry_id, _ in entries}
                    done = {entry_id for entry_id in held if dice.random() < 0.8}
                    if done:
                        raw.xack("events", group, *done)
                    needed[group] -= done
            await subject.trim("events")
            assert set().union(*needed.values()) <= set(left(raw))

    assert len(left(raw)) >= min(keep, raw.xinfo_stream("events")["entries-added"])
