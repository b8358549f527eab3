"""What is kept for one who follows: no more than is bounded, nothing twice, and never half of it in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from penstock.keys import Keys
from penstock.live.connection import Follower, Message
from penstock.live.live import Live
from penstock.live.topic import Filter
from penstock.topology import parse
from tests.hands import Raw, connected
from tests.mesh import eventually
from tests.servers import Server

MESH = parse("streams: {ingest: {}, orders: {kind: work, reports: news}, events: {}, news: {}}")
EVERYTHING = Filter(any_tenant=True)


@asynccontextmanager
async def live(server: Server, topology: str = "") -> AsyncIterator[Live]:
    async with connected(server) as client:
        yield Live(client, Keys(), parse(topology) if topology else MESH, stopping=asyncio.Event())


@asynccontextmanager
async def following(one: Live, follower: Follower) -> AsyncIterator[None]:
    async with one.open(follower.connection):
        one.follow(follower)
        yield


def types(messages: list[Message]) -> list[str]:
    return [message.data.partition(b'"type":"')[2].partition(b'"')[0].decode() for message in messages]


async def taken(follower: Follower) -> list[Message]:
    while not (messages := follower.take()):
        await follower.connection.wait()
    return messages


async def test_who_comes_from_a_reader_that_was_further_is_not_told_twice(server: Server, raw: Raw) -> None:
    async with live(server) as one:
        ahead, follower = Follower(EVERYTHING), Follower(EVERYTHING)
        async with following(one, ahead):
            raw.xadd("events", {"type": "first"})
            (first,) = await taken(ahead)
    async with live(server) as other:
        raw.delete("events")
        async with following(other, follower):
            raw.xadd("events", {"type": "first"}, id=(first.position or "").split(".")[1])  # and it is yet to be read
            assert await other.resume(follower, first.position or "") == []
            assert not follower.is_level
            raw.xadd("events", {"type": "second"})
            assert types(await taken(follower)) == ["second"]
            assert follower.is_level


async def test_all_streams_that_report_are_told_and_gone_through_by_whoever_comes_back(
    server: Server, raw: Raw
) -> None:
    async with live(server) as one:
        follower = Follower(EVERYTHING)
        async with following(one, follower):
            before = one.position
        for stream in ("events", "news", "events", "orders", "news"):
            raw.xadd(stream, {"type": stream}, id="*")
        again = Follower(EVERYTHING)
        async with following(one, again):
            missed = await one.resume(again, before)
            assert missed is not None
            half = missed[1].position or ""
        rest = Follower(EVERYTHING)
        async with following(one, rest):
            others = await one.resume(rest, half)
    async with live(server, "streams: {ingest: {}, events: {}}") as elsewhere:
        stranger = Follower(EVERYTHING)
        async with following(elsewhere, stranger):
            unknown = await elsewhere.resume(stranger, before)

    assert sorted(types(missed)) == ["events", "events", "news", "news"]
    assert [(one.position, one.data) for one in others or ()] == [(one.position, one.data) for one in missed[2:]]
    assert unknown is None  # it is of another mesh


async def test_of_progress_the_last_is_kept_and_none_behind_its_end(server: Server, raw: Raw) -> None:
    async with live(server) as one:
        follower = Follower(EVERYTHING)
        async with following(one, follower):
            for job in ("J-1", "J-2"):
                for share in ("0.1", "0.2"):
                    raw.xadd("progress", {"job": job, "source": "s", "attempt": "1", "share": share})
            raw.xadd("progress", {"job": "J-3", "of": "somebody else"})
            raw.xadd("events", {"type": "job.completed", "cause": "J-2"})
            await one.catch_up()
            told = follower.take()

    assert types(told[:1]) == ["job.completed"]
    assert [message.data for message in told[1:]] == [b'{"job_id":"J-1","attempt":1,"progress":0.2}']


async def test_one_that_falls_behind_holds_a_bounded_number_and_knows_that_it_missed_some(
    server: Server, raw: Raw
) -> None:
    async with live(server) as one:
        slow, quick = Follower(EVERYTHING), Follower(EVERYTHING)
        async with following(one, slow), following(one, quick):
            seen = 0
            for _ in range(3):
                for _ in range(200):
                    raw.xadd("events", {"type": "t"})
                await one.catch_up()
                seen += len(quick.take())
            assert slow.missed
            assert slow.take() == []
            slow.begin_anew()
            raw.xadd("events", {"type": "last"})
            assert types(await taken(slow)) == ["last"]

    assert seen == 600


async def test_what_waits_is_bounded_in_bytes_too_but_for_one_that_is_larger(server: Server, raw: Raw) -> None:
    async with live(server) as one:
        slow = Follower(EVERYTHING)
        async with following(one, slow):
            large = {"type": "t", "data": '"' + "x" * 4_100_000 + '"'}
            raw.xadd("events", large)
            await one.catch_up()
            assert types(slow.take()) == ["t"]
            before = one.position
            for _ in range(2):
                raw.xadd("events", large)
            await one.catch_up()
            assert slow.missed
            for _ in range(3):
                raw.xadd("events", large)
            await one.catch_up()
            assert await one.resume(Follower(EVERYTHING), before) is None


async def test_job_events_of_another_source_or_kind_are_not_the_jobs(server: Server, raw: Raw) -> None:
    async with live(server) as one:
        follower = Follower(Filter(job="J-1", source="shop-a"))
        async with following(one, follower):
            for source in ("shop-b", "shop-a"):
                raw.xadd("events", {"type": "job.failed", "cause": "J-1", "causesource": source, "subject": source})
            raw.xadd("events", {"type": "mail.sent", "cause": "J-1", "causesource": "shop-a"})
            raw.xadd("events", {"data": "of no type"})
            await one.catch_up()
            told = follower.take()

    assert [b'"subject":"shop-a"' in message.data for message in told] == [True]


async def test_followers_end_when_the_reader_does(server: Server, raw: Raw) -> None:
    async with live(server) as one:
        follower = Follower(EVERYTHING)
        async with following(one, follower):
            raw.set("progress", "a string, which cannot be read as a stream")
            await eventually(lambda: follower.connection.closed, what="it is told that nothing more comes")


async def test_who_waits_for_its_turn_to_come_back_does_not_fall_behind_meanwhile(server: Server, raw: Raw) -> None:
    async with live(server) as one:
        turn = one._looking
        while not turn.locked():  # others are looking
            await turn.acquire()
        follower = Follower(EVERYTHING)
        async with one.open(follower.connection):
            coming = asyncio.create_task(one.resume(follower, one.position))
            await asyncio.sleep(0)  # it waits
            for _ in range(300):
                raw.xadd("events", {"type": "t"})
            await one.catch_up()
            turn.release()
            missed = await coming
            raw.xadd("events", {"type": "last"})
            rest = await taken(follower)

    assert types(missed or []) == ["t"] * 300
    assert types(rest) == ["last"]
