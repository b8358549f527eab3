"""The client: any program hands jobs to a mesh, and learns what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from penstock import (
    ConfigurationError,
    Context,
    InvalidEvent,
    JobDead,
    NewJob,
    NoRecord,
    Penstock,
    Reject,
    Service,
    Unavailable,
)
from penstock.errors import AmbiguousEvent
from penstock.jobs.record import Job
from penstock.settings import Settings
from penstock.streams.publish import DuplicateConflict
from penstock.topology import parse
from tests.hands import Raw, fields_of
from tests.mesh import DEADLINE, eventually, running
from tests.servers import Server

MESH = """
streams: {orders: {kind: work}, events: {}, news: {}}
services:
  shop: {consumes: {orders: {retry: {attempts: 2, base: 0.01, jitter: 0}}}, publishes: [news]}
"""


class Receipt(msgspec.Struct):
    paid: int


@asynccontextmanager
async def client(server: Server, **options: Any) -> AsyncIterator[Penstock]:
    async with Penstock.connect(server.url, topology=parse(MESH), source="web", **options) as mesh:
        yield mesh


def shop() -> Service:
    """Return a service for each end that a job may have."""
    service = Service("shop")

    @service.on("orders", type="order.placed")
    async def place(order: dict[str, int], ctx: Context) -> dict[str, int]:
        if ctx.attempt <= order.get("failures", 0):
            raise ConnectionError("the bank is away")
        return {"paid": order["price"]}

    @service.on("orders", type="order.refused")
    async def refuse(_: Any) -> None:
        raise Reject("not with us")

    return service


@pytest.mark.parametrize("data", [b'{"job_id":"\xff"}', b'{"job_id":"1","x":' + b"[" * 5_000, b"{"])
async def test_what_somebody_else_says_of_jobs_ends_no_waiting(server: Server, raw: Raw, data: bytes) -> None:
    async with client(server) as mesh:
        async with running(shop(), MESH, server):
            assert await (await mesh.submit("order.placed", {"price": 6})).result(DEADLINE) == {"paid": 6}
        job = await mesh.submit("order.placed", {"price": 7})  # what is told of jobs is followed by now
        raw.xadd("events", {"type": "job.completed", "data": data})
        async with running(shop(), MESH, server):
            assert await job.result(DEADLINE) == {"paid": 7}


async def test_a_job_is_submitted_and_its_result_awaited(server: Server, raw: Raw) -> None:
    async with running(shop(), MESH, server), client(server) as mesh:
        job = await mesh.submit("order.placed", {"price": 7}, subject="o-1", tenant="acme", extra={"shop": "north"})
        receipt = await job.result(DEADLINE, type=Receipt)
        again = await mesh.job(job.id).result(DEADLINE)
        status = await job.status()

    assert (receipt, again) == (Receipt(7), {"paid": 7})
    assert (status.state, status.attempts, status.tenant) == ("completed", 1, "acme")
    (entry,) = fields_of(raw, "orders")
    told = {name: entry[name] for name in ("type", "data", "id", "source", "subject", "tenant", "shop")}
    assert told == {
        "type": "order.placed",
        "data": '{"price":7}',
        "id": job.id,
        "source": "web",
        "subject": "o-1",
        "tenant": "acme",
        "shop": "north",
    }


async def test_a_result_that_was_there_before_it_was_asked_for_is_there_again(server: Server, raw: Raw) -> None:
    async with running(shop(), MESH, server), client(server) as mesh:
        job = await mesh.submit("order.placed", {"price": 7})
        await eventually(lambda: raw.xlen("events") == 1, what="it is done, and nobody has listened")
        assert [await job.result(DEADLINE) for _ in range(2)] == [{"paid": 7}] * 2


async def test_a_dead_job_raises_why_and_where_its_letter_is(server: Server, raw: Raw) -> None:
    async with running(shop(), MESH, server), client(server) as mesh:
        refused = await mesh.submit("order.refused")
        failing = await mesh.submit("order.placed", {"price": 7, "failures": 9})
        unknown = await mesh.submit("order.unheard.of")
        ends = await asyncio.gather(
            *(job.result(DEADLINE) for job in (refused, failing, unknown)), return_exceptions=True
        )

    letters = {fields[b"id"].decode(): entry.decode() for entry, fields in raw.xrange("dlq")}
    assert [(end.job_id, end.reason, end.letter) for end in ends if isinstance(end, JobDead)] == [
        (refused.id, "rejected", letters[refused.id]),
        (failing.id, "failed", letters[failing.id]),
        (unknown.id, "unhandled", letters[unknown.id]),
    ]
    assert str(ends[0]) == f"job {refused.id} is dead: rejected: not with us"


async def test_of_jobs_of_two_sources_under_one_id_each_has_its_own_end(server: Server, raw: Raw) -> None:
    async with client(server) as mesh:
        async with running(shop(), MESH, server):
            raw.xadd("orders", {"type": "order.placed", "data": '{"price": 0}', "id": "o-0"})
            await mesh.job("o-0").result(DEADLINE)  # from here on it is told what ends
        handles = {source: mesh.job("o-1", source=source) for source in ("shop-a", "shop-b", "shop-c", "shop-d")}
        watches = [await handle.watched() for handle in handles.values()]
        ends = {source: asyncio.create_task(handle.result(DEADLINE)) for source, handle in handles.items()}
        for at, source in enumerate(handles):
            kind = "order.placed" if at < 2 else "order.refused"
            raw.xadd("orders", {"type": kind, "data": f'{{"price": {at}}}', "id": "o-1", "source": source})
        async with running(shop(), MESH, server):
            await asyncio.wait(ends.values())
        with pytest.raises(AmbiguousEvent, match="4 sources have an event o-1"):
            await mesh.job("o-1").status()

    assert len(set(watches)) == 1
    assert [ends[source].result() for source in ("shop-a", "shop-b")] == [{"paid": 0}, {"paid": 1}]
    letters = {fields[b"source"].decode(): entry.decode() for entry, fields in raw.xrange("dlq")}
    for source in ("shop-c", "shop-d"):
        error = ends[source].exception()
        assert isinstance(error, JobDead)
        assert error.letter == letters[source]


async def test_a_job_is_watched_from_what_is_known_to_its_end(server: Server) -> None:
    async with client(server) as mesh:
        job = await mesh.submit("order.placed", {"price": 7, "failures": 1})
        changes: list[Job] = []
        async with asyncio.timeout(DEADLINE):
            async for change in job.watch():
                changes.append(change)
                if len(changes) == 1:  # nobody has seen it yet
                    service = asyncio.create_task(run_until_done(server, job.id))
        await service

    assert [(change.state, change.attempts) for change in changes] == [("queued", 0), ("retrying", 1), ("completed", 2)]
    assert changes[1].error == "ConnectionError: the bank is away"
    assert changes[2].result == {"paid": 7}


async def run_until_done(server: Server, job_id: str) -> None:
    async with running(shop(), MESH, server), client(server) as mesh:
        await mesh.job(job_id).result(DEADLINE)


async def test_ten_thousand_results_are_awaited_at_once(server: Server) -> None:
    async with running(shop(), MESH, server), client(server) as mesh:
        jobs = await mesh.submit_all(NewJob("order.placed", {"price": n}) for n in range(10_000))
        results = await asyncio.gather(*(job.result(60) for job in jobs))

    assert [result["paid"] for result in results] == list(range(10_000))


async def test_a_result_that_takes_too_long_is_not_waited_for(server: Server) -> None:
    async with client(server) as mesh:
        job = await mesh.submit("order.placed", {"price": 7})
        with pytest.raises(TimeoutError, match=rf"job {job.id} has not ended within 0.05 s; it goes on"):
            await job.result(0.05)
        async with running(shop(), MESH, server):
            assert await job.result(DEADLINE) == {"paid": 7}
            with pytest.raises(InvalidEvent, match=r"does not fit .*list"):
                await job.result(DEADLINE, type=list[int])


async def test_an_idempotency_key_submits_once_and_every_caller_gets_the_result(server: Server, raw: Raw) -> None:
    async with running(shop(), MESH, server), client(server) as mesh, client(server) as other:
        first = await mesh.submit("order.placed", {"price": 7}, idempotency_key="k")
        await first.result(DEADLINE)
        second = await other.submit("order.placed", {"price": 7}, idempotency_key="k")
        third = await mesh.submit("order.placed", {"price": 7}, idempotency_key="k")
        assert [await job.result(DEADLINE) for job in (second, third)] == [{"paid": 7}] * 2
        with pytest.raises(DuplicateConflict):
            await mesh.submit("order.placed", {"price": 8}, idempotency_key="k")
        assert await mesh.submit("order.placed", {"price": 8}, idempotency_key="l") != first

    assert (first.duplicate, second.duplicate, third.duplicate) == (False, True, True)
    assert first.id == second.id == third.id
    assert raw.xlen("orders") == 2


@pytest.mark.parametrize(
    ("due", "least"),
    [({"delay": 0.4}, 0.4), ({"at": 0.4}, 0.4), ({"at": "2020-01-01T00:00:00Z"}, 0.0)],
    ids=["delay", "at", "past"],
)
async def test_a_job_may_be_due_later(server: Server, due: dict[str, Any], least: float) -> None:
    if isinstance(due.get("at"), float):
        due = {"at": datetime.now(UTC) + timedelta(seconds=due["at"])}
    async with running(shop(), MESH, server), client(server) as mesh:
        begun = time.monotonic()
        job = await mesh.submit("order.placed", {"price": 7}, **due)
        assert (await job.status()).state in ("queued", "running", "completed")
        assert await job.result(DEADLINE) == {"paid": 7}

    assert time.monotonic() - begun >= least - 0.05  # the clocks of two processes


async def test_facts_are_published_to_any_stream(server: Server, raw: Raw) -> None:
    async with client(server) as mesh:
        made = await mesh.publish("news", "order.seen", {"a": 1})
        own = await mesh.publish("news", "order.seen", {"a": 1}, event_id="n-1")

    assert (own, [entry["id"] for entry in fields_of(raw, "news")]) == ("n-1", [made, "n-1"])


@pytest.mark.parametrize(
    ("how", "error", "why"),
    [
        ({"stream": "news"}, ConfigurationError, "news carries facts, so nobody would do the job"),
        ({"stream": "ordres"}, ConfigurationError, r"no stream ordres \(it has orders, events, news, dlq\)"),
        ({"data": float("nan")}, InvalidEvent, "it holds nan"),
        ({"delay": -1.0}, InvalidEvent, "delay is 0 to"),
        ({"delay": timedelta(seconds=5)}, InvalidEvent, r"delay is 0 to 31,536,000 seconds, not datetime.timedelta"),
        ({"delay": "5"}, InvalidEvent, "delay is 0 to 31,536,000 seconds, not '5'"),
        ({"delay": 1.0, "at": "2030-01-01T00:00:00Z"}, InvalidEvent, "give one of them"),
        ({"at": "tomorrow"}, InvalidEvent, "at: 'tomorrow' is no time such as"),
        ({"at": datetime(2030, 1, 1)}, InvalidEvent, "is no time such as"),  # noqa: DTZ001 - without a zone
        ({"subject": "\ud800"}, InvalidEvent, "subject holds what UTF-8 cannot"),
        ({"type": ""}, InvalidEvent, "no type"),
    ],
)
async def test_what_is_senseless_is_refused_with_what_is_wrong(
    server: Server, raw: Raw, how: dict[str, Any], error: type[Exception], why: str
) -> None:
    async with client(server) as mesh:
        with pytest.raises(error, match=why):
            await mesh.submit(**{"type": "order.placed", **how})

    assert not raw.exists("orders", "news")


async def test_where_several_streams_carry_work_it_is_said_which(server: Server) -> None:
    two = parse(MESH.replace("news: {}", "news: {}, returns: {kind: work}"))
    async with Penstock.connect(server.url, topology=two) as mesh:
        with pytest.raises(ConfigurationError, match="say which stream: orders, returns carry work"):
            await mesh.submit("order.placed")


async def test_a_result_is_awaited_while_redis_is_away_and_back_again(own_server: Server) -> None:
    async with client(own_server) as mesh:
        job = await mesh.submit("order.placed", {"price": 7})
        waiting = asyncio.create_task(job.result(60))
        await eventually(lambda: job.is_watched, what="it is waited for")
        own_server.kill()
        with pytest.raises(Unavailable):
            await mesh.submit("order.placed", {"price": 8})
        own_server.restart()
        async with running(shop(), MESH, own_server):
            assert await waiting == {"paid": 7}


async def test_what_was_flushed_while_it_is_waited_for_is_looked_for_again(server: Server, raw: Raw) -> None:
    async with running(shop(), MESH, server), client(server) as mesh:
        assert await (await mesh.submit("order.placed", {"price": 6})).result(DEADLINE) == {"paid": 6}
        raw.flushall()
        job = await mesh.submit("order.placed", {"price": 7})
        assert await job.result(DEADLINE) == {"paid": 7}


async def test_a_result_is_awaited_where_nothing_is_told_of_jobs(server: Server) -> None:
    silent = MESH.replace(", events: {}", "")
    async with running(shop(), silent, server), Penstock.connect(server.url, topology=parse(silent)) as mesh:
        assert await (await mesh.submit("order.placed", {"price": 7})).result(DEADLINE) == {"paid": 7}


async def test_a_user_of_redis_who_may_not_look_does_not_wait_for_ever(server: Server, raw: Raw) -> None:
    raw.acl_setuser("blind", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-hgetall"])
    url = server.url.replace("unix://", "unix://blind:any@")
    try:
        async with Penstock.connect(url, topology=parse(MESH)) as mesh, asyncio.timeout(DEADLINE):
            job = await mesh.submit("order.placed", {"price": 7})
            with pytest.raises(Unavailable, match="user blind may not run hgetall"):
                await job.result()
    finally:
        raw.acl_deluser("blind")


async def test_a_client_goes_by_the_topology_of_the_running_services(
    server: Server, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENSTOCK_TOPOLOGY", raising=False)
    settings = Settings(redis_url=server.url)
    with pytest.raises(ConfigurationError, match=r"there is no streams\.yaml here, and no service has kept its own"):
        async with Penstock.connect(settings=settings):
            pass
    async with running(shop(), MESH, server), Penstock.connect(settings=settings) as mesh:
        assert await (await mesh.submit("order.placed", {"price": 7})).result(DEADLINE) == {"paid": 7}


async def test_what_a_handler_submits_is_of_its_trace(server: Server, raw: Raw) -> None:
    service = Service("shop")

    async with client(server) as mesh:

        @service.on("orders", type="outer")
        async def outer(_: Any, ctx: Context) -> str:
            await mesh.submit("inner")
            return ctx.trace.trace_id

        @service.on("orders", type="inner")
        async def inner(_: Any, ctx: Context) -> str:
            return ctx.trace.trace_id

        async with running(service, MESH, server):
            job = await mesh.submit("outer")
            trace_id = await job.result(DEADLINE)
            await eventually(lambda: raw.xlen("events") == 2, what="both are done")

    assert {entry["traceparent"].split("-")[1] for entry in fields_of(raw, "orders")} == {trace_id}


async def test_a_job_whose_record_has_expired_is_over_and_nobody_waits_for_it(server: Server, raw: Raw) -> None:
    async with running(shop(), MESH, server), client(server) as mesh, client(server) as other:
        job = await mesh.submit("order.placed", {"price": 7})
        await job.result(DEADLINE)
        raw.delete(f"job:{job.id}")
        later = other.job(job.id)
        with pytest.raises(NoRecord, match=f"job {job.id} is over, and there is no record of how"):
            await later.result(DEADLINE)
        seen = [change.state async for change in later.watch()]

    assert seen == ["settled"]


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), 366 * 86_400])
async def test_a_delay_that_makes_no_sense_is_refused_and_nothing_is_published(
    server: Server, raw: Raw, delay: float
) -> None:
    said = f"delay is 0 to 31,536,000 seconds, not {delay}"
    async with client(server) as mesh:
        with pytest.raises(InvalidEvent, match=said):
            await mesh.submit("order.placed", {"price": 7}, delay=delay)
        with pytest.raises(InvalidEvent, match=said):
            await mesh.publish("news", "seen", delay=delay)

    assert raw.keys("orders*") + raw.keys("news*") == []
