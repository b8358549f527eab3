"""The harness, used as the author of a service would: in memory, and the same calls on a real server."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from penstock import BatchContext, ConfigurationError, Context, Event, Reject, Retry, Service, Snooze
from penstock.keys import Keys
from penstock.redis.connection import client
from penstock.service.outcome import Outcome
from penstock.testing import Dead, Done, Given, Harness, Mesh, Retried, Run
from penstock.testing.server import Server, running_server
from penstock.topology import parse

tickets = Service("tickets")


class Ticket(msgspec.Struct):
    ticket_id: str
    description: str = ""
    due: dt.date | None = None


class Crm:
    """A dependency that the tests can break."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.down = False

    async def update(self, ticket_id: str) -> str:
        if self.down:
            raise ConnectionError("crm is down")
        self.calls.append(ticket_id)
        return f"crm-{ticket_id}"


crm = Crm()
models: list[str] = []


async def summarise(text: str) -> str:
    models.append(text)
    return text.upper()


@tickets.on("ingest", type="ticket.created", retry=Retry(attempts=2, base=4, jitter=0), needs=["crm"])
async def enhance(ticket: Ticket, ctx: Context) -> dict[str, str]:
    if not ticket.description:
        raise Reject("nothing to summarise")
    summary = await ctx.step("summarise", summarise, ticket.description)
    await ctx.publish("events", "ticket.summarised")
    ctx.state.hincrby("counts", ctx.event.tenant or "-")
    reference = await crm.update(ticket.ticket_id)
    ctx.emit("events", "ticket.enhanced", {"summary": summary}, subject=ticket.ticket_id)
    ctx.emit("events", "ticket.reminder", {"due": ticket.due}, delay=3600)
    return {"reference": reference}


@tickets.on("ingest", type="ticket.later")
async def later(event: Event) -> None:
    raise Snooze(120)


@tickets.on("events", type="visit", batch=3)
async def count(visits: list[int], ctx: BatchContext) -> None:
    for event, visit in zip(ctx.events, visits, strict=True):
        if visit < 0:
            raise ValueError("a negative visit")
        ctx.state.hincrby("visits", event.tenant or "-", visit)
        ctx.emit(event, "events", "visit.counted", visit)


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture(params=["memory", "server"])
def mesh(request: pytest.FixtureRequest, own: Server) -> Mesh:
    own.clear()
    return Mesh(own.url if request.param == "server" else None)


@pytest.fixture
def harness(mesh: Mesh) -> Harness:
    crm.calls.clear()
    crm.down = False
    models.clear()
    return mesh(tickets, publishes=["events"])


async def send(harness: Harness, attempt: int = 1, **ticket: Any) -> Run:
    data = {"ticket_id": "T-1", "description": "printer on fire", **ticket}
    return await harness.send("ingest", "ticket.created", data, id="T-1", attempt=attempt, tenant="acme")


async def test_a_run_shows_everything_that_came_of_it(harness: Harness) -> None:
    run = await send(harness, due="2026-12-01")

    assert run.done
    assert run.ids == ("T-1",)
    assert run.result == {"reference": "crm-T-1"}
    assert [(event.stream, event.type, event.data, event.delay) for event in run.events] == [
        ("events", "ticket.enhanced", {"summary": "PRINTER ON FIRE"}, 0.0),
        ("events", "ticket.reminder", {"due": "2026-12-01"}, 3600.0),
    ]
    enhanced = run.events[0].event
    assert (enhanced.subject, enhanced.tenant, enhanced.cause, enhanced.source) == ("T-1", "acme", "T-1", "tickets")
    assert [event.type for event in run.published] == ["ticket.summarised"]
    assert run.state == [("HINCRBY", "counts", "acme", "1")]
    assert run.steps == ["summarise"]
    assert crm.calls == ["T-1"]


async def test_what_events_of_two_sources_publish_under_one_id_is_told_of_each() -> None:
    service = Service("twins")
    both = asyncio.Barrier(2)

    @service.on("ingest", type="twin")
    async def publish(_: Any, ctx: Context) -> None:
        await ctx.publish("events", "seen", ctx.event.source)
        await both.wait()  # so that both have published before either is told of

    harness = Harness(service, publishes=["events"])
    runs = await asyncio.gather(
        *(harness.send("ingest", "twin", id="o-1", source=source) for source in ("shop-a", "shop-b"))
    )

    assert [[one.data for one in run.published] for run in runs] == [["shop-a"], ["shop-b"]]


