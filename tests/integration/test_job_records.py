"""The record of a job: of one event for good, its result kept as JSON and bounded."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import Context, Event, Service
from penstock.jobs.find import find_job
from penstock.jobs.record import Job
from penstock.keys import Keys
from penstock.settings import Settings
from penstock.topology import parse
from tests.hands import Raw, connected, fields_of
from tests.mesh import eventually, running
from tests.servers import Server

MESH = """
streams: {ingest: {}, events: {}}
services:
  worker: {consumes: {ingest: {}}, publishes: [events]}
"""
TOPOLOGY = parse(MESH)
OWN = """
streams: {orders: {kind: work, reports: news}, news: {}, ingest: {}}
services:
  shop: {consumes: {orders: {retry: {attempts: 2, base: 0.01}}}}
  audit: {consumes: {orders: {unhandled: skip}}}
"""


async def become_of(result: Any, server: Server, raw: Raw) -> Job:
    """Return what becomes of a job whose handler returns `result`."""
    service = Service("worker")

    @service.on("ingest")
    async def handle(data: Any) -> Any:
        return result

    raw.xadd("ingest", {"type": "t", "id": "J-1"})
    async with running(service, MESH, server):
        await eventually(lambda: fields_of(raw, "events"), what="the job is told of")
    async with connected(server) as client:
        found = await find_job(client, Keys(), TOPOLOGY, "J-1")
    assert found is not None
    return found


@pytest.mark.parametrize("result", [None, {"a": [1, None]}, "x" * 999_998])
async def test_what_json_can_hold_is_kept(result: Any, server: Server, raw: Raw) -> None:
    job = await become_of(result, server, raw)

    assert (job.state, job.result) == ("completed", result)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (object(), "the job's result: data cannot be written as JSON: Encoding objects of type object"),
        ({"a": [float("nan")]}, "the job's result: data cannot be written as JSON: it holds nan"),
        ((1.0, {"b": float("-inf")}), "it holds -inf, which JSON has no form for"),
        ("x" * 999_999, "1,000,001 characters of JSON, and at most 1,000,000 are kept: put it where larger things"),
    ],
)
async def test_what_cannot_be_kept_is_an_error_of_the_job(result: Any, why: str, server: Server, raw: Raw) -> None:
    job = await become_of(result, server, raw)

    assert (job.state, job.reason) == ("dead", "invalid")
    assert why in (job.error or "")
    assert why in fields_of(raw, "dlq")[0]["dlq.error"]


async def test_events_of_one_id_and_two_sources_have_records_of_their_own(server: Server, raw: Raw) -> None:
    service = Service("worker")

    @service.on("ingest")
    async def handle(event: Event) -> str:
        return event.source

    for source in ("shop-a", "shop-b"):
        raw.xadd("ingest", {"type": "t", "id": "o-1", "source": source})
    async with running(service, MESH, server):
        await eventually(lambda: raw.xlen("events") == 2, what="both are told of")
    async with connected(server) as client:
        jobs = [await find_job(client, Keys(), TOPOLOGY, "o-1", source=source) for source in ("shop-a", "shop-b")]

    assert [job and job.result for job in jobs] == ["shop-a", "shop-b"]
    assert 0 < raw.ttl("job:o-1") <= Settings().job_ttl


async def test_another_event_under_the_same_source_and_id_does_not_overwrite_the_record(
    server: Server, raw: Raw
) -> None:
    service = Service("worker")

    @service.on("ingest")
    async def handle(data: str, ctx: Context) -> str:
        if ctx.attempt == 1:
            raise ConnectionError("not yet")
        return data

    async with running(service, MESH.replace("{ingest: {}}", "{ingest: {retry: {base: 0.01}}}"), server):
        raw.xadd("ingest", {"type": "t", "id": "J-1", "data": '"first"'})
        await eventually(lambda: raw.xlen("events") == 2, what="both attempts are told of")
        raw.xadd("ingest", {"type": "t", "id": "J-1", "data": '"second"'})
        await eventually(lambda: raw.xlen("events") == 4, what="those of the other are, too")
    async with connected(server) as client:
        job = await find_job(client, Keys(), TOPOLOGY, "J-1")

    assert job is not None
    assert (job.state, job.attempts, job.result) == ("completed", 2, "first")


async def test_a_service_of_ones_own_has_jobs_as_the_worker_has(server: Server, raw: Raw) -> None:
    shop = Service("shop")

    @shop.on("orders", type="order.placed")
    async def place(order: dict[str, int], ctx: Context) -> dict[str, int]:
        if order["price"] < 0:
            raise ValueError("no such price")
        return {"paid": order["price"]}

    for number, price in enumerate((7, -1)):
        raw.xadd("orders", {"type": "order.placed", "id": f"o-{number}", "data": f'{{"price": {price}}}'})
    raw.xadd("orders", {"type": "order.lost", "id": "o-2"})
    async with running(shop, OWN, server):
        await eventually(lambda: raw.xlen("dlq") == 2, what="what cannot be done is dead")
        await eventually(lambda: raw.xlen("news") == 4, what="every end is told")
    told = sorted((event["type"], event["source"]) for event in fields_of(raw, "news"))
    async with connected(server) as client:
        jobs = [await find_job(client, Keys(), parse(OWN), f"o-{number}") for number in range(3)]

    assert told == [("job.completed", "shop"), ("job.dead", "shop"), ("job.dead", "shop"), ("job.failed", "shop")]
    assert [job and (job.state, job.result, job.reason, job.attempts) for job in jobs] == [
        ("completed", {"paid": 7}, None, 1),
        ("dead", None, "failed", 2),
        ("dead", None, "unhandled", 1),
    ]


async def test_each_event_of_a_batch_is_a_job(server: Server, raw: Raw) -> None:
    shop = Service("shop")

    @shop.on("orders", batch=10)
    async def place(orders: list[dict[str, int]]) -> None:
        if any(order["price"] < 0 for order in orders):
            raise ValueError("no such price")

    for number, price in enumerate(("7", "-1", '"much"', "8")):
        raw.xadd("orders", {"type": "order.placed", "id": f"o-{number}", "data": f'{{"price": {price}}}'})
    async with running(shop, OWN, server):
        await eventually(lambda: raw.xlen("news") == 5, what="every end is told")
    async with connected(server) as client:
        jobs = [await find_job(client, Keys(), parse(OWN), f"o-{number}") for number in range(4)]

    assert [job and (job.state, job.reason, job.attempts) for job in jobs] == [
        ("completed", None, 1),
        ("dead", "failed", 2),
        ("dead", "invalid", 1),
        ("completed", None, 1),
    ]
    assert all(job and job.duration is not None and job.queue_wait is not None for job in jobs)


async def test_who_reads_along_tells_nothing_of_jobs(server: Server, raw: Raw) -> None:
    audit, seen = Service("audit"), []

    @audit.on("orders", type="order.placed")
    async def note(event: Event) -> str:
        seen.append(event.id)
        return "noted"

    for event_type in ("order.lost", "order.placed"):
        raw.xadd("orders", {"type": event_type, "id": event_type})
    async with running(audit, OWN, server):
        await eventually(lambda: raw.xpending("orders", "audit")["pending"] == 0 and seen, what="both are settled")

    assert (seen, raw.exists("job:order.placed", "news", "dlq")) == (["order.placed"], 0)
