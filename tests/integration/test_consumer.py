"""A whole consumer, in this very process: what becomes of events from being read to being settled."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pydantic
import pytest
import structlog

from penstock import (
    BatchContext,
    ConfigurationError,
    Context,
    Event,
    Reject,
    Retry,
    Service,
    Snooze,
    TryAgain,
    UnsuitableRedis,
)
from penstock.event import encode_retry
from penstock.service import intake
from penstock.service.outcome import Outcome
from penstock.service.runtime import Runtime
from penstock.streams import heartbeat, read, rescue
from penstock.times import rfc3339
from penstock.topology import parse
from tests.chaos.torture.link import Link
from tests.hands import Raw, fields_of
from tests.mesh import eventually, running, settled
from tests.servers import Server, required_kinds, running_server

MESH = """
streams: {ingest: {kind: facts}, events: {}, other: {}}
services:
  worker:
    consumes:
      ingest: {retry: {attempts: 3, base: 0.01, jitter: 0}, unhandled: dead}
    publishes: [events]
"""
BOTH = MESH.replace("    publishes", "      other: {}\n    publishes")
DELAYED = "ingest:worker:delayed"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the dead be found sooner, for quicker tests."""
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.25)
    monkeypatch.setattr(heartbeat, "LIFETIME", 1.0)
    monkeypatch.setattr(rescue, "INTERVAL", 0.25)


class Order(msgspec.Struct):
    number: int


@pytest.fixture
def service() -> Service:
    return Service("worker")


def add(raw: Raw, event_type: str = "t", data: Any = None, *, stream: str = "ingest", **fields: str) -> str:
    added: bytes = raw.xadd(stream, {"type": event_type, "data": json.dumps(data), **fields})
    return added.decode()


def done(raw: Raw, stream: str = "ingest") -> Callable[[], bool]:
    return lambda: settled(raw, stream, "worker")


def types(raw: Raw, stream: str = "events") -> list[str]:
    return [fields["type"] for fields in fields_of(raw, stream)]


def letters(raw: Raw) -> list[dict[str, str]]:
    return fields_of(raw, "dlq")


# Outcomes


async def test_a_done_event_has_its_effects_and_nothing_is_left_of_it(
    service: Service, server: Server, raw: Raw
) -> None:
    @service.on("ingest")
    async def handle(event: Event, ctx: Context) -> None:
        ctx.emit("events", "seen", {"by": ctx.service, "attempt": ctx.attempt}, subject="s")
        ctx.emit("events", "seen.later", delay=0.01)
        ctx.state.hincrby("counts", event.type)

    entry = add(raw, "t", {"a": 1}, tenant="acme")
    async with running(service, MESH, server):
        await eventually(lambda: settled(raw, "ingest", "worker") and raw.xlen("events") == 2, what="it is settled")

    seen = fields_of(raw, "events")[0]
    assert (seen["type"], seen["subject"], seen["tenant"]) == ("seen", "s", "acme")
    assert (seen["cause"], seen["causesource"]) == (f"ingest-{entry}", "redis-cli")
    assert json.loads(seen["data"]) == {"by": "worker", "attempt": 1}
    assert types(raw) == ["seen", "seen.later"]
    assert raw.hgetall("state:worker:counts") == {b"t": b"1"}
    assert raw.xinfo_consumers("ingest", "worker") == []  # its name does not stay behind
    assert not raw.exists("beats:worker")


@pytest.mark.parametrize("batch", [None, 10], ids=["one_by_one", "in_batches"])
async def test_an_event_is_handled_when_its_producer_says(
    service: Service, server: Server, raw: Raw, batch: int | None
) -> None:
    handled: dict[str, float] = {}

    @service.on("ingest", batch=batch)
    async def handle(given: Any) -> None:
        for event_type in [given] if batch is None else given:
            handled[event_type] = time.time()

    at = time.time() + 0.6
    add(raw, data="at", at=rfc3339(at))
    add(raw, data="in", **{"in": "0.3"})
    add(raw, data="over", at="2020-01-01T00:00:00Z")
    add(raw, data="now")
    begun = time.time()
    async with running(service, MESH, server):
        await eventually(lambda: len(handled) == 4, what="all are handled")

    assert handled["at"] >= at - 0.002  # the time was written in whole ms
    assert handled["in"] >= begun + 0.3 - 0.1
    assert max(handled["over"], handled["now"]) < handled["in"] < handled["at"]
    assert letters(raw) == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"at": "tomorrow"}, "at: 'tomorrow' is not a time such as 2026-11-22T10:00:00Z"),
        ({"in": "soon"}, "in: 'soon' is not seconds such as 90"),
        ({"in": "nan"}, "in is 0 to 31,536,000 seconds, not nan"),
        ({"in": "-1"}, "in is 0 to 31,536,000 seconds, not -1.0"),
        ({"in": "1", "at": "2020-01-01T00:00:00Z"}, "at and in: give one of them"),
    ],
)
async def test_an_event_that_is_never_due_is_invalid(
    service: Service, server: Server, raw: Raw, fields: dict[str, str], why: str
) -> None:
    @service.on("ingest")
    async def handle(data: Any) -> None:
        raise AssertionError("it must not be handled")

    add(raw, **fields)
    async with running(service, MESH, server):
        await eventually(lambda: raw.xlen("dlq") == 1, what="it is dead")

    (letter,) = letters(raw)
    assert letter["dlq.reason"] == "invalid"
    assert why in letter["dlq.error"]