async def test_a_failure_shows_when_it_is_tried_again_and_that_nothing_happened(harness: Harness) -> None:
    crm.down = True
    run = await send(harness)

    assert run.outcome == Retried(4, "ConnectionError: crm is down")
    assert (run.events, run.state) == ([], [])
    assert [event.type for event in run.published] == ["ticket.summarised"]  # it did not wait for the outcome
    with pytest.raises(AssertionError, match=r"the handler is not done: .*crm is down"):
        _ = run.result


async def test_a_step_that_was_done_is_not_repeated_on_the_next_attempt(harness: Harness) -> None:
    crm.down = True
    first = await send(harness)
    crm.down = False
    second = await send(harness, attempt=2)

    assert (first.steps, second.steps) == (["summarise"], [])
    assert second.done
    assert models == ["printer on fire"]


async def test_an_event_that_is_done_starts_afresh(harness: Harness) -> None:
    await send(harness)
    again = await send(harness)

    assert again.steps == ["summarise"]
    assert again.events[0].event.id == (await send(harness)).events[0].event.id


async def test_the_last_attempt_is_dead(harness: Harness) -> None:
    crm.down = True
    run = await send(harness, attempt=2)

    assert isinstance(run.outcome, Dead)
    assert (run.outcome.reason, run.outcome.error) == ("failed", "ConnectionError: crm is down")


async def test_a_reject_and_a_snooze_are_told_apart(harness: Harness) -> None:
    rejected = (await send(harness, description="")).outcome
    snoozed = (await harness.send("ingest", "ticket.later")).outcome

    assert isinstance(rejected, Dead)
    assert (rejected.reason, rejected.error) == ("rejected", "nothing to summarise")
    assert snoozed == Retried(120, "snoozed", snoozed=True)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"ticket_id": 5}, "data: Expected `str`, got `int` - at `$.ticket_id`"),
        ({}, "data: Object missing required field `ticket_id`"),
        (b"{not json", "data: JSON is malformed"),
    ],
)
async def test_data_is_validated_as_in_production(harness: Harness, data: Any, complaint: str) -> None:
    outcome = (await harness.send("ingest", "ticket.created", data)).outcome

    assert isinstance(outcome, Dead)
    assert outcome.reason == "invalid"
    assert outcome.error.startswith(complaint)


@pytest.mark.parametrize("event_type", ["", "\ud800"])
async def test_an_event_that_is_none_is_dead(harness: Harness, event_type: str) -> None:
    outcome = (await harness.send("ingest", event_type)).outcome

    assert isinstance(outcome, Dead)
    assert outcome.reason == "invalid"


async def test_an_event_that_nobody_wants_is_dead_on_ingest_and_skipped_elsewhere(harness: Harness) -> None:
    on_ingest = (await harness.send("ingest", "ticket.closed")).outcome
    on_events = await harness.send("events", "ticket.closed")

    assert isinstance(on_ingest, Dead)
    assert on_ingest.reason == "unhandled"
    assert on_events.outcome == Done()


async def test_while_a_breaker_that_is_needed_is_open_the_handler_waits(harness: Harness) -> None:
    harness.open_breaker("crm", 30)
    waiting = await send(harness)
    harness.close_breaker("crm")

    assert waiting.outcome == Retried(30, "waiting for crm", snoozed=True)
    assert (await send(harness)).done


async def test_a_call_through_an_open_breaker_ends_the_run(mesh: Mesh) -> None:
    service = Service("caller")

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> str:
        async with ctx.breaker("erp"):
            return "called"

    harness = mesh(service, publishes=[])
    called = await harness.send("ingest", "t")
    harness.open_breaker("erp", 30)
    refused = await harness.send("ingest", "t")

    assert called.result == "called"
    assert refused.outcome == Retried(30, "snoozed", snoozed=True)


