"""The record of a job: of one event for good, its result kept as JSON and bounded."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from penstock import Context, Event, Service
from penstock.keys import Keys
from penstock.mesh.jobs import Job, find_job
from penstock_services.worker import report
from tests.hands import Raw, connected, fields_of
from tests.mesh import eventually, running
from tests.servers import Server

MESH = """
streams: {ingest: {}, events: {}}
services:
  worker: {consumes: {ingest: {}}, publishes: [events]}
"""


def reporting() -> Service:
    """Return a service that keeps records as the worker does."""
    service = Service("worker")
    service.on_result(report.check_result)
    service.on_outcome(functools.partial(report.outcome, ttl=100))
    return service


async def become_of(result: Any, server: Server, raw: Raw) -> Job:
    """Return what becomes of a job whose handler returns `result`."""
    service = reporting()

    @service.on("ingest")
    async def handle(data: Any) -> Any:
        return result

    raw.xadd("ingest", {"type": "t", "id": "J-1"})
    async with running(service, MESH, server):
        await eventually(lambda: fields_of(raw, "events"), what="the job is told of")
    async with connected(server) as client:
        found = await find_job(client, Keys(), "J-1")
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
    service = reporting()

    @service.on("ingest")
    async def handle(event: Event) -> str:
        return event.source

    for source in ("shop-a", "shop-b"):
        raw.xadd("ingest", {"type": "t", "id": "o-1", "source": source})
    async with running(service, MESH, server):
        await eventually(lambda: raw.xlen("events") == 2, what="both are told of")
    async with connected(server) as client:
        jobs = [await find_job(client, Keys(), "o-1", source=source) for source in ("shop-a", "shop-b")]

    assert [job and job.result for job in jobs] == ["shop-a", "shop-b"]
    assert 0 < raw.ttl("state:worker:job:o-1") <= 100


async def test_another_event_under_the_same_source_and_id_does_not_overwrite_the_record(
    server: Server, raw: Raw
) -> None:
    service = reporting()

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
        job = await find_job(client, Keys(), "J-1")

    assert job is not None
    assert (job.state, job.attempts, job.result) == ("completed", 2, "first")