async def test_a_failing_event_is_tried_again_until_it_succeeds(service: Service, server: Server, raw: Raw) -> None:
    attempts: list[int] = []

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        ctx.emit("events", "half" if ctx.attempt < 3 else "whole")
        if ctx.attempt < 3:
            raise ConnectionError("not yet")

    add(raw)
    async with running(service, MESH, server):
        await eventually(lambda: len(attempts) == 3 and settled(raw, "ingest", "worker"), what="it succeeded")

    assert attempts == [1, 2, 3]
    assert types(raw) == ["whole"]
    assert letters(raw) == []


async def test_an_event_that_never_succeeds_is_dead_with_its_reason(service: Service, server: Server, raw: Raw) -> None:
    @service.on("ingest")
    async def explode(data: Any) -> None:
        raise ValueError(f"cannot do {data}")

    entry = add(raw, "bomb", 5, mine="x")
    async with running(service, MESH, server):
        await eventually(lambda: letters(raw) and settled(raw, "ingest", "worker"), what="it is dead")

    (letter,) = letters(raw)
    assert letter["type"] == "bomb"
    assert (letter["data"], letter["mine"]) == ("5", "x")
    assert {name: letter[f"dlq.{name}"] for name in ("stream", "group", "entry", "reason", "error", "attempts")} == {
        "stream": "ingest",
        "group": "worker",
        "entry": entry,
        "reason": "failed",
        "error": "ValueError: cannot do 5",
        "attempts": "3",
    }
    assert 'raise ValueError(f"cannot do {data}")' in letter["dlq.traceback"]
    assert letter["dlq.fingerprint"].startswith("bomb:failed:explode:")


@pytest.mark.parametrize(
    ("raised", "reason"), [(Reject("no"), "rejected"), (ConfigurationError("a key is missing"), "invalid")]
)
async def test_an_event_that_cannot_succeed_is_dead_at_once(
    service: Service, server: Server, raw: Raw, raised: Exception, reason: str
) -> None:
    @service.on("ingest")
    async def handle(data: Any) -> None:
        raise raised

    add(raw)
    async with running(service, MESH, server):
        await eventually(lambda: letters(raw) and settled(raw, "ingest", "worker"), what="it is dead")

    assert [(one["dlq.reason"], one["dlq.error"], one["dlq.attempts"]) for one in letters(raw)] == [
        (reason, str(raised), "1")
    ]


class Ticket(pydantic.BaseModel):
    number: int = pydantic.Field(alias="ticketNumber")


async def test_models_of_pydantic_are_read_kept_and_emitted_and_data_that_fits_none_is_dead_at_once(
    service: Service, server: Server, raw: Raw
) -> None:
    async def fetch(number: int) -> Ticket:
        return Ticket(ticketNumber=number)

    @service.on("ingest")
    async def handle(ticket: Ticket, ctx: Context) -> None:
        fetched = await ctx.step("fetch", fetch, ticket.number + ctx.attempt)
        if ctx.attempt == 1:
            raise ConnectionError("after the step")
        ctx.emit("events", "ticket.fetched", fetched)

    add(raw, data={"ticketNumber": 4})
    add(raw, data={"ticketNumber": "many"})
    async with running(service, MESH, server):
        await eventually(lambda: letters(raw) and settled(raw, "ingest", "worker"), what="both are settled")

    assert [fields["data"] for fields in fields_of(raw, "events")] == ['{"ticketNumber":5}']
    assert [(one["dlq.reason"], one["dlq.error"], one["dlq.attempts"]) for one in letters(raw)] == [
        (
            "invalid",
            "data: Input should be a valid integer, unable to parse string as an integer - at `$.ticketNumber`",
            "1",
        )
    ]


async def test_a_snoozed_event_comes_back_as_the_same_attempt(service: Service, server: Server, raw: Raw) -> None:
    attempts: list[int] = []

    @service.on("ingest", retry=Retry(attempts=1))
    async def handle(data: Any, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if len(attempts) < 4:
            raise Snooze(0.01)

    add(raw)
    async with running(service, MESH, server):
        await eventually(lambda: len(attempts) == 4 and settled(raw, "ingest", "worker"), what="it is done")

    assert attempts == [1, 1, 1, 1]
    assert letters(raw) == []


async def test_a_retry_waits_in_redis_with_what_the_next_attempt_must_know(
    service: Service, server: Server, raw: Raw
) -> None:
    @service.on("ingest")
    async def handle(data: Any) -> None:
        raise TryAgain("429 Too Many Requests", after=3_600)

    entry = add(raw, "t", 5, mine="x")
    async with running(service, MESH, server):
        await eventually(lambda: raw.zcard(DELAYED), what="it is parked")

    ((packed, due),) = raw.zrange(DELAYED, 0, -1, withscores=True)
    parts = msgspec.msgpack.decode(packed, type=list[str])
    assert dict(zip(parts[::2], parts[1::2], strict=True)) == {
        "type": "t",
        "data": "5",
        "mine": "x",
        "retry.entry": entry,
        "attempt": "2",
        "retry.crashes": "0",
        "retry.error": "429 Too Many Requests",
    }
    assert due / 1000 > time.time() + 3_000
    assert not raw.xpending("ingest", "worker")["pending"]


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"data": "1"}, "invalid: no type"),
        ({"type": "t", "data": "{"}, "invalid: data: "),
        ({"type": "t", "data": '{"number": "x"}'}, "invalid: data: Expected `int`, got `str` - at `$.number`"),
        ({"type": "t", "tenant": b"\xff"}, "invalid: field 'tenant' is not UTF-8"),
        ({"type": "unknown"}, "unhandled: no handler of worker takes unknown on ingest"),
    ],
)
async def test_an_event_that_is_none_or_nobodys_is_dead_as_it_came(
    service: Service, server: Server, raw: Raw, fields: dict[str, Any], verdict: str
) -> None:
    @service.on("ingest", type="t")
    async def handle(order: Order) -> None:
        raise AssertionError("it must not run")

    raw.xadd("ingest", fields)
    async with running(service, MESH, server):
        await eventually(lambda: raw.xlen("dlq") and settled(raw, "ingest", "worker"), what="it is dead")

    ((_, letter),) = raw.xrange("dlq")
    assert f"{letter[b'dlq.reason'].decode()}: {letter[b'dlq.error'].decode()}".startswith(verdict)
    for name, value in fields.items():
        assert letter[name.encode()] == (value if isinstance(value, bytes) else value.encode())