async def test_what_is_said_of_progress_is_on_the_run() -> None:
    service = Service("parser")

    @service.on("ingest")
    async def parse_all(notes: list[str], ctx: Context) -> None:
        for done, note in enumerate(notes):
            ctx.progress(done / len(notes), note)

    harness = Harness(service, publishes=[])
    run, silent = await harness.send_all("ingest", [Given(type="t", data=["a", "b" * 300]), Given(type="t", data=[])])

    assert run.progress == [(0.0, "a"), (0.5, "b" * 199 + "…")]
    assert silent.progress == []


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan"), float("inf")])
async def test_progress_is_a_share(share: float) -> None:
    service = Service("parser")

    @service.on("ingest")
    async def parse_all(_: Any, ctx: Context) -> None:
        ctx.progress(share)

    run = await Harness(service, publishes=[]).send("ingest", "t")

    assert isinstance(run.outcome, Retried)
    assert run.outcome.error == f"ValueError: progress is a share of the work, from 0 to 1, not {share}"
    assert run.progress == []


async def test_a_batch_is_handled_as_one(harness: Harness) -> None:
    runs = await harness.send_all(
        "events", [Given(type="visit", data=number, id=f"V-{number}", tenant="acme") for number in range(5)]
    )

    assert all(run.done for run in runs)
    assert [name for run in runs for name in run.ids] == [f"V-{number}" for number in range(5)]
    assert max(len(run.ids) for run in runs) in {2, 3}  # at most 3 in one call; how they fall together is the server's
    for run in runs:
        numbers = [name.removeprefix("V-") for name in run.ids]
        assert run.state == [("HINCRBY", "visits", "acme", number) for number in numbers]
        assert [event.data for event in run.events] == [int(number) for number in numbers]


async def test_in_memory_batches_are_as_large_as_may_be() -> None:
    visits = [Given(type="visit", data=number, id=str(number)) for number in range(5)]
    runs = await Harness(tickets, publishes=["events"]).send_all("events", visits)

    assert [run.ids for run in runs] == [("0", "1", "2"), ("3", "4")]


async def test_of_a_failing_batch_only_the_culprit_fails(harness: Harness) -> None:
    runs = await harness.send_all("events", [Given(type="visit", data=data, id=str(data)) for data in (1, -1, "x", 2)])

    assert {run.ids[0]: type(run.outcome) for run in runs} == {"1": Done, "-1": Retried, "x": Dead, "2": Done}


async def test_a_single_event_may_go_to_a_batch_handler(harness: Harness) -> None:
    run = await harness.send("events", "visit", 7)

    assert run.done
    assert run.state == [("HINCRBY", "visits", "-", "7")]


async def test_attributes_of_the_event_reach_the_handler(mesh: Mesh) -> None:
    service = Service("seer")

    @service.on("ingest")
    async def see(event: Event, ctx: Context) -> dict[str, Any]:
        return {"id": event.id, "source": event.source, "time": event.time, "mine": event.extra, "try": ctx.attempt}

    given = Given(type="t", id="A", source="shop", time="2026-01-01T00:00:00Z", extra={"x": "1"}, attempt=3)
    (run,) = await mesh(service, publishes=[]).send_all("ingest", [given])

    assert run.result == {"id": "A", "source": "shop", "time": "2026-01-01T00:00:00Z", "mine": {"x": "1"}, "try": 3}


async def test_hooks_run_around_the_handler(mesh: Mesh) -> None:
    service = Service("hooked")
    seen: list[str] = []

    @service.on("ingest", type="t")
    async def handle(data: Any, ctx: Context) -> None:
        seen.append("handler")

    @service.on_start
    async def started(ctx: Context) -> None:
        seen.append("start")

    @service.on_outcome
    def told(ctx: Context, outcome: Outcome) -> None:
        ctx.report("events", f"told.{type(outcome).__name__}")

    harness = mesh(service, publishes=["events"])
    run = await harness.send("ingest", "t")
    unhandled = await harness.send("ingest", "other")

    assert seen == ["start", "handler"]
    assert [event.type for event in run.events] == ["told.Done"]
    assert [event.type for event in unhandled.events] == ["told.Dead"]


async def test_guards_on_state_are_shown(mesh: Mesh) -> None:
    service = Service("guarded")

    @service.on("ingest", type="begin")
    async def begin(data: Any, ctx: Context) -> None:
        ctx.state.hset("turn", {"number": "4"})

    @service.on("ingest", type="t")
    async def handle(data: Any, ctx: Context) -> None:
        ctx.state.expect("turn", "number", "4")
        ctx.state.expect("turn", "owner", None)
        ctx.state.hset("turn", {"number": "5"})

    harness = mesh(service, publishes=[])
    await harness.send("ingest", "begin")
    run = await harness.send("ingest", "t")

    assert run.guards == [("turn", "number", "4"), ("turn", "owner", None)]


