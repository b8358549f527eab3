"""The dead letter queue: read, replay once, purge, keep within bounds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from penstock.dlq import dead_letter
from penstock.dlq.dead_letter import DeadLetter
from penstock.dlq.queue import DeadLetters
from penstock.dlq.retention import DeadLetterRetention
from penstock.keys import Keys
from tests.hands import Raw, connected, fields_of
from tests.servers import Server

RETRY = "ingest:worker:retry"


@asynccontextmanager
async def queue(server: Server) -> AsyncIterator[DeadLetters]:
    async with connected(server) as client:
        yield DeadLetters(client, Keys())


def bury(raw: Raw, number: int = 1, *, entry_id: str = "*", **fields: str) -> str:
    letter = {
        "type": "ticket.created",
        "data": f'{{"n": {number}}}',
        "mine": "x",
        "attempt": "the producer's own",
    }
    burial = dead_letter.encode(
        stream="ingest",
        group="worker",
        entry=f"{number}-0",
        reason="failed",
        error="KeyError: 'x'",
        attempts=5,
        time=1_795_341_600.0,
        fingerprint="ticket.created:failed:f:1234",
        traceback="Traceback",
    )
    own = [part for pair in {**letter, **fields}.items() for part in pair]
    added: bytes = raw.execute_command("XADD", "dlq", entry_id, *own, *burial)
    return added.decode()


async def newest(letters: DeadLetters, *, limit: int | None = None, replayed: bool = False) -> list[DeadLetter]:
    return [letter async for letter in letters.newest(limit=limit, replayed=replayed)]


async def found(letters: DeadLetters, letter: str) -> DeadLetter:
    there = await letters.get(letter)
    assert there is not None
    return there


async def test_a_dead_letter_tells_what_died_where_and_why(server: Server, raw: Raw) -> None:
    letter = bury(raw)
    async with queue(server) as letters:
        told = await found(letters, letter)

    assert (told.letter, told.event_id, told.type) == (letter, "ingest-1-0", "ticket.created")
    assert (told.stream, told.group, told.entry, told.reason, told.attempts) == ("ingest", "worker", "1-0", "failed", 5)
    assert (told.error, told.traceback, told.replayed) == ("KeyError: 'x'", "Traceback", None)
    assert told.event == {"type": "ticket.created", "data": '{"n": 1}', "mine": "x", "attempt": "the producer's own"}


async def test_a_letter_that_is_not_there_is_none(server: Server) -> None:
    async with queue(server) as letters:
        assert await letters.get("1-1") is None
        assert await newest(letters) == []


async def test_a_letter_that_somebody_wrote_by_hand_is_shown_all_the_same(server: Server, raw: Raw) -> None:
    letter = raw.xadd("dlq", {b"note": b"\xff", b"dlq.attempts": b"many"}).decode()
    async with queue(server) as letters:
        told = await found(letters, letter)

    assert (told.type, told.attempts) == ("", 0)


async def test_the_newest_come_first_over_any_number_of_pages(server: Server, raw: Raw) -> None:
    written = [bury(raw, number) for number in range(1, 1_102)]
    async with queue(server) as letters:
        assert [letter.letter for letter in await newest(letters)] == written[::-1]
        assert [letter.letter for letter in await newest(letters, limit=2)] == written[:-3:-1]


async def test_a_replay_gives_the_event_back_to_its_group_as_a_first_attempt(server: Server, raw: Raw) -> None:
    letter = bury(raw)
    async with queue(server) as letters:
        replayed = await letters.replay(await found(letters, letter))

    (entry,) = fields_of(raw, RETRY)
    traceparent = entry.pop("traceparent")
    assert replayed is not None
    assert replayed.trace_id in traceparent
    assert entry == {
        "type": "ticket.created",
        "data": '{"n": 1}',
        "mine": "x",
        "retry.entry": "1-0",
        "attempt": "1",  # ours, which come last; the producer's own field of that name is still before them
        "retry.crashes": "0",
        "retry.error": "",
    }


async def test_of_many_operators_at_once_one_replays(server: Server, raw: Raw) -> None:
    letter = bury(raw)
    async with queue(server) as letters:
        told = await found(letters, letter)
        answers = await asyncio.gather(*(letters.replay(told) for _ in range(20)))

    assert sum(answer is not None for answer in answers) == 1
    assert raw.xlen(RETRY) == 1


async def test_what_was_replayed_is_marked_and_listed_only_when_asked_for(server: Server, raw: Raw) -> None:
    first, second = bury(raw, 1), bury(raw, 2)
    async with queue(server) as letters:
        await letters.replay(await found(letters, first))

        assert [letter.letter for letter in await newest(letters)] == [second]
        assert [letter.letter for letter in await newest(letters, replayed=True)] == [second, first]
        assert (await found(letters, first)).replayed is not None


async def test_a_letter_that_was_purged_meanwhile_is_not_replayed(server: Server, raw: Raw) -> None:
    letter = bury(raw)
    async with queue(server) as letters:
        told = await found(letters, letter)
        await letters.purge([told])

        assert await letters.replay(told) is None
    assert not raw.exists(RETRY)


async def test_the_record_of_a_replayed_job_says_that_it_is_queued_again(server: Server, raw: Raw) -> None:
    letter = bury(raw, id="J-1")
    key, dead = "job:J-1", '{"state": "dead"}'
    raw.hset(key, mapping={"redis-cli": f"ingest-1-0 {dead}", "another": f"ingest-1-0 {dead}"})
    raw.expire(key, 1_000)
    async with queue(server) as letters:
        await letters.replay(await found(letters, letter))

    entry, _, record = raw.hget(key, "redis-cli").partition(b" ")
    assert entry == b"ingest-1-0"
    assert msgspec.json.decode(record) == {"state": "queued", "type": "ticket.created", "attempts": 0}
    assert raw.hget(key, "another").decode() == f"ingest-1-0 {dead}"
    assert 0 < raw.ttl(key) <= 1_000


async def test_a_replay_leaves_the_record_of_another_event_alone(server: Server, raw: Raw) -> None:
    letter = bury(raw, id="J-1")
    raw.hset("job:J-1", "redis-cli", 'ingest-7-0 {"state": "completed"}')
    async with queue(server) as letters:
        await letters.replay(await found(letters, letter))

    assert raw.hget("job:J-1", "redis-cli") == b'ingest-7-0 {"state": "completed"}'


async def test_what_is_no_job_gets_no_record(server: Server, raw: Raw) -> None:
    letter = bury(raw)
    async with queue(server) as letters:
        await letters.replay(await found(letters, letter))

    assert not raw.keys("state:*")


async def test_purging_takes_checkpoints_and_marks_along(server: Server, raw: Raw) -> None:
    letter, kept = bury(raw, 1), bury(raw, 2)
    raw.hset("checkpoint:worker:redis-cli:ingest-1-0", "step", "1")
    raw.hset("checkpoint:worker:redis-cli:ingest-2-0", "step", "1")
    async with queue(server) as letters:
        told = await found(letters, letter)
        await letters.replay(told)
        assert await letters.purge([told]) == 1
        assert await letters.purge([told]) == 0

    assert [entry_id.decode() for entry_id, _ in raw.xrange("dlq")] == [kept]
    assert not raw.exists("checkpoint:worker:redis-cli:ingest-1-0")
    assert raw.exists("checkpoint:worker:redis-cli:ingest-2-0")
    assert not raw.exists("dlq:replayed")


async def test_the_checkpoints_of_letters_live_as_long_as_those(server: Server, raw: Raw) -> None:
    now = round(time.time() * 1000)
    bury(raw, 1, entry_id=f"{now - 86_400_000}-1", source="shop:a", id="o-1")
    last = [bury(raw, number) for number in range(2, 103)][-1]
    keys = ["checkpoint:worker:shop%3Aa:o-1", "checkpoint:worker:redis-cli:ingest-102-0", "checkpoint:worker:other"]
    for key in keys:
        raw.hset(key, "step", "1")
        raw.expire(key, 60)
    async with queue(server) as letters:
        assert await letters.keep_checkpoints("0-0", days=30) == last
        assert await letters.keep_checkpoints(last, days=60) == last

    days = [round(raw.ttl(key) / 86_400, 2) for key in keys]
    assert days == [29, 30, 0]


async def test_purging_many_goes_in_pages(server: Server, raw: Raw) -> None:
    for number in range(1, 1_102):
        bury(raw, number)
    async with queue(server) as letters:
        assert await letters.purge(await newest(letters)) == 1_101

    assert raw.xlen("dlq") == 0


async def test_letters_are_kept_by_number_and_by_age_with_their_marks(server: Server, raw: Raw) -> None:
    now = round(time.time() * 1000)
    old = bury(raw, 1, entry_id=f"{now - 3 * 86_400_000}-1")
    surplus, kept, newer = (bury(raw, number) for number in (2, 3, 4))
    async with queue(server) as letters:
        for letter in (old, surplus, kept):
            await letters.replay(await found(letters, letter))

        assert await letters.trim(days=2, entries=100) == 1
        assert await letters.trim(days=2, entries=2) == 1
        assert await letters.trim(days=2, entries=2) == 0

    assert [entry_id.decode() for entry_id, _ in raw.xrange("dlq")] == [kept, newer]
    assert [mark.decode() for mark in raw.hkeys("dlq:replayed")] == [kept]


async def test_a_queue_that_is_emptied_by_age_keeps_no_mark(server: Server, raw: Raw) -> None:
    letter = bury(raw, 1, entry_id="5-1")
    async with queue(server) as letters:
        await letters.replay(await found(letters, letter))
        assert await letters.trim(days=1, entries=10) == 1

    assert not raw.exists("dlq:replayed")


async def test_letters_beyond_the_bounds_are_never_dropped_silently(server: Server, raw: Raw) -> None:
    for number in range(5):
        bury(raw, number)
    async with connected(server) as client:
        retention = DeadLetterRetention(client, Keys(), days=30, entries=3, events="events")
        await retention.tick()
        raw.delete("lock:retention:dlq")
        await retention.tick()
    assert raw.xlen("dlq") == 3
    [(_, told)] = raw.xrange("events")
    assert (told[b"type"], told[b"data"]) == (b"dlq.dropped", b'{"count":2}')