async def test_what_nobody_asks_for_is_skipped_where_many_read(service: Service, server: Server, raw: Raw) -> None:
    seen: list[str] = []

    @service.on("ingest", type="mine")
    @service.on("other", type="mine")
    async def handle(event: Event) -> None:
        seen.append(event.type)

    add(raw, "theirs", stream="other")
    add(raw, "mine", stream="other")
    async with running(service, BOTH, server):
        await eventually(done(raw, "other"), what="both are settled")

    assert seen == ["mine"]
    assert letters(raw) == []


async def test_a_handler_that_takes_too_long_has_failed(service: Service, server: Server, raw: Raw) -> None:
    @service.on("ingest", type="slow", timeout=0.01, retry=Retry(attempts=1))
    async def slow(data: Any) -> None:
        await asyncio.Event().wait()

    @service.on("ingest", type="patient", timeout=20)
    async def patient(data: Any, ctx: Context) -> None:
        await asyncio.to_thread(buried.wait, 20)
        ctx.emit("events", "patient.done")

    buried = threading.Event()
    add(raw, "slow")
    add(raw, "patient")
    async with running(service, MESH, server):
        await eventually(lambda: letters(raw), what="the slow one is dead")
        buried.set()
        await eventually(done(raw), what="the patient one is done")

    assert [letter["dlq.error"] for letter in letters(raw)] == ["TimeoutError: the handler ran out of time"]
    assert types(raw) == ["patient.done"]


async def test_steps_that_were_done_are_not_repeated_and_leave_nothing_behind(
    service: Service, server: Server, raw: Raw
) -> None:
    calls: list[str] = []

    async def charge(amount: int) -> dict[str, int]:
        calls.append(f"charge {amount}")
        return {"amount": amount}

    @service.on("ingest")
    async def handle(amount: int, ctx: Context) -> None:
        charged = await ctx.step("charge", charge, amount)
        calls.append(f"attempt {ctx.attempt}")
        if ctx.attempt == 1:
            assert raw.exists(f"checkpoint:worker:redis-cli:{ctx.event.id}")
            raise ConnectionError("not yet")
        ctx.emit("events", "charged", charged)

    add(raw, "t", 5)
    async with running(service, MESH, server):
        await eventually(lambda: types(raw) == ["charged"], what="it is done")

    assert calls == ["charge 5", "attempt 1", "attempt 2"]
    assert not raw.keys("checkpoint:*")


async def test_with_checkpoints_off_every_attempt_repeats_its_steps(service: Service, server: Server, raw: Raw) -> None:
    calls: list[int] = []

    async def work() -> None:
        calls.append(1)

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        await ctx.step("work", work)
        if ctx.attempt == 1:
            raise ConnectionError("not yet")

    add(raw)
    async with running(service, MESH, server, checkpoint_enabled=False):
        await eventually(lambda: len(calls) == 2 and settled(raw, "ingest", "worker"), what="it is done")


async def test_the_dead_keep_their_checkpoints_for_a_replay(service: Service, server: Server, raw: Raw) -> None:
    async def work() -> int:
        return 1

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        await ctx.step("work", work)
        raise Reject("no")

    entry = add(raw)
    async with running(service, MESH, server):
        await eventually(lambda: letters(raw), what="it is dead")

    assert raw.hgetall(f"checkpoint:worker:redis-cli:ingest-{entry}") == {b"work": b"1"}


