"""The atomic commit: what a handler brought about takes effect with its acknowledgement, or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis
import structlog

from penstock.dlq.dead_letter import decode
from penstock.event import encode_retry
from penstock.streams.commit import DEAD, DONE, RETRY, Entry, Output, UnitOfWork
from tests.hands import (
    DELAYED,
    FRESH,
    GROUP,
    ME,
    OTHER,
    PARKED,
    RETRY_STREAM,
    STREAM,
    Raw,
    add,
    done,
    event,
    fields_of,
    hand,
    make_groups,
    pending,
    snapshot,
    take,
    taken,
    unit,
)
from tests.mesh import eventually
from tests.servers import Server

BURIAL = ["dlq.reason", "failed", "dlq.stream", STREAM, "dlq.group", GROUP]
COUNT = ["HINCRBY", "state:worker:counts", "a", "1"]


@pytest.fixture(autouse=True)
def groups(raw: Raw) -> None:
    make_groups(raw)


def parked(entry_id: str, **fields: str) -> Entry:
    flat = [part for pair in fields.items() for part in pair]
    return Entry(FRESH.index, entry_id, RETRY, flat, 60_000)


def buried(entry_id: str) -> Entry:
    return Entry(FRESH.index, entry_id, DEAD, BURIAL)


def waiting(raw: Raw) -> list[dict[str, str]]:
    """Return the fields of what is parked for later."""
    return [dict(zip(fields[::2], fields[1::2], strict=True)) for fields in waiting_values(raw)]


def waiting_values(raw: Raw) -> list[list[str]]:
    """Return names and values of what is parked for later, in their order: a name may be there twice."""
    return [msgspec.msgpack.decode(member, type=list[str]) for member in raw.zrange(DELAYED, 0, -1)]


async def test_a_done_entry_takes_effect_and_is_acknowledged_in_one(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw)
    async with hand(server) as mine:
        (report,) = await mine.settle(unit(done(entry), outputs=[event("a"), event("b")], operations=[COUNT, COUNT]))

    assert (report.refused, report.invalid, report.stale) == (frozenset(), None, False)
    assert [fields["type"] for fields in fields_of(raw, "events")] == ["a", "b"]
    assert raw.hgetall("state:worker:counts") == {b"a": b"2"}
    assert pending(raw) == {}
    assert raw.xlen(STREAM) == 1  # others read it too


@pytest.mark.parametrize("verdict", [DONE, RETRY, DEAD])
async def test_the_commit_of_a_zombie_changes_nothing(server: Server, raw: Raw, verdict: int) -> None:
    (entry,) = taken(raw)
    raw.xclaim(STREAM, GROUP, OTHER, 0, [entry])
    before = snapshot(raw)
    zombies = unit(Entry(FRESH.index, entry, verdict, BURIAL, 1), outputs=[event()], operations=[COUNT])
    async with hand(server) as mine:
        (report,) = await mine.settle(zombies)

    assert report.refused == {0}
    assert snapshot(raw) == before
    assert pending(raw) == {entry: OTHER}


async def test_a_commit_that_is_sent_twice_takes_effect_once(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw)
    once = unit(done(entry), outputs=[event()], operations=[COUNT])
    async with hand(server) as mine:
        await mine.settle(once)
        await mine.settle(once)

    assert [report.refused for report in mine.reports] == [set(), {0}]
    assert raw.xlen("events") == 1


async def test_each_entry_of_a_mixed_batch_gets_its_own_verdict(server: Server, raw: Raw) -> None:
    good, bad, hopeless, lost = taken(raw, 4)
    raw.xclaim(STREAM, GROUP, OTHER, 0, [lost])
    async with hand(server) as mine:
        reports = await mine.settle(
            unit(done(good), outputs=[event("good")], operations=[COUNT]),
            unit(parked(bad, attempt="2"), outputs=[event("bad")]),
            unit(buried(hopeless), outputs=[event("hopeless")]),
            unit(done(lost), outputs=[event("lost")], operations=[COUNT]),
        )

    assert [report.refused for report in reports] == [set(), set(), set(), {0}]
    assert [fields["type"] for fields in fields_of(raw, "events")] == ["good", "bad", "hopeless"]
    assert raw.hgetall("state:worker:counts") == {b"a": b"1"}
    assert [fields["attempt"] for fields in waiting(raw)] == ["2"]
    assert [fields["dlq.reason"] for fields in fields_of(raw, "dlq")] == ["failed"]
    assert pending(raw) == {lost: OTHER}


async def test_a_unit_of_many_is_refused_whole_if_one_of_it_is_lost(server: Server, raw: Raw) -> None:
    first, second, third = taken(raw, 3)
    raw.xclaim(STREAM, GROUP, OTHER, 0, [second])
    before = snapshot(raw)
    async with hand(server) as mine:
        (report,) = await mine.settle(
            unit(done(first), done(second), done(third), outputs=[event()], operations=[COUNT])
        )

    assert report.refused == {1}
    assert snapshot(raw) == before


async def test_a_retry_entry_carries_what_the_next_attempt_must_know(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw, data='{"a": 1}', mine="x", attempt="producer's own")
    async with hand(server) as mine:
        await mine.settle(unit(parked(entry, **{"retry.entry": entry, "attempt": "2", "retry.error": "KeyError: 1"})))

    assert waiting_values(raw) == [
        [
            *("type", "t", "data", '{"a": 1}', "mine", "x", "attempt", "producer's own"),
            *("retry.entry", entry, "attempt", "2", "retry.error", "KeyError: 1"),
        ]
    ]
    due = raw.zrange(DELAYED, 0, -1, withscores=True)
    seconds, microseconds = raw.time()
    assert 0 < due[0][1] - (seconds * 1000 + microseconds / 1000) <= 60_000
    assert pending(raw) == {}


async def test_a_retry_entry_that_fails_again_is_parked_anew_and_leaves_the_retry_stream(
    server: Server, raw: Raw
) -> None:
    before, after = (encode_retry("5-0", attempt=number, error="KeyError: 1", crashes=1) for number in (2, 3))
    add(raw, key=RETRY_STREAM, attempt="own")  # a producer may call its fields what it likes
    (own,) = raw.xrange(RETRY_STREAM)
    raw.xtrim(RETRY_STREAM, maxlen=0)
    raw.execute_command("XADD", RETRY_STREAM, "*", *(part for pair in own[1].items() for part in pair), *before)
    (entry,) = take(raw, key=RETRY_STREAM)
    async with hand(server) as mine:
        await mine.settle(unit(Entry(PARKED.index, entry, RETRY, after, 1)))

    assert waiting_values(raw) == [["type", "t", "attempt", "own", *after]]
    assert raw.xlen(RETRY_STREAM) == 0
    assert pending(raw, RETRY_STREAM) == {}


async def test_a_dead_letter_holds_the_whole_event_and_why_it_died(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw, data='{"a": 1}', tenant="acme", **{"dlq.reason": "a liar's"})
    async with hand(server) as mine:
        await mine.settle(unit(buried(entry)))

    assert fields_of(raw, "dlq") == [
        {"type": "t", "data": '{"a": 1}', "tenant": "acme"}
        | {"dlq.reason": "failed", "dlq.stream": STREAM, "dlq.group": GROUP}
    ]


async def test_without_a_dead_letter_queue_the_dead_are_dropped(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw)
    async with hand(server, dead_letters="") as mine:
        await mine.settle(unit(buried(entry), outputs=[event("job.dead")]))

    assert not raw.exists("dlq")
    assert pending(raw) == {}
    assert raw.xlen("events") == 1


async def test_an_event_for_later_waits_in_the_schedule_of_its_stream(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw)
    async with hand(server) as mine:
        await mine.settle(unit(done(entry), outputs=[event(key="events:scheduled", delay_ms=90_000)]))

    assert not raw.exists("events")
    assert raw.zcard("events:scheduled") == 1


async def test_a_field_belongs_to_whoever_set_it_first(server: Server, raw: Raw) -> None:
    first, other, again = taken(raw, 3)
    async with hand(server) as mine:
        for entry, owner, value in ((first, "i-1-0", "a b"), (other, "i-1-00", "c"), (again, "i-1-0", "d e")):
            await mine.settle(unit(done(entry), operations=[["HSETOWN", "h", "f", owner, value, "60000"]]))
            assert 0 < raw.ttl("h") <= 60
            assert raw.hget("h", "f") == (b"i-1-0 d e" if value == "d e" else b"i-1-0 a b")


# What is refused before anything is written


def hold_wrong_types(raw: Raw) -> None:
    raw.set("text", "x")
    raw.hset("hash", mapping={"word": "many", "number": "5", "float": "1.5"})
    raw.lpush("list", "x")
    raw.set("state:worker:word", "many")


IMPOSSIBLE: dict[str, tuple[list[Output], list[list[Any]], str]] = {
    "an event to what is no stream": ([event(key="text")], [], "text holds a string, not a stream"),
    "a delay in what is no zset": ([event(key="hash", delay_ms=5)], [], "hash holds a hash, not a zset"),
    "a hash operation on a string": ([], [["HSET", "text", "a", "1"]], "HSET on text, which holds a string"),
    "a zset operation on a list": ([], [["ZADD", "list", "1", "m"]], "ZADD on list, which holds a list"),
    "a set operation on a hash": ([], [["SADD", "hash", "m"]], "SADD on hash, which holds a hash"),
    "counting in a hash that holds a word": ([], [["HINCRBY", "hash", "word", "1"]], "not an integer"),
    "counting in a hash that holds a fraction": ([], [["HINCRBY", "hash", "float", "1"]], "not an integer"),
    "counting by a fraction": ([], [["HINCRBY", "hash", "number", "1.5"]], "not an integer"),
    "counting in a word": ([], [["INCRBY", "state:worker:word", "1"]], "not an integer"),
    "a field of one's own in a string": (
        [],
        [["HSETOWN", "text", "f", "1-0", "x", "9"]],
        "HSETOWN on text, which holds",
    ),
    "no such operation": ([], [["FLUSHALL", "x"]], "no state operation is called FLUSHALL"),
    "a set that becomes a hash": ([], [["SET", "k", "v"], ["HSET", "k", "a", "1"]], "holds a string"),
    "too many fields": ([Output("events", ["f", "v"] * 3_001)], [], "an event of more than 3000 fields"),
    "too many arguments": ([], [["SADD", "s", *map(str, range(6_001))]], "more than 6000 arguments"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
async def test_what_cannot_be_done_is_refused_before_the_first_write_and_the_rest_settles(
    server: Server, raw: Raw, case: str
) -> None:
    outputs, operations, why = IMPOSSIBLE[case]
    hold_wrong_types(raw)
    before, impossible, after = taken(raw, 3)
    async with hand(server) as mine:
        reports = await mine.settle(
            unit(done(before), outputs=[event("before")]),
            unit(done(impossible), outputs=[event("half"), *outputs], operations=[COUNT, *operations, COUNT]),
            unit(done(after), outputs=[event("after")]),
        )

    assert [report.invalid is None for report in reports] == [True, False, True]
    assert why in (reports[1].invalid or "")
    assert [fields["type"] for fields in fields_of(raw, "events")] == ["before", "after"]
    assert not raw.exists("state:worker:counts")
    assert pending(raw) == {impossible: ME}


async def test_an_entry_that_cannot_be_parked_is_refused_before_the_first_write(server: Server, raw: Raw) -> None:
    raw.set(DELAYED, "what is this doing here")
    bad, good = taken(raw, 2)
    async with hand(server) as mine:
        reports = await mine.settle(
            unit(parked(bad), outputs=[event("bad")]), unit(done(good), outputs=[event("good")])
        )

    assert reports[0].invalid == f"{DELAYED} holds a string, not a zset"
    assert [fields["type"] for fields in fields_of(raw, "events")] == ["good"]
    assert pending(raw) == {bad: ME}


async def test_what_a_refused_unit_would_have_done_does_not_count(server: Server, raw: Raw) -> None:
    refused, fine = taken(raw, 2)
    async with hand(server) as mine:
        reports = await mine.settle(
            unit(done(refused), operations=[["SET", "k", "v"], ["HSET", "k", "a", "1"]]),
            unit(done(fine), operations=[["HSET", "k", "a", "1"]]),
        )

    assert [report.invalid is None for report in reports] == [False, True]
    assert raw.hgetall("k") == {b"a": b"1"}


async def test_a_key_may_become_another_kind_within_a_batch(server: Server, raw: Raw) -> None:
    raw.set("k", "many")
    raw.hset("h", "a", "many")
    first, second = taken(raw, 2)
    async with hand(server) as mine:
        reports = await mine.settle(
            unit(done(first), operations=[["DEL", "k"], ["DEL", "h"]]),
            unit(done(second), operations=[["HINCRBY", "k", "a", "2"], ["HINCRBY", "h", "a", "2"]]),
        )

    assert [report.invalid for report in reports] == [None, None]
    assert raw.hgetall("k") == raw.hgetall("h") == {b"a": b"2"}


async def test_an_operation_that_fails_in_spite_of_the_checks_is_told_and_the_rest_settles(
    server: Server, raw: Raw
) -> None:
    raw.hset("h", "n", str(2**63 - 1))
    overflow, fine = taken(raw, 2)
    with structlog.testing.capture_logs() as lines:
        async with hand(server) as mine:
            await mine.settle(
                unit(done(overflow), operations=[["HINCRBY", "h", "n", "1"], COUNT]),
                unit(done(fine), operations=[COUNT]),
            )

    assert [line["error"] for line in lines if line["log_level"] == "error"] == [
        "HINCRBY h: ERR increment or decrement would overflow"
    ]
    assert raw.hget("state:worker:counts", "a") == b"2"
    assert pending(raw) == {}


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
async def test_what_no_client_can_send_is_refused_at_once(server: Server, raw: Raw, text: str) -> None:
    (entry,) = taken(raw)
    async with hand(server) as mine:
        fine, refused = taken(raw, 2)
        reports = await mine.settle(
            unit(done(fine)), unit(done(entry), operations=[["SET", "k", text]]), unit(done(refused))
        )

    assert [bool(report.invalid) for report in reports] == [False, True, False]
    assert "surrogates" in (reports[1].invalid or "")
    assert list(pending(raw)) == [entry]


# Guards


async def test_a_unit_whose_guard_no_longer_holds_changes_nothing(server: Server, raw: Raw) -> None:
    raw.hset("turn", mapping={"number": "4"})
    held, changed, missing, late = taken(raw, 4)

    def guarded(entry: str, field: str, value: str | Any, new: str) -> UnitOfWork:
        return UnitOfWork([done(entry)], [event(new)], [["HSET", "turn", field, new]], [("turn", field, value)])

    async with hand(server) as mine:
        reports = await mine.settle(
            guarded(changed, "number", "3", "x"),
            guarded(missing, "number", False, "y"),
            guarded(held, "number", "4", "5"),
            guarded(late, "number", "4", "z"),  # the one before has changed it
        )

    assert [report.stale for report in reports] == [True, True, False, True]
    assert raw.hgetall("turn") == {b"number": b"5"}
    assert [fields["type"] for fields in fields_of(raw, "events")] == ["5"]
    assert pending(raw) == {changed: ME, missing: ME, late: ME}


# Redis refuses


def out_of_memory(raw: Raw, *, refuse: bool) -> None:
    raw.config_set("maxmemory", "1" if refuse else "0")


def without_replicas(raw: Raw, *, refuse: bool) -> None:
    raw.config_set("min-replicas-to-write", "1" if refuse else "0")


def as_replica(raw: Raw, *, refuse: bool) -> None:
    raw.execute_command("REPLICAOF", *(("127.0.0.1", "1") if refuse else ("NO", "ONE")))


EFFECTS: dict[str, Callable[[str], UnitOfWork]] = {
    "an event": lambda entry: unit(done(entry), outputs=[event(entry)]),
    "an event for later": lambda entry: unit(
        done(entry), outputs=[event(entry, key="events:scheduled", delay_ms=60_000)]
    ),
    "an operation": lambda entry: unit(done(entry), operations=[COUNT]),
    "an operation that frees memory first": lambda entry: unit(done(entry), operations=[["DEL", "old"], COUNT]),
    "a retry": lambda entry: unit(parked(entry, **{"retry.entry": entry})),
    "a dead letter": lambda entry: unit(buried(entry)),
}


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("refusal", [out_of_memory, without_replicas, as_replica])
async def test_while_redis_takes_no_writes_nothing_happens_and_afterwards_everything_once(
    server: Server, raw: Raw, refusal: Callable[..., None], effect: str
) -> None:
    raw.set("old", "x")
    units = [EFFECTS[effect](entry) for entry in taken(raw, 2)]
    before = snapshot(raw)
    refusal(raw, refuse=True)
    try:
        async with hand(server) as mine:
            refused = refusals(raw)
            settling = asyncio.create_task(mine.settle(*units))
            await eventually(lambda: refusals(raw) > refused, what="a commit was refused")
            assert not settling.done()
            assert snapshot(raw) == before
            refusal(raw, refuse=False)
            reports = await settling
    finally:
        refusal(raw, refuse=False)

    assert [(report.refused, report.invalid) for report in reports] == [(frozenset(), None)] * 2
    assert pending(raw) == {}
    counted = int(raw.hget("state:worker:counts", "a") or 0)
    found = [raw.xlen("events"), raw.zcard("events:scheduled"), raw.zcard(DELAYED), raw.xlen("dlq"), counted]
    assert sorted(found) == [0, 0, 0, 0, 2]
    assert found.index(2) == {"an event": 0, "an event for later": 1, "a retry": 2, "a dead letter": 3}.get(effect, 4)


def refusals(raw: Raw) -> int:
    """Return how many scripts have ended in an error."""
    stats = raw.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("failed_calls", 0) for name in ("evalsha", "eval"))


# Sizes


async def test_a_batch_handlers_thousand_events_settle_in_one(server: Server, raw: Raw) -> None:
    entries = taken(raw, 1_000)
    async with hand(server) as mine:
        await mine.settle(unit(*map(done, entries), operations=[COUNT]))

    assert pending(raw) == {}
    assert raw.hget("state:worker:counts", "a") == b"1"


@pytest.mark.parametrize("order", [1, -1], ids=["as they came", "the other way round"])
async def test_of_a_large_batch_exactly_what_is_lost_is_refused_however_its_ids_look(
    server: Server, raw: Raw, order: int
) -> None:
    ids = [f"{ms}-{number}" for ms in (9, 10, 99, 100) for number in (1, 2, 10, 11, 100)]
    for entry_id in ids:
        raw.xadd(STREAM, {"type": "t"}, id=entry_id)
    take(raw)
    lost = set(ids[::3])
    raw.xclaim(STREAM, GROUP, OTHER, 0, [*lost])
    async with hand(server) as mine:
        reports = await mine.settle(*[unit(done(entry_id), outputs=[event()]) for entry_id in ids[::order]])

    refused = {entry_id for entry_id, report in zip(ids[::order], reports, strict=True) if report.refused}
    assert refused == lost
    assert pending(raw) == dict.fromkeys(lost, OTHER)
    assert raw.xlen("events") == len(ids) - len(lost)


async def test_thousands_of_units_are_settled_in_calls_of_bounded_size(server: Server, raw: Raw) -> None:
    pipeline = raw.pipeline(transaction=False)
    for number in range(3_000):
        pipeline.xadd(STREAM, {"type": "t", "data": str(number)})
    pipeline.execute()
    entries = take(raw, 3_000)
    calls = total_calls(raw)
    async with hand(server) as mine:
        reports = await mine.settle(*(unit(done(entry), outputs=[event(entry)]) for entry in entries))

    assert len(reports) == 3_000
    assert pending(raw) == {}
    assert [fields["type"] for fields in fields_of(raw, "events")] == entries  # each once, and in order
    assert 6 <= total_calls(raw) - calls <= 8  # 500 at most in one


async def test_large_units_travel_in_calls_of_about_a_megabyte(server: Server, raw: Raw) -> None:
    entries = taken(raw, 8)
    large = Output("events", ["type", "t", "data", "x" * 400_000])
    calls = total_calls(raw)
    async with hand(server) as mine:
        await mine.settle(*(unit(done(entry), outputs=[large]) for entry in entries))

    assert raw.xlen("events") == 8
    assert 4 <= total_calls(raw) - calls <= 6


@pytest.mark.parametrize("verdict", [RETRY, DEAD])
async def test_what_is_copied_counts_like_what_is_sent(server: Server, raw: Raw, verdict: int) -> None:
    entries = taken(raw, 8, data="x" * 400_000)
    calls = total_calls(raw)
    async with hand(server) as mine:
        await mine.settle(*(unit(Entry(FRESH.index, entry, verdict, BURIAL, 60_000, 400_000)) for entry in entries))

    assert pending(raw) == {}
    assert 4 <= total_calls(raw) - calls <= 6


def total_calls(raw: Raw) -> int:
    stats = raw.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


@pytest.mark.parametrize("verdict", [RETRY, DEAD])
async def test_an_event_of_thousands_of_fields_can_be_parked_and_buried(server: Server, raw: Raw, verdict: int) -> None:
    raw.xadd(STREAM, {"type": "t", **{f"f{number}": "v" for number in range(2_999)}})
    (entry,) = take(raw)
    async with hand(server) as mine:
        (report,) = await mine.settle(unit(Entry(FRESH.index, entry, verdict, BURIAL, 60_000)))

    assert report.invalid is None
    (fields,) = waiting(raw) if verdict == RETRY else fields_of(raw, "dlq")
    assert len(fields) == 3_000 + len(BURIAL) // 2


async def test_an_event_of_more_fields_than_lua_can_hold_does_not_stop_the_rest(server: Server, raw: Raw) -> None:
    raw.xadd(STREAM, {"type": "t", **{f"f{number}": "v" for number in range(20_000)}})
    (entry,) = take(raw)
    (fine,) = taken(raw)
    async with hand(server) as mine:
        await mine.settle(unit(buried(entry)), unit(done(fine), outputs=[event()]))

    assert pending(raw) == {}
    assert raw.xlen("events") == 1
    (letter,) = [decode(letter, fields, None) for letter, fields in raw.xrange("dlq")]
    assert letter.type == "t"
    assert letter.event["f19999"] == "v"
    assert len(letter.event) == 20_001


# Loss


@pytest.mark.parametrize("verdict", [DONE, RETRY, DEAD])
async def test_an_entry_that_is_deleted_while_in_hand_is_settled_from_what_is_in_hand(
    server: Server, raw: Raw, verdict: int
) -> None:
    (entry,) = taken(raw)
    raw.xdel(STREAM, entry)
    own = [b"type", b"t", b"data", b"\xff"]
    async with hand(server) as mine:
        settled = Entry(FRESH.index, entry, verdict, BURIAL, 3_600_000, in_hand=own)
        (report,) = await mine.settle(unit(settled, outputs=[event()], operations=[COUNT]))

    assert (report.refused, report.invalid) == (frozenset(), None)
    assert pending(raw) == {}
    assert raw.xlen("events") == 1
    kept = [fields for _, fields in raw.xrange("dlq")]
    assert (raw.zcard(DELAYED), len(kept)) == (int(verdict == RETRY), int(verdict == DEAD))
    if verdict == DEAD:
        assert (kept[0][b"type"], kept[0][b"data"]) == (b"t", b"\xff")


async def test_after_a_flush_nothing_is_settled_and_nobody_fails(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw)
    raw.flushall()
    async with hand(server) as mine:
        (report,) = await mine.settle(unit(done(entry), outputs=[event()], operations=[COUNT]))

    assert report.refused == {0}
    assert raw.dbsize() == 0


async def test_a_stream_that_became_something_else_is_refused_like_one_that_is_gone(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw)
    raw.set(STREAM, "x")
    async with hand(server) as mine:
        (report,) = await mine.settle(unit(done(entry), operations=[COUNT]))

    assert report.refused == {0}
    assert not raw.exists("state:worker:counts")


async def test_dead_letters_that_are_no_stream_stop_the_committer_with_a_sentence(server: Server, raw: Raw) -> None:
    raw.set("dlq", json.dumps("x"))
    (entry,) = taken(raw)
    async with hand(server) as mine:
        with pytest.raises(redis.ResponseError, match="PENSTOCK dlq is not a stream"):
            await mine.settle(unit(buried(entry), outputs=[event()]))

    assert pending(raw) == {entry: ME}
    assert not raw.exists("events")
