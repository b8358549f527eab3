"""What handlers say of their progress: where it is seen, how often it is written, and whom it harms (nobody)."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest

from penstock import Context, Penstock, Service, Snooze
from penstock.jobs.find import find_job
from penstock.jobs.record import Job
from penstock.keys import Keys
from penstock.topology import parse
from tests.hands import Raw, connected, fields_of
from tests.mesh import DEADLINE, eventually, running
from tests.servers import Server

MESH = """
streams: {orders: {kind: work}, events: {}, news: {}}
services:
  shop: {consumes: {orders: {retry: {attempts: 2, base: 0.01, jitter: 0}}}}
"""
READS_FACTS = MESH.replace("jitter: 0}}", "jitter: 0}}, news: {}")


class Shop:
    """A service whose handler says what the test has it say, and ends when the test says so."""

    def __init__(self) -> None:
        self.service = Service("shop")
        self.say: asyncio.Queue[tuple[float, str] | BaseException | None] = asyncio.Queue()

        @self.service.on("orders")
        async def place(_: Any, ctx: Context) -> None:
            while (said := await self.say.get()) is not None:
                if isinstance(said, BaseException):
                    raise said
                ctx.progress(*said)


def shares(raw: Raw) -> list[str]:
    return [entry["share"] for entry in fields_of(raw, "progress")]


async def find(server: Server, job_id: str = "J-1", tenant: str | None = None) -> Job | None:
    async with connected(server) as client:
        return await find_job(client, Keys(), parse(MESH), job_id, tenant=tenant)


async def test_a_running_job_shows_what_its_handler_said_last_until_it_is_over(server: Server, raw: Raw) -> None:
    shop = Shop()
    raw.xadd("orders", {"type": "t", "id": "J-1", "tenant": "acme", "subject": "o-1"})
    async with running(shop.service, MESH, server):
        for said in ((0.4, "parsing"), (0.5, "")):
            shop.say.put_nowait(said)
            await eventually(shop.say.empty, what="it is said")
        await eventually(lambda: shares(raw)[-1:] == ["0.5"], what="it is written")
        found = await find(server, tenant="acme")
        elsewhere = await find(server, tenant="other")
        shop.say.put_nowait(None)
        await eventually(lambda: raw.xlen("events") == 1, what="it is done")
        over = await find(server)

    assert found == Job(state="running", type="t", attempts=1, tenant="acme", progress=0.5)
    assert elsewhere is None
    assert over is not None
    assert (over.state, over.progress, over.note) == ("completed", None, None)
    last = fields_of(raw, "progress")[-1]
    assert last == {
        "job": "J-1",
        "source": "redis-cli",
        "type": "t",
        "attempt": "1",
        "share": "0.5",
        "note": "",
        "subject": "o-1",
        "tenant": "acme",
    }
    assert 0 < raw.ttl("progress:J-1") <= 86_400


async def test_it_is_written_four_times_a_second_at_most_and_the_last_word_before_what_became_of_the_job(
    server: Server, raw: Raw
) -> None:
    service = Service("shop")
    begun = ended = 0.0

    @service.on("orders", type="async")
    async def talk(_: Any, ctx: Context) -> None:
        nonlocal begun, ended
        begun = time.monotonic()
        for count in range(300):
            ctx.progress(count / 300)
            await asyncio.sleep(0.005)
        ctx.progress(1, "all of it")
        ended = time.monotonic()

    @service.on("orders", type="plain")
    def talk_in_a_thread(_: Any, ctx: Context) -> None:
        for count in range(10_000):
            ctx.progress(count / 10_000)
        ctx.progress(1, "from a thread")

    raw.xadd("orders", {"type": "async", "id": "J-1"})
    raw.xadd("orders", {"type": "plain", "id": "J-2"})
    async with running(service, MESH, server):
        await eventually(lambda: raw.xlen("events") == 2, what="both are done")

    written: dict[str, list[tuple[bytes, str]]] = {"J-1": [], "J-2": []}
    for entry_id, fields in raw.xrange("progress"):
        written[fields[b"job"].decode()].append((entry_id, fields[b"note"].decode()))
    ends = {fields[b"data"].decode()[11:14]: entry_id for entry_id, fields in raw.xrange("events")}
    assert {job: told[-1][1] for job, told in written.items()} == {"J-1": "all of it", "J-2": "from a thread"}
    assert all(told[-1][0] <= ends[job] for job, told in written.items())
    assert 3 <= len(written["J-1"]) <= 2 + 3 * (ended - begun) + 1
    for early, late in itertools.pairwise([int(entry.split(b"-")[0]) for entry, _ in written["J-1"][:-1]]):
        assert late - early > 200


async def test_what_an_earlier_attempt_said_is_not_taken_for_the_next_ones(server: Server, raw: Raw) -> None:
    shop = Shop()
    raw.xadd("orders", {"type": "t", "id": "J-1"})
    async with running(shop.service, MESH, server):
        shop.say.put_nowait((0.4, "first"))
        shop.say.put_nowait(Snooze(0.4))
        await eventually(lambda: raw.xlen("events") == 1, what="it waits")
        waits = await find(server)
        shop.say.put_nowait((0.1, "again"))
        await eventually(lambda: fields_of(raw, "progress")[-1]["note"] == "again", what="it runs again")
        runs = await find(server)
        shop.say.put_nowait(ConnectionError("gone"))
        await eventually(lambda: raw.xlen("events") == 2, what="it failed")
        shop.say.put_nowait((0.2, "third"))
        await eventually(lambda: fields_of(raw, "progress")[-1]["note"] == "third", what="it runs once more")
        once_more = await find(server)
        shop.say.put_nowait(None)

    assert waits is not None
    assert (waits.state, waits.progress) == ("retrying", None)
    assert runs is not None
    assert (runs.state, runs.attempts, runs.progress, runs.note) == ("running", 1, 0.1, "again")
    assert once_more is not None
    assert (once_more.state, once_more.attempts, once_more.note) == ("running", 2, "third")


async def test_a_watch_sees_what_is_said_between_states(server: Server, raw: Raw) -> None:
    shop = Shop()
    async with running(shop.service, MESH, server), Penstock.connect(server.url, topology=parse(MESH)) as mesh:
        job = await mesh.submit("t", tenant="acme")
        seen: list[Job] = []
        script: list[Any] = [(0.1, "parsing"), (0.5, "half"), Snooze(0.3), (0.2, "again"), None]
        async with asyncio.timeout(DEADLINE):
            async for change in job.watch():
                seen.append(change)
                if script:
                    shop.say.put_nowait(script.pop(0))

    told = [(change.state, change.progress, change.note) for change in seen if change.attempts]
    assert [one for one in told if one[1] is not None or one[0] != "running"] == [
        ("running", 0.1, "parsing"),
        ("running", 0.5, "half"),
        ("retrying", None, None),
        ("running", 0.2, "again"),
        ("completed", None, None),
    ]


async def test_nothing_is_written_of_facts_or_by_those_who_say_nothing(server: Server, raw: Raw) -> None:
    shop = Shop()

    @shop.service.on("news")
    async def read(_: Any, ctx: Context) -> None:
        ctx.progress(0.5)

    async with running(shop.service, READS_FACTS, server):
        raw.xadd("news", {"type": "t", "id": "N-1"})
        raw.xadd("orders", {"type": "t", "id": "J-1"})
        shop.say.put_nowait(None)
        await eventually(lambda: raw.xlen("events") == 1, what="the job is done")
        await eventually(lambda: raw.xpending("news", "shop")["pending"] == 0, what="the fact is read")

    assert raw.keys("progress*") == []


@pytest.mark.parametrize("stands_in_the_way", ["progress", "progress:J-1"])
async def test_what_cannot_be_written_costs_no_job(stands_in_the_way: str, server: Server, raw: Raw) -> None:
    raw.set(stands_in_the_way, "of somebody else")
    service = Service("shop")

    @service.on("orders")
    async def place(_: Any, ctx: Context) -> str:
        ctx.progress(0.5)
        return "placed"

    raw.xadd("orders", {"type": "t", "id": "J-1"})
    async with running(service, MESH, server):
        await eventually(lambda: raw.xlen("events") == 1, what="it is done")

    raw.delete("progress:J-1")
    done = await find(server)
    assert done is not None
    assert (done.state, done.result) == ("completed", "placed")


async def test_while_redis_is_away_a_handler_goes_on_and_its_end_is_settled_afterwards(own_server: Server) -> None:
    shop = Shop()
    with own_server.client() as raw:
        raw.xadd("orders", {"type": "t", "id": "J-1"})
    async with running(shop.service, MESH, own_server):
        shop.say.put_nowait((0.1, "begun"))
        with own_server.client() as raw:
            await eventually(lambda: raw.xlen("progress") == 1, what="it is written")
        own_server.kill()
        shop.say.put_nowait((0.5, "lost"))
        shop.say.put_nowait(None)
        await eventually(shop.say.empty, what="the handler has ended")
        own_server.start()
        with own_server.client() as raw:
            await eventually(lambda: raw.xlen("events") == 1, what="it is settled")
    done = await find(own_server)
    assert done is not None
    assert done.state == "completed"