async def test_a_checkpoint_lives_as_long_as_its_event_can_come_back(
    service: Service, server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.dlq.retention._TICK", 0.1)

    async def work() -> int:
        return 1

    @service.on("ingest", type="snoozed")
    async def snooze(data: Any, ctx: Context) -> None:
        await ctx.step("work", work)
        raise Snooze(5_000)

    @service.on("ingest", type="dead")
    async def die(data: Any, ctx: Context) -> None:
        await ctx.step("work", work)
        raise Reject("no")

    add(raw, "snoozed", id="s")
    add(raw, "dead", id="d")
    async with running(service, MESH, server, checkpoint_ttl=100, dlq_retention_days=2):
        await eventually(lambda: raw.zcard(DELAYED) and letters(raw), what="both are settled")
        assert 5_000 < raw.ttl("checkpoint:worker:redis-cli:s") <= 5_100
        await eventually(lambda: raw.ttl("checkpoint:worker:redis-cli:d") > 86_400, what="the letter's life is its own")


async def test_a_retry_that_is_done_without_its_step_leaves_no_checkpoint(
    service: Service, server: Server, raw: Raw
) -> None:
    async def work() -> int:
        return 1

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        if ctx.attempt == 1:
            await ctx.step("work", work)
            raise ConnectionError("not yet")

    add(raw)
    async with running(service, MESH, server):
        await eventually(done(raw), what="it is done")

    assert not raw.keys("checkpoint:*")


async def test_events_of_one_id_and_two_sources_have_steps_of_their_own(
    service: Service, server: Server, raw: Raw
) -> None:
    async def charge(price: int) -> int:
        return price

    @service.on("ingest")
    async def handle(price: int, ctx: Context) -> None:
        charged = await ctx.step("charge", charge, price)
        if ctx.attempt == 1:
            raise ConnectionError("not yet")
        ctx.emit("events", "charged", charged)

    for price in (1, 2):
        add(raw, "order", price, id="o-1", source=f"https://shop-{price}.example")
    async with running(service, MESH, server):
        await eventually(done(raw), what="both are done")

    charged = fields_of(raw, "events")
    assert {fields["data"] for fields in charged} == {"1", "2"}
    assert len({fields["id"] for fields in charged}) == 2


async def test_the_same_event_handled_twice_publishes_the_same_ids(service: Service, server: Server, raw: Raw) -> None:
    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        ctx.emit("events", "a")
        ctx.emit("events", "b")

    add(raw)
    for _ in range(2):
        async with running(service, MESH, server):
            await eventually(done(raw), what="it is settled")
        raw.xgroup_setid("ingest", "worker", "0")

    ids = [(fields["type"], fields["id"]) for fields in fields_of(raw, "events")]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2


async def test_what_is_published_at_once_is_there_whatever_becomes_of_the_event(
    service: Service, server: Server, raw: Raw
) -> None:
    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        await ctx.publish("events", "progress", 1)
        raise Reject("no")

    add(raw)
    async with running(service, MESH, server):
        await eventually(lambda: letters(raw), what="it is dead")

    assert types(raw) == ["progress"]


# What handlers do to the process


async def test_handlers_that_misbehave_stop_nobody(service: Service, server: Server, raw: Raw) -> None:
    @service.on("ingest")
    async def handle(event: Event, ctx: Context) -> Any:
        match event.type:
            case "exit":
                raise SystemExit(1)
            case "cancel":
                raise asyncio.CancelledError
            case "recurse":
                return event.json()
            case "surrogate":
                ctx.state.set("x", "\ud800")
            case "big":
                ctx.emit("events", "x", 2**70)
            case "wrong":
                ctx.state.sadd("taken", "x")
        ctx.emit("events", f"{event.type}.done")
        return None

    raw.set("state:worker:taken", "a string")
    raw.xadd("ingest", {"type": "recurse", "data": "[" * 5_000})
    raw.xadd("ingest", {"type": "ancient", "data": "1"}, id="18446744073709551615-0")
    for kind in ("exit", "cancel", "surrogate", "big", "wrong", "fine"):
        raw.xadd("ingest", {"type": kind, "data": "1"}, id="18446744073709551615-*")
    async with running(service, MESH, server):
        await eventually(done(raw), what="all are settled")

    assert {letter["type"]: letter["dlq.reason"] for letter in letters(raw)} == {
        "exit": "failed",
        "cancel": "failed",
        "recurse": "invalid",
        "surrogate": "invalid",
        "wrong": "invalid",
    }
    assert set(types(raw)) == {"ancient.done", "big.done", "x", "fine.done"}


async def test_when_even_the_report_of_a_death_is_refused_the_event_is_dead_without_it(
    service: Service, server: Server, raw: Raw
) -> None:
    @service.on("ingest", type="t")
    async def handle(data: Any) -> None: ...

    @service.on_outcome
    def report(ctx: Context, outcome: Outcome) -> None:
        ctx.report("events", "told")

    raw.set("events", "what is this doing here")
    add(raw, "t")
    add(raw, "unknown")
    async with running(service, MESH, server):
        await eventually(lambda: raw.xlen("dlq") == 2 and settled(raw, "ingest", "worker"), what="both are dead")

    assert {letter["type"]: letter["dlq.reason"] for letter in letters(raw)} == {"t": "invalid", "unknown": "unhandled"}


async def test_one_function_may_handle_two_streams_each_by_its_own_policy(
    service: Service, server: Server, raw: Raw
) -> None:
    attempts: Counter[str] = Counter()

    @service.on("ingest", retry=Retry(attempts=1))
    @service.on("other", retry=Retry(attempts=2, base=0.01))
    async def handle(data: Any, ctx: Context) -> None:
        attempts[ctx.stream] += 1
        raise ConnectionError("no")

    add(raw)
    add(raw, stream="other")
    async with running(service, BOTH, server):
        await eventually(lambda: raw.xlen("dlq") == 2, what="both are dead")

    assert attempts == {"ingest": 1, "other": 2}


# Concurrency


@pytest.mark.parametrize(
    ("declared", "settings"),
    [("    concurrency: 1\n", {}), ("    concurrency: 40\n", {"concurrency": 1})],
    ids=["streams.yaml", "TASK_QUEUE_WORKERS"],
)
async def test_no_more_handlers_run_at_once_than_are_allowed(
    declared: str, settings: dict[str, int], service: Service, server: Server, raw: Raw
) -> None:
    running_now, most = 0, 0

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        for _ in range(3):
            await asyncio.sleep(0)
        running_now -= 1
        if ctx.attempt == 1:
            raise TryAgain("from the retry stream too", after=0)

    for _ in range(40):
        add(raw)
    async with running(service, MESH + declared, server, **settings):
        await eventually(done(raw), what="all are settled")

    assert most == 1
    assert letters(raw) == []


async def test_plain_handlers_run_side_by_side_as_many_as_are_allowed(
    service: Service, server: Server, raw: Raw
) -> None:
    together = threading.Barrier(40)

    @service.on("ingest")
    def handle(data: Any) -> None:
        together.wait(15)

    for _ in range(40):
        add(raw)
    async with running(service, MESH + "    concurrency: 40\n", server):
        await eventually(done(raw), what="all are settled")

    assert letters(raw) == []


def steal(raw: Raw, entry: str) -> None:
    """Give an entry to another consumer, who is there: a connection bears its name."""
    raw.client_setname("thief")
    raw.xclaim("ingest", "worker", "thief", 0, [entry])


# Batches


async def test_a_batch_handler_counts_every_event_exactly_once(service: Service, server: Server, raw: Raw) -> None:
    sizes: list[int] = []

    @service.on("ingest", batch=50)
    async def count(numbers: list[int], ctx: BatchContext) -> None:
        sizes.append(len(numbers))
        for event, number in zip(ctx.events, numbers, strict=True):
            ctx.state.hincrby("counts", event.type)
            ctx.state.incrby("sum", number)
            ctx.emit(event, "events", "counted", number)

    pipeline = raw.pipeline(transaction=False)
    for number in range(2_000):
        pipeline.xadd("ingest", {"type": f"t{number % 3}", "data": str(number)})
    pipeline.execute()
    async with running(service, MESH, server):
        await eventually(done(raw), what="all are settled")

    assert {kind.decode(): int(count) for kind, count in raw.hgetall("state:worker:counts").items()} == {
        "t0": 667,
        "t1": 667,
        "t2": 666,
    }
    assert int(raw.get("state:worker:sum")) == sum(range(2_000))
    assert raw.xlen("events") == 2_000
    assert max(sizes) <= 50
    assert len(sizes) < 2_000


async def test_of_a_batch_only_the_culprits_fail_and_the_rest_counts_once(
    service: Service, server: Server, raw: Raw
) -> None:
    @service.on("ingest", batch=100)
    async def count(numbers: list[int], ctx: BatchContext) -> None:
        for number in numbers:
            ctx.state.incrby("sum", number)
        if 13 in numbers:
            raise ValueError("13")

    for number in (1, 13, "x", 2, 3):
        add(raw, "t", number)
    async with running(service, MESH, server):
        await eventually(lambda: raw.xlen("dlq") == 2 and settled(raw, "ingest", "worker"), what="all are settled")

    assert int(raw.get("state:worker:sum")) == 1 + 2 + 3
    assert {letter["data"]: (letter["dlq.reason"], letter["dlq.attempts"]) for letter in letters(raw)} == {
        "13": ("failed", "3"),
        '"x"': ("invalid", "1"),
    }


async def test_of_a_batch_whose_effects_redis_refuses_only_the_culprit_is_dead(
    service: Service, server: Server, raw: Raw
) -> None:
    raw.set("state:worker:taken", "a text")

    @service.on("ingest", batch=10)
    async def handle(events: list[Event], ctx: BatchContext) -> None:
        for event in events:
            ctx.state.hincrby("taken" if event.json() == 3 else "counts", "all")

    for number in range(6):
        add(raw, "t", number)
    async with running(service, MESH, server):
        await eventually(done(raw), what="all are settled")

    assert raw.hget("state:worker:counts", "all") == b"5"
    (letter,) = letters(raw)
    assert (letter["data"], letter["dlq.reason"]) == ("3", "invalid")


async def test_a_batch_is_not_counted_twice_when_one_of_it_is_taken_away(
    service: Service, server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_BLOCK_MS", 60_000)  # what runs again does not wait for the next read
    handling, go_on = asyncio.Event(), asyncio.Event()

    @service.on("ingest", batch=10)
    async def count(numbers: list[int], ctx: BatchContext) -> None:
        handling.set()
        await go_on.wait()
        for number in numbers:
            ctx.state.incrby("sum", number)

    entries = [add(raw, "t", number) for number in (1, 10, 100)]
    async with running(service, MESH, server):
        await handling.wait()
        steal(raw, entries[1])
        go_on.set()
        await eventually(lambda: raw.get("state:worker:sum") == b"101", what="the rest is counted")
        assert [row["consumer"] for row in raw.xpending_range("ingest", "worker", "-", "+", 9)] == [b"thief"]
        raw.xack("ingest", "worker", entries[1])

    assert raw.get("state:worker:sum") == b"101"


# Suspects


async def test_suspects_run_alone_and_say_so(service: Service, server: Server, raw: Raw) -> None:
    quarantine: list[tuple[str, bool]] = []
    running_now = 0

    @service.on("ingest", type="single")
    async def single(event: Event, ctx: Context) -> None:
        nonlocal running_now
        running_now += 1
        on_trial = [entry.decode() for entry in raw.hvals("quarantine:worker")]
        pending = {
            row["message_id"].decode() for row in raw.xpending_range("ingest:worker:retry", "worker", "-", "+", 9)
        }
        quarantine.append((event.id, len(on_trial) == running_now == 1 and set(on_trial) <= pending))
        await asyncio.sleep(0)
        running_now -= 1

    @service.on("ingest", type="many", batch=10)
    async def many(events: list[Event], ctx: BatchContext) -> None:
        quarantine.extend((event.id, len(events) == 1) for event in events)

    for number in range(3):
        for kind in ("single", "many"):
            parked = encode_retry("1-1", attempt=1, error="", crashes=2)
            raw.execute_command("XADD", "ingest:worker:retry", "*", "type", kind, "id", f"{kind}-{number}", *parked)
    async with running(service, MESH, server):
        await eventually(lambda: len(quarantine) == 6 and settled(raw, "ingest", "worker"), what="all are settled")

    assert sorted(event_id for event_id, _ in quarantine) == sorted(
        f"{kind}-{number}" for number in range(3) for kind in ("single", "many")
    )
    assert all(alone for _, alone in quarantine)
    assert letters(raw) == []
    assert not raw.exists("quarantine:worker")  # nobody stays accused


# Losing and handing back


async def test_a_handler_whose_event_another_has_is_cancelled(service: Service, server: Server, raw: Raw) -> None:
    handling, cancelled = asyncio.Event(), asyncio.Event()

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        ctx.emit("events", "half")
        handling.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    entry = add(raw)
    async with running(service, MESH, server):
        await handling.wait()
        steal(raw, entry)
        await asyncio.wait_for(cancelled.wait(), 20)

    assert not raw.exists("events")
    assert [row["consumer"] for row in raw.xpending_range("ingest", "worker", "-", "+", 9)] == [b"thief"]


async def test_a_stopped_service_lets_its_handlers_finish(service: Service, server: Server, raw: Raw) -> None:
    handling, go_on = asyncio.Event(), asyncio.Event()

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        handling.set()
        await go_on.wait()
        ctx.emit("events", "finished")

    add(raw)
    async with running(service, MESH, server) as runtime:
        await handling.wait()
        runtime.stopping.set()
        assert not runtime.ready
        go_on.set()

    assert types(raw) == ["finished"]
    assert settled(raw, "ingest", "worker")


async def test_what_is_not_finished_when_the_grace_time_is_over_is_handed_back(
    service: Service, server: Server, raw: Raw
) -> None:
    handling = asyncio.Event()

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        handling.set()
        await asyncio.Event().wait()

    entry = add(raw, "t", 1)
    with structlog.testing.capture_logs() as lines:
        async with running(service, MESH, server, drain_timeout=0.05):
            await handling.wait()

    assert fields_of(raw, "ingest:worker:retry") == [
        {"type": "t", "data": "1", "retry.entry": entry, "attempt": "1", "retry.crashes": "0", "retry.error": ""}
    ]
    assert raw.xinfo_consumers("ingest", "worker") == []
    assert [line["events"] for line in lines if "grace time" in line["event"]] == [[f"ingest-{entry}"]]


async def test_suspects_that_wait_do_not_hold_up_the_end(service: Service, server: Server, raw: Raw) -> None:
    handling = asyncio.Event()

    @service.on("ingest")
    async def handle(data: Any) -> None:
        handling.set()
        await asyncio.Event().wait()

    for number in range(3):
        parked = encode_retry(f"{number}-1", attempt=1, error="", crashes=2)
        raw.execute_command("XADD", "ingest:worker:retry", "*", "type", "t", *parked)
    async with running(service, MESH, server, drain_timeout=0.05):
        await handling.wait()

    assert sorted(fields["retry.entry"] for fields in fields_of(raw, "ingest:worker:retry")) == ["0-1", "1-1", "2-1"]
    assert {fields["retry.crashes"] for fields in fields_of(raw, "ingest:worker:retry")} == {"2"}


async def test_a_new_consumer_takes_over_from_a_dead_one(service: Service, server: Server, raw: Raw) -> None:
    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        ctx.emit("events", f"done.{data}")

    raw.xgroup_create("ingest", "worker", "0", mkstream=True)
    add(raw, "t", 1)
    raw.xreadgroup("worker", "dead", {"ingest": ">"})
    add(raw, "t", 2)
    async with running(service, MESH, server):
        await eventually(lambda: set(types(raw)) == {"done.1", "done.2"}, what="both are done")
        await eventually(
            lambda: b"dead" not in {row["name"] for row in raw.xinfo_consumers("ingest", "worker")},
            what="the dead consumer is removed",
        )


# Redis comes and goes


async def test_after_a_flush_groups_come_back_and_work_goes_on(service: Service, server: Server, raw: Raw) -> None:
    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        ctx.emit("events", f"done.{data}")

    with structlog.testing.capture_logs() as lines:
        async with running(service, MESH, server):
            add(raw, "t", 1)
            await eventually(lambda: types(raw) == ["done.1"], what="the first is done")
            raw.flushall()
            add(raw, "t", 2)
            await eventually(lambda: types(raw) == ["done.2"], what="the second is done")

    assert any("consumer groups were gone" in line["event"] for line in lines)


async def test_what_a_read_takes_that_arrives_after_it_was_given_up_is_handled_within_seconds_and_once(
    service: Service, server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled = []

    @service.on("ingest")
    async def handle(data: Any) -> None:
        handled.append(data)

    monkeypatch.setattr(intake, "_BLOCK_MS", 100)
    monkeypatch.setattr(read, "_MARGIN", 0.5)
    link = Link(server.socket)
    await link.start()
    try:
        with structlog.testing.capture_logs() as lines:
            async with running(service, MESH, server, redis_url=link.url):
                late = await link.hold_request(b"BLOCK")
                holding = asyncio.create_task(link.hold_request(b"BLOCK"))  # whose reader will wait
                monkeypatch.setattr(read, "_MARGIN", 30.0)
                in_time = await holding
                assert [line for line in lines if line["event"] == "reading again"], "what is pending was looked at"
                add(raw, "t", 1)
                late.flowing.set()
                await eventually(lambda: raw.xpending("ingest", "worker")["pending"] == 1, what="the late read took it")
                assert not handled
                in_time.flowing.set()
                await eventually(done(raw), what="it is handled")
    finally:
        await link.aclose()

    assert handled == [1]


@pytest.mark.parametrize("by", ["XTRIM", "XDEL"])
async def test_a_handler_whose_entry_is_removed_from_the_stream_by_hand_finishes_and_counts_once(
    service: Service, server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(rescue, "_SWEEP", 0.05)
    monkeypatch.setattr(rescue, "_STALE_MS", 1)  # it must not be taken for what nobody holds, either
    handling, go_on = asyncio.Event(), asyncio.Event()

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        handling.set()
        await go_on.wait()
        ctx.emit("events", f"done.{data}")

    def beats() -> int:
        return max(int(beat.partition(b":")[0]) for beat in raw.hvals("beats:worker"))

    with structlog.testing.capture_logs() as lines:
        async with running(service, MESH, server):
            entry = add(raw, "t", 1)
            await handling.wait()
            if by == "XDEL":
                raw.xdel("ingest", entry)
            else:
                raw.xtrim("ingest", maxlen=0, approximate=False)
            seen = beats()
            await eventually(lambda: beats() > seen + 3, what="it is still in flight some beats later")
            go_on.set()
            await eventually(lambda: types(raw) == ["done.1"])
            await eventually(lambda: raw.xpending("ingest", "worker")["pending"] == 0)
    assert types(raw) == ["done.1"]
    assert not [line for line in lines if "lost" in line["event"] or "refused" in line["event"]]


async def test_a_consumer_that_is_removed_by_hand_has_its_handlers_cancelled_and_nobody_gets_what_it_had(
    service: Service, server: Server, raw: Raw
) -> None:
    handling, cancelled = asyncio.Event(), asyncio.Event()

    @service.on("ingest", type="slow")
    async def hold(_: Any, ctx: Context) -> None:
        handling.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    @service.on("ingest", type="t")
    async def handle(data: Any, ctx: Context) -> None:
        ctx.emit("events", f"done.{data}")

    with structlog.testing.capture_logs() as lines:
        async with running(service, MESH, server):
            add(raw, "slow", 1)
            await handling.wait()
            (consumer,) = raw.xinfo_consumers("ingest", "worker")
            assert raw.xgroup_delconsumer("ingest", "worker", consumer["name"]) == 1
            await cancelled.wait()
            add(raw, "t", 2)
            await eventually(lambda: types(raw) == ["done.2"], what="it goes on")
    assert raw.xpending("ingest", "worker")["pending"] == 0
    assert raw.xlen("ingest:worker:retry") == raw.zcard("ingest:worker:delayed") == raw.xlen("dlq") == 0
    (line,) = (line["event"] for line in lines if line["event"].startswith("lost"))
    assert "by hand (XGROUP DELCONSUMER" in line


async def test_what_is_removed_from_the_stream_by_hand_is_tried_again_and_buried_from_what_is_in_hand(
    service: Service, server: Server, raw: Raw
) -> None:
    attempts: list[Any] = []

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        raw.xtrim("ingest", maxlen=0, approximate=False)
        raw.xtrim("ingest:worker:retry", maxlen=0, approximate=False)
        attempts.append((data, ctx.attempt))
        ctx.emit("events", "tried")
        raise ValueError("no")

    async with running(service, MESH, server):
        raw.xadd("ingest", {"type": "t", "data": "1", "note": "ü"})
        await eventually(lambda: raw.xlen("dlq"))
        await eventually(lambda: raw.xpending("ingest:worker:retry", "worker")["pending"] == 0)
    assert attempts == [(1, 1), (1, 2), (1, 3)]
    (letter,) = (fields for _, fields in raw.xrange("dlq"))
    assert (letter[b"data"], letter[b"note"], letter[b"dlq.attempts"]) == (b"1", "ü".encode(), b"3")
    assert raw.xpending("ingest", "worker")["pending"] == 0


async def test_a_flush_while_an_event_is_in_hand_undoes_it(service: Service, server: Server, raw: Raw) -> None:
    handling, go_on = asyncio.Event(), asyncio.Event()

    @service.on("ingest", type="t")
    async def handle(data: Any, ctx: Context) -> None:
        handling.set()
        await go_on.wait()
        ctx.emit("events", "late")

    @service.on("ingest", type="next")
    async def following(data: Any, ctx: Context) -> None:
        ctx.emit("events", "next")

    add(raw, "t")
    async with running(service, MESH, server):
        await handling.wait()
        raw.flushall()
        go_on.set()
        add(raw, "next")
        await eventually(lambda: "next" in types(raw), what="it works again")

    assert types(raw) == ["next"]


async def test_a_flush_at_the_very_end_does_not_spoil_it(service: Service, server: Server, raw: Raw) -> None:
    @service.on("ingest")
    async def handle(data: Any) -> None: ...

    async with running(service, MESH, server) as runtime:
        raw.flushall()
        runtime.stopping.set()


async def test_while_redis_is_out_of_memory_outcomes_wait(service: Service, server: Server, raw: Raw) -> None:
    handling, go_on = asyncio.Event(), asyncio.Event()

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        handling.set()
        await go_on.wait()
        ctx.state.incrby("count")

    add(raw)
    async with running(service, MESH, server):
        await handling.wait()
        raw.config_set("maxmemory", "1")
        try:
            go_on.set()
            refused = raw.info("errorstats")
            await eventually(lambda: raw.info("errorstats") != refused, what="something was refused")
            assert not raw.exists("state:worker:count")
        finally:
            raw.config_set("maxmemory", "0")
        await eventually(done(raw), what="it is settled")

    assert raw.get("state:worker:count") == b"1"


async def test_a_step_that_redis_could_not_keep_uses_up_no_attempt(service: Service, server: Server, raw: Raw) -> None:
    handling, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> int:
        handling.set()
        await go_on.wait()
        return 1

    @service.on("ingest", retry=Retry(attempts=1))
    async def handle(data: Any, ctx: Context) -> None:
        await ctx.step("work", work)
        ctx.emit("events", f"done.{ctx.attempt}")

    add(raw)
    async with running(service, MESH, server):
        await handling.wait()
        raw.config_set("maxmemory", "1")
        try:
            go_on.set()
            before = refusals(raw)
            await eventually(lambda: refusals(raw) > before, what="its result was refused")
        finally:
            raw.config_set("maxmemory", "0")
        await eventually(lambda: types(raw) == ["done.1"], what="it is done")

    assert letters(raw) == []


def refusals(raw: Raw) -> int:
    """Return how many results of steps were refused."""
    return int(raw.info("commandstats").get("cmdstat_hsetnx", {}).get("rejected_calls", 0))


# Around the handlers


async def test_hooks_and_tasks_run_beside_the_handlers(service: Service, server: Server, raw: Raw) -> None:
    seen: list[str] = []

    @service.on("ingest")
    async def handle(data: Any) -> None:
        seen.append("handler")

    @service.on_start
    async def started(ctx: Context) -> None:
        seen.append("start")

    @service.on_outcome
    def told(ctx: Context, outcome: Outcome) -> None:
        ctx.report("events", f"told.{type(outcome).__name__}")

    @service.task
    async def beside(runtime: Runtime) -> None:
        seen.append("task")
        await runtime.stopping.wait()
        seen.append("task stops")

    async with running(service, MESH, server):
        add(raw)
        await eventually(done(raw), what="it is settled")

    assert seen == ["task", "start", "handler", "task stops"]
    assert types(raw) == ["told.Done"]


async def test_a_service_that_only_publishes_runs_its_tasks(server: Server, raw: Raw) -> None:
    service = Service("source")

    @service.task
    async def publish(runtime: Runtime) -> None:
        await runtime.publisher.publish("events", ["type", "t"])
        await runtime.stopping.wait()

    async with running(service, "streams: {events: {}}\nservices: {source: {publishes: [events]}}", server):
        await eventually(lambda: types(raw) == ["t"], what="it is published")


async def test_a_task_that_fails_ends_the_service_with_its_error(service: Service, server: Server) -> None:
    @service.on("ingest")
    async def handle(data: Any) -> None: ...

    @service.task
    async def beside(runtime: Runtime) -> None:
        raise ValueError("the task is broken")

    with pytest.raises(ValueError, match="the task is broken"):
        async with running(service, MESH, server) as runtime:
            await runtime.stopping.wait()


async def test_two_meshes_share_a_redis(server: Server, raw: Raw) -> None:
    blue, green = Service("worker"), Service("worker")
    for service, colour in ((blue, "blue"), (green, "green")):

        def register(service: Service, colour: str) -> None:
            @service.on("ingest")
            async def handle(data: Any, ctx: Context) -> None:
                ctx.emit("events", colour)
                ctx.state.incrby("count")

        register(service, colour)
    async with running(blue, MESH, server, prefix="blue:"), running(green, MESH, server, prefix="green:"):
        add(raw, stream="blue:ingest")
        await eventually(lambda: types(raw, "blue:events") == ["blue"], what="the blue one is done")

    assert raw.get("blue:state:worker:count") == b"1"
    assert raw.xlen("green:ingest") == 0
    assert all(key.startswith((b"blue:", b"green:")) for key in raw.scan_iter())


@pytest.mark.parametrize(
    ("mesh", "complaint"),
    [
        ("services: {other: {}}", r"services\.worker is missing"),
        (
            "streams: {ingest: {}, x: {}}\nservices: {worker: {consumes: {ingest: {}, x: {}}}}",
            r"services\.worker\.consumes lists x, which no handler",
        ),
        (
            "streams: {x: {}}\nservices: {worker: {consumes: {x: {}}}}",
            r"consumes does not list ingest, which has a handler",
        ),
    ],
)
async def test_a_service_that_does_not_fit_its_declaration_is_refused(
    service: Service, server: Server, mesh: str, complaint: str
) -> None:
    @service.on("ingest")
    async def handle(data: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=complaint):
        async with running(service, parse(mesh), server):
            pass


async def test_a_server_that_evicts_is_refused_with_what_to_set(service: Service) -> None:
    @service.on("ingest")
    async def handle(data: Any) -> None: ...

    with (
        running_server(required_kinds()[0], "--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb") as server,
        pytest.raises(UnsuitableRedis, match="CONFIG SET maxmemory-policy noeviction"),
    ):
        async with running(service, MESH, server):
            pass