MESH = """
streams: {ingest: {}, events: {}, elsewhere: {}}
services:
  tickets:
    consumes: {ingest: {retry: {attempts: 1}, unhandled: skip}, events: {}}
    publishes: [elsewhere]
"""


async def test_with_a_topology_it_is_as_streams_yaml_says(mesh: Mesh) -> None:
    harness = mesh(tickets, parse(MESH))
    outcome = (await send(harness)).outcome

    assert isinstance(outcome, Dead)
    assert outcome.error == "streams.yaml: services.tickets.publishes does not list events; add it"
    assert (await harness.send("ingest", "ticket.closed")).outcome == Done()


def test_a_service_and_a_topology_that_do_not_fit_are_refused(mesh: Mesh) -> None:
    with pytest.raises(ConfigurationError, match=r"services\.tickets\.consumes does not list events"):
        mesh(tickets, parse("streams: {ingest: {}}\nservices: {tickets: {consumes: {ingest: {}}}}"))
    with pytest.raises(ConfigurationError, match=r"services\.tickets is missing"):
        mesh(tickets, parse(""))


async def test_a_stream_that_the_service_does_not_read_is_a_mistake_of_the_test(harness: Harness) -> None:
    with pytest.raises(ConfigurationError, match="tickets has no handler on orders"):
        await harness.send("orders", "t")


def test_it_needs_no_plugin_and_no_loop_of_its_own(harness: Harness) -> None:
    assert asyncio.run(send(harness)).done
    assert asyncio.run(send(harness)).done


async def test_what_a_handler_reads_of_redis_is_what_was_committed_before(own: Server) -> None:
    own.clear()
    service = Service("counter")

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> int:
        ctx.state.incrby("seen", 1)
        return int(await ctx.redis.get(ctx.state.key("seen")) or 0)

    harness = Mesh(own.url)(service, publishes=[])
    assert [(await harness.send("ingest", "t")).result for _ in range(3)] == [0, 1, 2]


async def test_a_guard_that_never_holds_is_told_of(own: Server) -> None:
    own.clear()
    service = Service("guarded")

    @service.on("ingest")
    async def handle(data: Any, ctx: Context) -> None:
        ctx.state.expect("turn", "number", "4")

    with pytest.raises(AssertionError, match=r"what its ctx\.state\.expect asks for never holds"):
        await Mesh(own.url)(service, publishes=[]).send("ingest", "t")


async def test_what_is_to_be_tried_again_is_taken_out(own: Server) -> None:
    own.clear()
    tried: list[int] = []
    service = Service("eager")

    @service.on("ingest", retry=Retry(attempts=3, base=60))
    async def handle(event: Event, ctx: Context) -> None:
        tried.append(ctx.attempt)
        raise ValueError

    harness = Mesh(own.url)(service, publishes=[])
    outcomes = [(await harness.send("ingest", "t", id="A", attempt=attempt)).outcome for attempt in (1, 2, 3)]
    assert [type(outcome) for outcome in outcomes] == [Retried, Retried, Dead]
    assert tried == [1, 2, 3]
    async with client(own.url) as redis:
        assert await redis.exists(Keys().delayed("ingest", "eager")) == 0
        assert await redis.xlen("dlq") == 1


async def test_what_waits_for_a_breaker_that_calls_have_opened_waits(own: Server) -> None:
    own.clear()
    service = Service("caller")

    @service.on("ingest", needs=["erp"], retry=Retry(attempts=9, base=60))
    async def handle(data: Any, ctx: Context) -> None:
        async with ctx.breaker("erp"):
            raise ConnectionError

    harness = Mesh(own.url)(
        service,
        parse("""
streams: {ingest: {}}
services: {caller: {consumes: {ingest: {}}}}
breakers: {erp: {failure_threshold: 1}}
"""),
    )
    failed = (await harness.send("ingest", "t")).outcome
    waiting = (await harness.send("ingest", "t")).outcome

    assert isinstance(failed, Retried)
    assert not failed.snoozed
    assert isinstance(waiting, Retried)
    assert waiting.error == "waiting for erp"
