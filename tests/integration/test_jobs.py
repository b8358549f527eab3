"""What became of a job, from before anybody has seen it to its end."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from penstock import Event, Service
from penstock.dlq import dead_letter
from penstock.errors import AmbiguousEvent
from penstock.event import encode, encode_retry
from penstock.jobs import find as find_module
from penstock.jobs.find import find_job
from penstock.jobs.ids import timed_id
from penstock.jobs.record import Job
from penstock.keys import Keys
from penstock.streams.commit import RETRY, Entry
from penstock.streams.publish import Publisher
from penstock.topology import parse
from tests.hands import (
    DELAYED,
    FRESH,
    GROUP,
    RETRY_STREAM,
    STREAM,
    Raw,
    add,
    connected,
    hand,
    make_groups,
    take,
    taken,
    unit,
)
from tests.mesh import eventually, running, settled
from tests.servers import Server

TOPOLOGY = parse(
    """
streams: {ingest: {}, orders: {kind: work}, facts: {}}
services:
  worker: {consumes: {ingest: {}, facts: {}}}
  shop: {consumes: {orders: {}}}
"""
)


async def find(server: Server, job_id: str, keys: Keys | None = None) -> Job | None:
    async with connected(server) as client:
        return await find_job(client, keys or Keys(), TOPOLOGY, job_id)


async def test_a_job_nobody_has_read_is_queued_even_before_there_is_a_worker(server: Server, raw: Raw) -> None:
    (entry,) = add(raw, type="ticket.created")

    assert await find(server, f"ingest-{entry}") == Job(state="queued", type="ticket.created")
    make_groups(raw)
    assert await find(server, f"ingest-{entry}") == Job(state="queued", type="ticket.created")


async def test_a_job_in_hand_is_running(server: Server, raw: Raw) -> None:
    make_groups(raw)
    add(raw, id="J-1")
    (entry,) = take(raw)

    assert await find(server, "J-1") == Job(state="running", type="t")
    assert await find(server, f"ingest-{entry}") is None  # it has an id of its own


@pytest.mark.parametrize(
    "record",
    [
        Job(state="retrying", type="t", attempts=1, error="KeyError", next_attempt_at="2026-11-22T10:00:00.000Z"),
        Job(state="completed", type="t", attempts=2, result={"a": 1}, duration=0.5, queue_wait=0.1),
        Job(state="dead", type="t", attempts=5, reason="failed", error="KeyError"),
    ],
)
async def test_a_job_with_an_outcome_is_what_its_record_says(server: Server, raw: Raw, record: Job) -> None:
    make_groups(raw)
    add(raw, id="J-1")
    take(raw)
    raw.hset("job:J-1", "redis-cli", b"ingest-1-0 " + msgspec.json.encode(record))

    assert await find(server, "J-1") == record


def park(raw: Raw, entry: str, *, attempt: int) -> None:
    """Put a job where its group reads what it is to try again."""
    fields = ["type", "t", *encode_retry(entry, attempt=attempt, error="")]
    raw.xack(STREAM, GROUP, entry)
    raw.execute_command("XADD", RETRY_STREAM, "*", *fields)


async def test_a_job_that_is_settled_and_left_no_record_is_neither_queued_nor_running(server: Server, raw: Raw) -> None:
    make_groups(raw)
    add(raw, id="J-1")
    raw.xack(STREAM, GROUP, *take(raw))
    add(raw, id="J-2")

    assert await find(server, "J-1") == Job(state="settled", type="t")
    assert await find(server, "J-2") == Job(state="queued", type="t")


async def test_a_job_whose_record_has_expired_is_settled(server: Server, raw: Raw) -> None:
    service = Service("worker")

    @service.on("ingest")
    async def count(event: Event) -> int:
        return 5

    add(raw, id="J-1")
    async with running(service, "{streams: {ingest: {}}, services: {worker: {consumes: {ingest: {}}}}}", server):
        await eventually(lambda: settled(raw, STREAM, GROUP), what="it is counted")
        kept = await find(server, "J-1")
        assert raw.delete("job:J-1") == 1
        expired = await find(server, "J-1")

    assert kept is not None
    assert (kept.state, kept.result) == ("completed", 5)
    assert expired == Job(state="settled", type="t")


async def test_a_job_that_is_settled_while_it_is_looked_for_is_what_its_record_says(
    server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_groups(raw)
    (entry,) = taken(raw, 1, id="J-1")
    record = Job(state="completed", type="t", attempts=1, result=5)
    look = find_module._standing

    async def settle_first(*arguments: Any) -> Any:
        raw.xack(STREAM, GROUP, entry)
        raw.hset("job:J-1", "redis-cli", f"ingest-{entry} ".encode() + msgspec.json.encode(record))
        return await look(*arguments)

    monkeypatch.setattr(find_module, "_standing", settle_first)
    assert await find(server, "J-1") == record


async def test_a_job_that_is_handed_back_is_queued_and_then_running(server: Server, raw: Raw) -> None:
    make_groups(raw)
    (entry,) = taken(raw, 1, id="J-1")
    park(raw, entry, attempt=1)
    add(raw, 60, key=RETRY_STREAM)

    assert await find(server, "J-1") == Job(state="queued", type="t")
    take(raw, key=RETRY_STREAM)
    assert await find(server, "J-1") == Job(state="running", type="t")


async def test_a_job_that_waits_for_its_next_attempt_without_a_record_is_retrying(server: Server, raw: Raw) -> None:
    make_groups(raw)
    due, later, other = taken(raw, 3)
    park(raw, due, attempt=2)
    async with hand(server) as me:
        await me.settle(
            unit(Entry(FRESH.index, later, RETRY, encode_retry(later, attempt=3, error="KeyError"), 60_000))
        )
    raw.xack(STREAM, GROUP, due, other)

    states = [await find(server, f"ingest-{entry}") for entry in (due, later, other)]
    assert states == [
        Job(state="retrying", type="t", attempts=1),
        Job(state="retrying", type="t", attempts=2),
        Job(state="settled", type="t"),
    ]


async def test_where_more_wait_than_can_be_looked_at_nothing_is_called_settled(
    server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.jobs.find.SEARCHED", 50)
    make_groups(raw)
    (entry,) = taken(raw, 1, id="J-1")
    raw.xack(STREAM, GROUP, entry)
    add(raw, 49, key=RETRY_STREAM)
    assert await find(server, "J-1") == Job(state="settled", type="t")

    add(raw, 1, key=RETRY_STREAM)
    assert await find(server, "J-1") == Job(state="queued", type="t")


async def test_large_entries_are_looked_at_a_few_at_a_time(server: Server, raw: Raw) -> None:
    large = "x" * 1_000_000
    make_groups(raw)
    (entry,) = add(raw, id="J-1")
    raw.xgroup_setid(STREAM, GROUP, entry)
    for number in range(12):
        add(raw, key=RETRY_STREAM, data=large)
        add(raw, key="dlq", data=large)
        raw.zadd(DELAYED, {msgspec.msgpack.encode(["data", f"{number}{large}"]): 9e12})
        await publish(server, f"other-{number}", delay=50, data=large)
    raw.config_resetstat()
    assert await find(server, "J-1") == Job(state="settled", type="t")
    pages = {name: raw.info("commandstats")[f"cmdstat_{name}"]["calls"] for name in ("xrevrange", "zrange")}
    assert pages["xrevrange"] >= 12, "what is tried again, and dead letters"
    assert pages["zrange"] >= 6, "what waits for its time"
    raw.config_resetstat()
    assert await find(server, "unknown") is None
    assert raw.info("commandstats")["cmdstat_zrange"]["calls"] >= 6


def bury(raw: Raw, entry: str, *, group: str = GROUP) -> str:
    """Write the dead letter of a job whose processes died."""
    why = dead_letter.encode(
        stream=STREAM, group=group, entry=entry, reason="crashed", error="died", attempts=2, time=0.0, fingerprint="f"
    )
    raw.xack(STREAM, GROUP, entry)
    letter: bytes = raw.execute_command("XADD", "dlq", "*", "type", "t", *why)
    return letter.decode()


async def test_a_job_whose_processes_died_is_dead_until_it_is_replayed(server: Server, raw: Raw) -> None:
    make_groups(raw)
    entry, neighbour = taken(raw, 2)
    letter = bury(raw, entry)
    bury(raw, neighbour, group="another")
    job = Job(
        state="dead", type="t", attempts=2, reason="crashed", error="died", finished_at="1970-01-01T00:00:00.000Z"
    )

    assert await find(server, f"ingest-{entry}") == job
    assert await find(server, f"ingest-{neighbour}") == Job(state="settled", type="t")
    raw.hset("dlq:replayed", letter, "2026-11-22T10:00:00Z")
    assert await find(server, f"ingest-{entry}") == Job(state="settled", type="t")


@pytest.mark.parametrize(
    "job_id",
    [
        "J-1",
        "",
        "ingest-1-1",
        "ingest-0-0",
        "events-1-1",
        "ingest-\u0661-\u0662",
        f"ingest-{2**64}-0",
        "ingest-1-x",
        "\0",
    ],
)
async def test_a_job_nobody_knows_is_none(server: Server, raw: Raw, job_id: str) -> None:
    add(raw, id="other")

    assert await find(server, job_id) is None


async def test_an_empty_mesh_knows_no_job(server: Server) -> None:
    assert await find(server, "ingest-1-1") is None


async def test_each_mesh_knows_its_own_jobs(server: Server, raw: Raw) -> None:
    add(raw, key="blue:ingest", id="J-1")

    assert await find(server, "J-1") is None
    assert await find(server, "J-1", Keys("blue:")) == Job(state="queued", type="t")


async def test_an_id_that_says_no_place_is_found_among_the_newest_three_thousand(server: Server, raw: Raw) -> None:
    add(raw, id="too-old")
    add(raw, id="old")
    with raw.pipeline() as pipeline:
        for _ in range(2_999):
            pipeline.xadd(STREAM, {"type": "t"})
        pipeline.execute()

    assert await find(server, "old") == Job(state="queued", type="t")
    assert await find(server, "too-old") is None


async def test_an_id_of_the_gateway_is_found_in_however_long_a_stream(server: Server, raw: Raw) -> None:
    job_id = timed_id(time.time(), bytes(16))
    add(raw, id=job_id, tenant="acme")
    with raw.pipeline() as pipeline:
        for _ in range(10_000):
            pipeline.xadd(STREAM, {"type": "t"})
        pipeline.execute()

    assert await find(server, job_id) == Job(state="queued", type="t", tenant="acme")


async def test_the_newest_of_two_with_one_id_is_meant(server: Server, raw: Raw) -> None:
    add(raw, id="J-1", type="first")
    add(raw, id="J-1", type="second")

    assert await find(server, "J-1") == Job(state="queued", type="second")


async def test_a_search_does_not_transfer_what_it_looks_at(server: Server, raw: Raw) -> None:
    for _ in range(200):
        add(raw, data='"' + "x" * 10_000 + '"')
    before = raw.info("stats")["total_net_output_bytes"]

    assert await find(server, "unknown") is None
    assert raw.info("stats")["total_net_output_bytes"] - before < 100_000


async def test_of_several_sources_with_one_id_one_has_to_be_named(server: Server, raw: Raw) -> None:
    for source, tenant in (("shop-a", "a"), ("shop-b", "b")):
        record = msgspec.json.encode(Job(state="completed", type="t", result=source, tenant=tenant))
        raw.hset("job:o-1", source, b"ingest-1-0 " + record)
    async with connected(server) as client:
        with pytest.raises(AmbiguousEvent, match="2 sources have an event o-1: shop-a, shop-b; say which one is meant"):
            await find_job(client, Keys(), TOPOLOGY, "o-1")
        named = [
            await find_job(client, Keys(), TOPOLOGY, "o-1", source=name) for name in ("shop-a", "shop-b", "shop-c")
        ]
        owned = await find_job(client, Keys(), TOPOLOGY, "o-1", tenant="b")

    assert [job and job.result for job in named] == ["shop-a", "shop-b", None]
    assert owned is not None
    assert owned.result == "shop-b"


async def test_a_queued_job_is_found_by_its_source_too(server: Server, raw: Raw) -> None:
    add(raw, id="o-1", source="shop-a", type="first")
    add(raw, id="o-1", type="second")
    async with connected(server) as client:
        types = [
            job and job.type
            for name in ("shop-a", "redis-cli", "shop-b")
            for job in [await find_job(client, Keys(), TOPOLOGY, "o-1", source=name)]
        ]

    assert types == ["first", "second", None]


async def test_a_job_on_any_stream_of_work_is_found(server: Server, raw: Raw) -> None:
    make_groups(raw)
    raw.xgroup_create("orders", "shop", "0", mkstream=True)
    made = timed_id(time.time(), bytes(16))
    entry = raw.xadd("orders", {"type": "order.placed", "tenant": "acme"}).decode()
    raw.xadd("orders", {"type": "order.returned", "id": made})
    raw.xadd("facts", {"type": "seen", "id": "f-1"})

    assert await find(server, f"orders-{entry}") == Job(state="queued", type="order.placed", tenant="acme")
    raw.xreadgroup("shop", "me", {"orders": ">"})
    assert await find(server, made) == Job(state="running", type="order.returned")
    assert await find(server, "f-1") is None  # a fact is nobody's job


async def test_a_job_that_is_not_due_yet_is_queued(server: Server, raw: Raw) -> None:
    make_groups(raw)
    (entry,) = taken(raw, 1, **{"in": "60"})
    async with hand(server) as me:
        await me.settle(unit(Entry(FRESH.index, entry, RETRY, encode_retry(entry, attempt=1, error="not due"), 60_000)))

    assert await find(server, f"ingest-{entry}") == Job(state="queued", type="t")


async def test_a_job_that_is_to_be_published_later_is_queued_until_then(server: Server, raw: Raw) -> None:
    for number in range(60):  # more than are looked at in one go
        await publish(server, f"other-{number}", delay=50)
    await publish(server, "late-1", delay=60, tenant="acme")

    found = await find(server, "late-1")
    assert found is not None
    assert (found.state, found.type, found.tenant) == ("queued", "t", "acme")
    assert found.next_attempt_at is not None
    async with connected(server) as client:
        assert await find_job(client, Keys(), TOPOLOGY, "late-1", source="another") is None
        assert await find_job(client, Keys(), TOPOLOGY, "late-1", tenant="another") is None


async def publish(server: Server, event_id: str, *, delay: float, tenant: str | None = None, data: str = "1") -> None:
    async with connected(server) as client, Publisher(client, Keys()) as publisher:
        fields = encode("t", data, event_id=event_id, source="web", tenant=tenant)
        await publisher.publish("orders", fields, delay=delay)
