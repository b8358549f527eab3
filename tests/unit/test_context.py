"""The context of a handler: effects that wait for the commit, and steps that run once."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

import msgspec
import pytest

from penstock import BatchContext, ConfigurationError, Context, InvalidEvent
from penstock.event import Event, decode
from penstock.streams.commit import Output
from penstock.testing.doubles import Checkpoints, Outlet
from tests.scopes import make_context, make_event, make_scope


def written(output: Output) -> Event:
    return decode("events", "1-0", [field.encode() for field in output.fields])


# Emitting


def test_an_emitted_event_names_its_cause_and_carries_its_trace_on() -> None:
    cause = make_event(
        id="T-1", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", tracestate="v=1"
    )
    context = make_context(cause)
    event_id = context.emit("events", "ticket.triaged", {"a": 1})
    (output,) = context.effects.outputs
    event = written(output)

    assert (output.key, output.delay_ms) == ("events", 0)
    assert (event.id, event.type, event.json()) == (event_id, "ticket.triaged", {"a": 1})
    assert (event.cause, event.source, event.tracestate) == ("T-1", "worker", "v=1")
    assert event.trace.trace_id == cause.trace.trace_id
    assert event.trace.span_id not in {"", cause.trace.span_id}


def test_subject_and_tenant_are_inherited_unless_they_are_given() -> None:
    context = make_context(make_event(subject="s", tenant="t"))
    context.emit("events", "a")
    context.emit("events", "b", subject="mine", tenant="")

    assert [(event.subject, event.tenant) for event in map(written, context.effects.outputs)] == [
        ("s", "t"),
        ("mine", ""),
    ]


def test_the_same_run_emits_the_same_ids_and_each_emit_another() -> None:
    def ids(event_id: str) -> list[str]:
        context = make_context(make_event(id=event_id))
        return [context.emit("events", "t", number) for number in range(3)]

    assert ids("T-1") == ids("T-1")
    assert len({*ids("T-1"), *ids("T-2")}) == 6


def test_a_report_does_not_change_the_ids_of_what_is_emitted() -> None:
    plain, told = make_context(), make_context()
    told.report("events", "job.completed")

    assert plain.emit("events", "t") == told.emit("events", "t")


def test_a_delayed_event_waits_in_the_streams_schedule() -> None:
    context = make_context()
    context.emit("events", "soon", delay=0.0001)
    context.emit("events", "later", delay=90)

    assert [(output.key, output.delay_ms) for output in context.effects.outputs] == [
        ("events:scheduled", 1),
        ("events:scheduled", 90_000),
    ]


def test_a_stream_that_is_not_declared_is_refused_with_the_line_to_add() -> None:
    with pytest.raises(ConfigurationError, match=r"services\.worker\.publishes does not list alerts; add it"):
        make_context().emit("alerts", "t")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("events", ""), "no type"),
        (("events", "t", object()), "data cannot be written as JSON"),
        (("events", "t", {"a": [float("nan")]}), "data cannot be written as JSON: it holds nan"),
        (("events", "t", float("inf")), "it holds inf, which JSON has no form for"),
        (("events", "\ud800"), "type holds what UTF-8 cannot"),
        (("events", 5), "type must be text, not int"),
    ],
)
def test_an_event_that_cannot_be_written_is_refused_before_the_commit(
    arguments: tuple[Any, ...], complaint: str
) -> None:
    context = make_context()
    with pytest.raises(InvalidEvent, match=complaint):
        context.emit(*arguments)

    assert context.effects.outputs == []


def test_the_events_of_a_batch_have_the_ids_they_would_have_alone() -> None:
    events = [make_event(id="A"), make_event(id="B")]
    batch = BatchContext(make_scope(), events)
    together = [batch.emit(event, "events", "t", number) for number in range(2) for event in events]
    alone = [
        BatchContext(make_scope(), [event]).emit(event, "events", "t", 0) for event in events
    ]  # as when another of the batch was to blame

    assert together[:2] == alone
    assert len(set(together)) == 4


async def test_what_is_published_at_once_does_not_wait_for_the_outcome() -> None:
    outlet = Outlet()
    context = make_context(scope=make_scope(outlet=outlet))
    await context.publish("events", "progress", 1)
    await context.publish("events", "progress", 2)
    published = outlet.take([context.event])

    assert context.effects.outputs == []
    assert [(one.stream, one.type, one.data) for one in published] == [
        ("events", "progress", 1),
        ("events", "progress", 2),
    ]
    assert published[0].event.id != published[1].event.id


async def test_publishing_at_once_needs_the_declaration_too() -> None:
    with pytest.raises(ConfigurationError, match="does not list alerts"):
        await make_context().publish("alerts", "t")


def test_an_idempotency_key_is_the_same_on_every_attempt() -> None:
    first, second = make_context(attempt=1), make_context(attempt=2)

    assert first.idempotency_key() == second.idempotency_key() == "redis-cli:T-1"
    assert first.idempotency_key("charge") == second.idempotency_key("charge") == "redis-cli:T-1:charge"


async def test_events_of_one_id_and_two_sources_share_nothing() -> None:
    async def give(value: int) -> int:
        return value

    scope = make_scope()
    one, other = (make_context(make_event(id="o-1", source=source), scope) for source in ("shop:a", "shop:b"))
    assert one.idempotency_key("charge") != other.idempotency_key("charge")
    assert one.emit("events", "t") != other.emit("events", "t")
    assert [await one.step("charge", give, 1), await other.step("charge", give, 2)] == [1, 2]


async def test_what_they_publish_at_once_has_ids_of_its_own_too() -> None:
    outlet = Outlet()
    events = [make_event(id="o-1", source=source) for source in ("a", "b")]
    for event in events:
        await make_context(event, make_scope(outlet=outlet)).publish("events", "t")

    assert len({emitted.event.id for emitted in outlet.take(events)}) == 2


def test_two_equal_ids_in_one_batch_have_the_output_ids_each_would_have_alone() -> None:
    events = [make_event(id="A"), make_event(id="A")]
    batch = BatchContext(make_scope(), events)
    alone = BatchContext(make_scope(), events[:1]).emit(events[0], "events", "t")

    assert [batch.emit(event, "events", "t") for event in events] == [alone, alone]


# State


def test_state_operations_are_written_as_the_commit_wants_them() -> None:
    context = make_context()
    state = context.state
    state.hincrby("counts", "a")
    state.hincrby("counts", "b", -2)
    state.hincrbyfloat("sums", "a", 0.1)
    state.hset("names", {"a": "x", "b": 1.5})
    state.hdel("names", "c", "d")
    state.zadd("due", {"m": 1.0, "n": 2.5})
    state.zrem("due", "o")
    state.sadd("set", "a", "b")
    state.srem("set", "c")
    state.set("one", "v", ttl=1.5)
    state.set("two", "v")
    state.incrby("number", 3)
    state.delete("old")
    state.expire("one", 60)

    prefix = "state:worker:"
    assert context.effects.operations == [
        ["HINCRBY", f"{prefix}counts", "a", "1"],
        ["HINCRBY", f"{prefix}counts", "b", "-2"],
        ["HINCRBYFLOAT", f"{prefix}sums", "a", "0.1"],
        ["HSET", f"{prefix}names", "a", "x", "b", "1.5"],
        ["HDEL", f"{prefix}names", "c", "d"],
        ["ZADD", f"{prefix}due", "1.0", "m", "2.5", "n"],
        ["ZREM", f"{prefix}due", "o"],
        ["SADD", f"{prefix}set", "a", "b"],
        ["SREM", f"{prefix}set", "c"],
        ["SET", f"{prefix}one", "v", "PX", "1500"],
        ["SET", f"{prefix}two", "v"],
        ["INCRBY", f"{prefix}number", "3"],
        ["DEL", f"{prefix}old"],
        ["PEXPIRE", f"{prefix}one", "60000"],
    ]


def test_state_operations_on_nothing_are_left_out() -> None:
    context = make_context()
    state = context.state
    state.hset("a", {})
    state.zadd("a", {})
    state.hdel("a")
    state.zrem("a")
    state.sadd("a")
    state.srem("a")

    assert context.effects.operations == []


# Steps


class Answer(msgspec.Struct):
    number: int


@dataclasses.dataclass
class Address:
    street: str
    since: dt.date


class Page(TypedDict):
    url: str


class Colour(enum.Enum):
    RED = "red"


async def struct() -> Answer:
    return Answer(5)


async def dataclass() -> Address:
    return Address("Main St", dt.date(2026, 1, 2))


async def typed_dict() -> Page:
    return {"url": "/"}


async def moment() -> dt.datetime:
    return dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


async def token() -> uuid.UUID:
    return uuid.UUID(int=7)


async def price() -> decimal.Decimal:
    return decimal.Decimal("1.10")


async def colour() -> Colour:
    return Colour.RED


async def pairs() -> list[tuple[int, Answer]]:
    return [(1, Answer(2))]


async def raw() -> bytes:
    return b"\xff\x00"


async def nothing() -> None:
    return None


async def optional() -> Answer | None:
    return None


async def untyped():  # type: ignore[no-untyped-def]
    return {"a": [1, None]}


@pytest.mark.parametrize(
    "function",
    [struct, dataclass, typed_dict, moment, token, price, colour, pairs, raw, nothing, optional, untyped],
    ids=lambda function: function.__name__,
)
async def test_a_step_is_restored_as_the_type_it_returned(function: Callable[[], Awaitable[Any]]) -> None:
    scope = make_scope(checkpoints=Checkpoints())

    @functools.wraps(function)
    async def again() -> Any:
        raise AssertionError("it must not run again")

    first = await make_context(scope=scope).step("one", function)
    second = await make_context(scope=scope, attempt=2).step("one", again)

    assert second == first
    assert type(second) is type(first)


async def test_a_step_runs_once_and_is_given_its_arguments() -> None:
    calls: list[tuple[int, int]] = []

    async def add(a: int, b: int) -> int:
        calls.append((a, b))
        return a + b

    context = make_context()
    assert await context.step("add", add, 1, b=2) == 3
    assert await context.step("add again", add, 2, b=2) == 4
    assert calls == [(1, 2), (2, 2)]


async def test_a_name_that_is_used_again_is_a_step_of_its_own_in_every_attempt() -> None:
    calls: list[int] = []

    async def charge(amount: int) -> int:
        calls.append(amount)
        return amount

    scope = make_scope()
    context = make_context(scope=scope)
    assert [await context.step("charge", charge, amount) for amount in (1, 2)] == [1, 2]
    context = make_context(scope=scope, attempt=2)
    assert [await context.step("charge", charge, amount) for amount in (1, 2, 3)] == [1, 2, 3]
    assert calls == [1, 2, 3]
    context = make_context(scope=scope, attempt=3)
    assert await asyncio.gather(*(context.step("charge", charge, amount) for amount in (7, 8, 9))) == [1, 2, 3]


async def test_a_name_with_the_sign_that_numbers_is_refused() -> None:
    async def give() -> int:
        return 1

    with pytest.raises(ValueError, match="the name of a step has no #, which numbers those of one name: 'a#2'"):
        await make_context().step("a#2", give)


async def test_a_stored_result_that_fits_no_longer_names_the_step() -> None:
    async def before() -> str:
        return "x"

    async def now() -> int:
        return 1

    scope = make_scope()
    await make_context(scope=scope).step("price", before)
    with pytest.raises(InvalidEvent, match="kept of step price does not fit what it returns now: Expected `int`, got"):
        await make_context(scope=scope, attempt=2).step("price", now)


async def test_a_step_that_fails_is_not_kept() -> None:
    results = iter([None, 5])

    async def flaky() -> int:
        result = next(results)
        if result is None:
            raise KeyError("x")
        return result

    context = make_context()
    with pytest.raises(KeyError):
        await context.step("flaky", flaky)
    assert await context.step("flaky", flaky) == 5


async def test_of_two_processes_that_run_a_step_the_first_result_counts() -> None:
    scope = make_scope(checkpoints=Checkpoints())
    rival = make_context(scope=scope)

    async def slow() -> Answer:
        await rival.step("one", quick)
        return Answer(1)

    async def quick() -> Answer:
        return Answer(2)

    assert await make_context(scope=scope).step("one", slow) == Answer(2)


async def test_steps_of_one_event_are_not_those_of_another() -> None:
    scope = make_scope(checkpoints=Checkpoints())

    async def give(number: int) -> int:
        return number

    assert await make_context(make_event(id="A"), scope).step("one", give, 1) == 1
    assert await make_context(make_event(id="B"), scope).step("one", give, 2) == 2


@pytest.mark.parametrize("result", [object(), "\ud800", {1j: 1}, float("nan")])
async def test_a_result_that_cannot_be_kept_names_the_step(result: object) -> None:
    async def give() -> object:
        return result

    with pytest.raises(InvalidEvent, match="the result of step odd cannot be kept: data cannot be written as JSON"):
        await make_context().step("odd", give)


async def test_a_result_that_is_too_large_names_the_step_and_says_where_it_belongs() -> None:
    async def give() -> str:
        return "x" * 999_999

    with pytest.raises(
        InvalidEvent, match=r"step large is 1,000,001 bytes of JSON, and at most 1,000,000 .* larger things"
    ):
        await make_context().step("large", give)


def test_a_context_tells_where_it_is() -> None:
    context: Context = make_context(attempt=4)

    assert (context.service, context.stream, context.attempt) == ("worker", "ingest", 4)
    assert context.elapsed >= 0
    assert context.state.key("x") == "state:worker:x"
