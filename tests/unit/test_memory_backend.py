"""PENSTOCK_BACKEND=memory, as a user's test has it: client, handlers, retries, steps, dead letters in one process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from penstock import (
    BatchContext,
    ConfigurationError,
    Context,
    Event,
    InvalidEvent,
    JobCancelled,
    JobDead,
    NewJob,
    NotCancelled,
    Penstock,
    Reject,
    Retry,
    Service,
    Snooze,
    TryAgain,
    Unavailable,
    sync,
)
from penstock.asgi.status import Status
from penstock.client.outbox import KeptEvent, publish_kept
from penstock.dlq.dead_letter import DeadLetter
from penstock.service.dispatch import Dispatcher
from penstock.settings import Settings
from penstock.streams.publish import DuplicateConflict
from penstock.times import seconds_of
from penstock.topology import parse
from tests.processes import DEADLINE

MESH = """
streams: {orders: {kind: work}, mails: {kind: work}, events: {}, news: {}}
services:
  shop:
    consumes: {orders: {retry: {attempts: 3, base: 0.01, jitter: 0}}}
    publishes: [news, mails]
  mailer: {consumes: {mails: {}}}
  desk: {consumes: {news: {}, events: {}}}
"""


@pytest.fixture
def shop() -> Service:
    return Service("shop")


@asynccontextmanager
async def memory(*services: Service, topology: str = MESH, **settings: Any) -> AsyncIterator[Penstock]:
    chosen = Settings(backend="memory", **settings)
    async with Penstock.connect(topology=parse(topology), source="web", settings=chosen, services=services) as mesh:
        yield mesh


# Jobs


async def test_a_job_is_done_and_its_answer_says_that_only_this_process_has_it(shop: Service) -> None:
    class Receipt(msgspec.Struct):
        paid: int

    @shop.on("orders", type="order.placed")
    async def place(order: dict[str, int]) -> dict[str, int]:
        return {"paid": order["price"]}

    async with memory(shop) as mesh:
        job = await mesh.submit("order.placed", {"price": 7}, stream="orders", tenant="acme")
        receipt = await job.result(DEADLINE, type=Receipt)
        status = await mesh.job(job.id).status()
        many = await mesh.submit_all([NewJob("order.placed", {"price": n}, "orders") for n in range(500)])
        paid = [(await one.result(DEADLINE))["paid"] for one in many]

        assert (receipt, mesh.durability) == (Receipt(7), "process")
        assert (status.state, status.attempts, status.tenant) == ("completed", 1, "acme")
        assert paid == list(range(500))
    assert job.durability == "process"  # also once the client is closed


async def test_it_says_at_its_start_that_it_is_in_memory_and_at_its_end_what_is_lost(shop: Service) -> None:
    begun = asyncio.Event()

    @shop.on("orders")
    async def hang(_: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    with capture_logs() as logs:
        async with memory(shop) as mesh:
            await mesh.submit("order.placed", stream="orders")
            await mesh.submit("order.placed", stream="orders", delay=3600)
            await begun.wait()

    start, end = (log for log in logs if "PENSTOCK_BACKEND=memory" in log["event"])
    assert (start["log_level"], start["services"], start["without"]) == ("warning", ["shop"], ["mailer", "desk"])
    assert (end["log_level"], end["events"]) == ("warning", 2)
    with pytest.raises(RuntimeError, match="the client is not open"):
        await mesh.submit("order.placed", stream="orders")


async def test_a_job_is_watched_through_retries_to_its_end(shop: Service) -> None:
    ready = asyncio.Event()

    @shop.on("orders")
    async def fail_twice(_: Any, ctx: Context) -> int:
        await ready.wait()
        if ctx.attempt < 3:
            raise ConnectionError("the bank is away")
        return ctx.attempt

    async with memory(shop, job_started=True) as mesh:
        job = await mesh.submit("order.placed", stream="orders")
        changes = []
        async for change in job.watch():
            changes.append((change.state, change.attempts, change.error))
            ready.set()

    assert changes[0][0] in {"queued", "running"}
    assert changes[-5:] == [
        ("retrying", 1, "ConnectionError: the bank is away"),
        ("running", 2, None),
        ("retrying", 2, "ConnectionError: the bank is away"),
        ("running", 3, None),
        ("completed", 3, None),
    ]


async def test_a_snooze_uses_up_no_attempt_and_a_handler_may_say_when(shop: Service) -> None:
    snoozed: list[int] = []

    @shop.on("orders")
    async def handle(_: Any, ctx: Context) -> int:
        if not snoozed:
            snoozed.append(ctx.attempt)
            raise Snooze(0.01)
        if ctx.attempt == 1:
            raise TryAgain("once more", after=0.01)
        return ctx.attempt

    async with memory(shop) as mesh:
        job = await mesh.submit("order.placed", stream="orders", delay=0.01)
        assert (await job.status()).state == "queued"
        assert await job.result(DEADLINE) == 2
    assert snoozed == [1]


async def test_a_retry_waits_for_its_time(shop: Service) -> None:
    @shop.on("orders", retry=Retry(attempts=2, base=60, jitter=0))
    async def fail(_: Any, ctx: Context) -> None:
        assert ctx.attempt == 1
        raise ConnectionError("the bank is away")

    @shop.on("orders", type="order.other")
    async def other(_: Any) -> None: ...

    with capture_logs() as logs:
        async with memory(shop) as mesh:
            job = await mesh.submit("order.placed", stream="orders")
            async for change in job.watch():
                if change.state == "retrying":
                    break
            await (await mesh.submit("order.other", stream="orders")).result(DEADLINE)
            status = await job.status()

    assert (status.state, status.attempts, status.error) == ("retrying", 1, "ConnectionError: the bank is away")
    assert status.next_attempt_at is not None
    assert seconds_of(status.next_attempt_at) > time.time() + 30
    assert logs[-1]["events"] == 1


async def test_of_two_events_with_one_id_the_first_has_the_record(shop: Service) -> None:
    both = asyncio.Barrier(2)

    @shop.on("orders")
    async def handle(number: int) -> int:
        return number

    @shop.on("orders", type="order.last")
    async def last(_: Any) -> None:
        await both.wait()

    async with memory(shop, concurrency=1) as mesh:
        for number in (1, 2):
            await mesh.publish("orders", "order.placed", number, event_id="o-1")
        await mesh.publish("orders", "order.last")
        async with asyncio.timeout(DEADLINE):
            await both.wait()
        assert await mesh.job("o-1").result(DEADLINE) == 1


async def test_a_plain_function_runs_in_a_thread(shop: Service) -> None:
    @shop.on("orders")
    def handle(_: Any) -> bool:
        return threading.current_thread() is not threading.main_thread()

    async with memory(shop) as mesh:
        assert await (await mesh.submit("order.placed", stream="orders")).result(DEADLINE)


async def test_a_job_that_runs_says_so(shop: Service) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @shop.on("orders")
    async def handle(_: Any) -> None:
        begun.set()
        await go.wait()

    async with memory(shop) as mesh:
        job = await mesh.submit("order.placed", stream="orders")
        await begun.wait()
        assert (await job.status()).state == "running"
        with pytest.raises(TimeoutError, match="it goes on"):
            await job.result(0.01)
        go.set()
        assert await job.result(DEADLINE) is None
        assert (await job.status()).state == "completed"


async def test_progress_is_seen_by_who_watches_and_who_asks(shop: Service) -> None:
    go = threading.Event()

    @shop.on("orders")
    def handle(_: Any, ctx: Context) -> None:
        ctx.progress(0.4, "parsing")
        go.wait(DEADLINE)
        ctx.progress(0.9)

    async with memory(shop) as mesh:
        job = await mesh.submit("order.placed", stream="orders", tenant="acme")
        seen = []
        async with asyncio.timeout(DEADLINE):
            async for change in job.watch():
                seen.append((change.state, change.progress, change.note))
                if change.progress == 0.4:
                    status = await job.status()
                    go.set()

    assert (status.state, status.progress, status.note, status.attempts) == ("running", 0.4, "parsing", 1)
    assert seen[-3:] == [("running", 0.4, "parsing"), ("running", 0.9, None), ("completed", None, None)]


async def test_no_more_handlers_run_at_once_than_are_allowed(shop: Service) -> None:
    running_now, most, together = 0, 0, asyncio.Barrier(2)

    @shop.on("orders")
    async def handle(_: Any) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await together.wait()
        running_now -= 1

    async with memory(shop, concurrency=2) as mesh:
        jobs = await mesh.submit_all([NewJob("order.placed", stream="orders")] * 20)
        await asyncio.gather(*(job.result(DEADLINE) for job in jobs))
    assert most == 2


async def test_what_waits_is_cancelled_and_what_has_begun_is_not(shop: Service) -> None:
    ran: list[str] = []
    begun, go = asyncio.Event(), asyncio.Event()

    @shop.on("orders", retry=Retry(attempts=2, base=60, jitter=0))
    async def place(what: str, ctx: Context) -> None:
        ran.append(what)
        if what == "first":
            begun.set()
            await go.wait()
        raise ConnectionError("the bank is away")

    with capture_logs() as logs:
        async with memory(shop, concurrency=1) as mesh:
            names = ("first", "behind it", "later")
            jobs = [
                await mesh.submit("t", name, stream="orders", delay=3600 if name == "later" else None) for name in names
            ]
            first, waits, later = jobs
            await begun.wait()
            assert (await later.status()).next_attempt_at is not None
            with pytest.raises(NotCancelled, match="is running: what has begun goes on"):
                await first.cancel()
            with pytest.raises(NotCancelled, match="nothing is known of a job J-9"):
                await mesh.job("J-9").cancel()
            for job in (waits, later, waits):
                await job.cancel()
            go.set()
            async for change in first.watch():
                if change.state == "retrying":
                    await first.cancel()
            assert (change.state, change.attempts) == ("cancelled", 1)
            for job in jobs:
                with pytest.raises(JobCancelled):
                    await job.result(DEADLINE)
    assert ran == ["first"]
    assert logs[-1]["event"] == "attempt failed"  # and nothing was left that is lost


async def test_a_job_whose_second_attempt_runs_is_running_to_whoever_cancels_it(shop: Service) -> None:
    begun = asyncio.Event()

    @shop.on("orders")
    async def place(_: Any, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ConnectionError("the bank is away")
        begun.set()
        await asyncio.Event().wait()

    async with memory(shop) as mesh:
        job = await mesh.submit("t", stream="orders")
        await begun.wait()
        with pytest.raises(NotCancelled, match="is running"):
            await job.cancel()


# What handlers bring about


async def test_what_a_handler_emits_reaches_the_other_services_and_only_if_it_is_done(shop: Service) -> None:
    mailer, desk = Service("mailer"), Service("desk")
    seen: asyncio.Queue[Event] = asyncio.Queue()

    @shop.on("orders")
    async def place(_: Any, ctx: Context) -> None:
        await ctx.publish("news", "order.tried", ctx.attempt)
        ctx.emit("news", "order.placed", ctx.attempt)
        ctx.emit("mails", "mail.send", {"to": "a@b.c"}, delay=0.01)
        if ctx.attempt == 1:
            raise ConnectionError("no")

    @mailer.on("mails")
    async def send(mail: dict[str, str]) -> str:
        return mail["to"]

    @desk.on("news")
    async def note(event: Event) -> None:
        seen.put_nowait(event)

    @desk.on("events", type="job.*")
    async def report(event: Event) -> None:
        seen.put_nowait(event)

    async with memory(shop, mailer, desk) as mesh:
        job = await mesh.submit("order.placed", stream="orders", subject="o-1", tenant="acme")
        async with asyncio.timeout(DEADLINE):
            events = [await seen.get() for _ in range(6)]

    told = sorted(
        (event.type, event.json() if event.type.startswith("order") else event.json()["attempt"]) for event in events
    )
    assert told == [
        ("job.completed", 1),
        ("job.completed", 2),
        ("job.failed", 1),
        ("order.placed", 2),
        ("order.tried", 1),
        ("order.tried", 2),
    ]
    placed = next(event for event in events if event.type == "order.placed")
    assert (placed.cause, placed.subject, placed.tenant, placed.source) == (job.id, "o-1", "acme", "shop")
    assert len({event.trace.trace_id for event in events}) == 1


async def test_a_step_that_is_done_is_not_repeated_by_a_retry(shop: Service) -> None:
    charged: list[str] = []

    async def charge() -> int:
        charged.append("once")
        return len(charged)

    @shop.on("orders")
    async def place(_: Any, ctx: Context) -> list[int]:
        numbers = [await ctx.step("charge", charge), await ctx.step("charge", charge)]
        if ctx.attempt == 1:
            raise ConnectionError("after the steps")
        return numbers

    async with memory(shop) as mesh:
        assert await (await mesh.submit("order.placed", stream="orders")).result(DEADLINE) == [1, 2]
    assert len(charged) == 2

    async with memory(shop, checkpoint_enabled=False) as mesh:
        assert await (await mesh.submit("order.placed", stream="orders")).result(DEADLINE) == [5, 6]


async def test_the_dead_are_listed_with_their_reasons(shop: Service) -> None:
    @shop.on("orders", type="order.refused")
    async def refuse(_: Any) -> None:
        raise Reject("not with us")

    @shop.on("orders", type="order.failing")
    async def fail(_: Any) -> None:
        raise ConnectionError("the bank is away")

    desk = Service("desk")

    @desk.on("news", type="order.*")
    @desk.on("events", type="nothing")
    async def note(_: int) -> None: ...

    async with memory(shop, desk) as mesh:
        jobs = [await mesh.submit(f"order.{kind}", stream="orders") for kind in ("refused", "failing", "unheard.of")]
        ends = await asyncio.gather(*(job.result(DEADLINE) for job in jobs), return_exceptions=True)
        await mesh.publish("news", "weather.fine")  # facts that nobody asks for are skipped
        await mesh.publish("news", "order.placed", "no number")
        letters = await dead_letters(mesh, 4)
        newest = await mesh.dead_letters(limit=1)

    assert [(end.reason, end.letter) for end in ends if isinstance(end, JobDead)] == [
        (reason, next(letter.letter for letter in letters if letter.event_id == job.id))
        for job, reason in zip(jobs, ("rejected", "failed", "unhandled"), strict=True)
    ]
    told = {letter.type: (letter.group, letter.reason, letter.attempts, letter.error) for letter in letters}
    assert told["order.failing"] == ("shop", "failed", 3, "ConnectionError: the bank is away")
    assert told["order.placed"][:2] == ("desk", "invalid")
    assert newest == letters[:1]
    assert letters[0].event["data"] == '"no number"'


async def dead_letters(mesh: Penstock, count: int) -> list[DeadLetter]:
    async with asyncio.timeout(DEADLINE):
        while len(letters := await mesh.dead_letters()) < count:  # noqa: ASYNC110 - a death of facts sends no signal
            await asyncio.sleep(0)
        return letters


async def test_a_dead_letter_queue_that_is_off_keeps_nothing(shop: Service) -> None:
    @shop.on("orders")
    async def refuse(_: Any) -> None:
        raise Reject("not with us")

    async with memory(shop, dlq_enabled=False) as mesh:
        with pytest.raises(JobDead, match="not with us") as dead:
            await (await mesh.submit("order.placed", stream="orders")).result(DEADLINE)
        assert (dead.value.letter, await mesh.dead_letters()) == (None, [])


async def test_a_batch_handler_takes_what_has_come_and_the_one_to_blame_fails_alone(shop: Service) -> None:
    sizes: list[int] = []

    @shop.on("orders", batch=50)
    async def count(prices: list[int], ctx: BatchContext) -> None:
        sizes.append(len(prices))
        if 13 in prices:
            raise ValueError("13")
        for event, price in zip(ctx.events, prices, strict=True):
            ctx.state.incrby("sum", price)
            ctx.emit(event, "news", "counted", price)

    async with memory(shop) as mesh:
        jobs = await mesh.submit_all([NewJob("order.placed", price, "orders") for price in range(100)])
        ends = await asyncio.gather(*(job.result(DEADLINE) for job in jobs), return_exceptions=True)
        assert mesh.memory.state("shop", "sum") == str(sum(range(100)) - 13)

    assert [price for price, end in enumerate(ends) if end is not None] == [13]
    assert max(sizes) > 1


# State


async def test_state_is_kept_and_seen_by_a_test(shop: Service) -> None:
    @shop.on("orders")
    async def keep(price: int, ctx: Context) -> None:
        ctx.state.hincrby("counts", "orders")
        ctx.state.sadd("prices", str(price))
        ctx.state.zadd("best", {"a": float(price)})
        if ctx.attempt == 1:
            raise ConnectionError("nothing of a run that fails is kept")

    async with memory(shop) as mesh:
        for price in (3, 4):
            await (await mesh.submit("order.placed", price, stream="orders")).result(DEADLINE)
        state = mesh.memory.state
        assert (state("shop", "counts"), state("shop", "prices"), state("shop", "best"), state("shop", "x")) == (
            {"orders": "2"},
            {"3", "4"},
            {"a": 4.0},
            None,
        )


async def test_a_guard_that_does_not_hold_has_the_handler_run_again(shop: Service) -> None:
    runs: list[int] = []
    together = asyncio.Barrier(2)

    @shop.on("orders")
    async def add(price: int, ctx: Context) -> None:
        before = (mesh.memory.state("shop", "sum") or {}).get("all")
        runs.append(price)
        if len(runs) <= 2:
            await together.wait()
        ctx.state.expect("sum", "all", before)
        ctx.state.hset("sum", {"all": int(before or 0) + price})

    async with memory(shop) as mesh:
        jobs = [await mesh.submit("order.placed", price, stream="orders") for price in (3, 4)]
        await asyncio.gather(*(job.result(DEADLINE) for job in jobs))
        assert mesh.memory.state("shop", "sum") == {"all": "7"}
        assert {(await job.status()).attempts for job in jobs} == {1}
    assert len(runs) == 3


async def test_a_handler_that_never_waits_lets_others_change_what_it_is_guarded_by(shop: Service) -> None:
    runs: list[str] = []

    @shop.on("orders")
    async def wait(is_ready: bool, ctx: Context) -> None:
        runs.append(ctx.event.type)
        if is_ready:
            ctx.state.hset("doors", {"front": "open"})
        else:
            ctx.state.expect("doors", "front", "open")

    async with memory(shop) as mesh:
        waiting = await mesh.submit("order.placed", False, stream="orders")
        ready = await mesh.submit("order.placed", True, stream="orders")
        await asyncio.gather(waiting.result(DEADLINE), ready.result(DEADLINE))


async def test_a_guard_on_what_is_no_hash_is_the_end_of_its_event(shop: Service) -> None:
    @shop.on("orders")
    async def mistake(_: Any, ctx: Context) -> None:
        ctx.state.expect("doors", "front", "open")
        ctx.state.set("doors", "open")

    @shop.on("orders", type="order.first")
    async def first(_: Any, ctx: Context) -> None:
        ctx.state.set("doors", "open")

    async with memory(shop) as mesh:
        await (await mesh.submit("order.first", stream="orders")).result(DEADLINE)
        with pytest.raises(JobDead, match="invalid: effects: the key holds a text, not a hash"):
            await (await mesh.submit("order.placed", stream="orders")).result(DEADLINE)


async def test_effects_that_cannot_be_are_the_end_of_their_event_and_nothing_of_them_happens(shop: Service) -> None:
    @shop.on("orders")
    async def mistake(_: Any, ctx: Context) -> None:
        ctx.state.hincrby("counts", "a")
        ctx.state.sadd("counts", "a")

    async with memory(shop) as mesh:
        job = await mesh.submit("order.placed", stream="orders")
        with pytest.raises(JobDead, match=r"invalid: effects: SADD state:shop:counts: the key holds a hash, not a set"):
            await job.result(DEADLINE)
        assert mesh.memory.state("shop", "counts") is None


async def test_a_handler_that_wants_redis_is_told_that_there_is_none(shop: Service) -> None:
    @shop.on("orders")
    async def read(_: Any, ctx: Context) -> None:
        await ctx.redis.hgetall(ctx.state.key("counts"))

    async with memory(shop) as mesh:
        with pytest.raises(JobDead, match=r"ctx\.redis\.hgetall: there is no Redis with PENSTOCK_BACKEND=memory"):
            await (await mesh.submit("order.placed", stream="orders")).result(DEADLINE)


# Breakers


async def test_what_needs_a_dependency_that_is_away_waits_and_uses_up_no_attempt(shop: Service) -> None:
    away = True
    mailer, desk = Service("mailer"), Service("desk")
    changes: asyncio.Queue[str] = asyncio.Queue()

    @shop.on("orders", retry=Retry(attempts=50, base=0.001, jitter=0))
    async def place(_: Any, ctx: Context) -> int:
        async with ctx.breaker("bank"):
            if away:
                raise ConnectionError("the bank is away")
        return ctx.attempt

    @mailer.on("mails", type="mail.send", needs=["bank"])
    async def send(_: Any, ctx: Context) -> int:
        assert not away, "it has not waited for the breaker"
        return ctx.attempt

    @desk.on("news")
    @desk.on("events", type="breaker.*")
    async def note(event: Event) -> None:
        changes.put_nowait(event.type)

    async with memory(shop, mailer, desk, breaker_failure_threshold=2, breaker_recovery_timeout=1.0) as mesh:
        job = await mesh.submit("order.placed", stream="orders")
        async with asyncio.timeout(DEADLINE):
            assert await changes.get() == "breaker.opened"
            mail = await mesh.submit("mail.send", stream="mails")
            other = await mesh.submit("mail.other", stream="mails", subject="it has come after the mail")
            with pytest.raises(JobDead, match="unhandled"):
                await other.result(DEADLINE)
            away = False
            assert await job.result(DEADLINE) == 3
            assert await mail.result(DEADLINE) == 1
            seen = [await changes.get() for _ in range(1)]
    assert seen == ["breaker.half_open"]


# Ways in


async def test_an_idempotency_key_submits_once(shop: Service) -> None:
    runs: list[int] = []

    @shop.on("orders")
    async def place(price: int) -> int:
        runs.append(price)
        return price

    async with memory(shop) as mesh:
        jobs = [await mesh.submit("order.placed", 7, stream="orders", idempotency_key="cart-42") for _ in range(3)]
        assert [await job.result(DEADLINE) for job in jobs] == [7, 7, 7]
        with pytest.raises(DuplicateConflict, match="for another payload"):
            await mesh.submit("order.placed", 8, stream="orders", idempotency_key="cart-42")
        with pytest.raises(InvalidEvent, match="delay is 0 to"):
            await mesh.submit("order.placed", 8, stream="orders", delay=-1)

    assert runs == [7]
    assert len({job.id for job in jobs}) == 1
    assert [job.duplicate for job in jobs] == [False, True, True]


def test_the_client_for_threads_has_the_same_mesh(shop: Service) -> None:
    @shop.on("orders")
    async def place(price: int) -> int:
        if price < 0:
            raise Reject("no such price")
        return price

    topology, settings = parse(MESH), Settings(backend="memory")
    with sync.Penstock.connect(topology=topology, settings=settings, services=[shop]) as mesh:
        job = mesh.submit("order.placed", 7, stream="orders")
        assert (job.result(DEADLINE), job.durability) == (7, "process")
        with pytest.raises(JobDead):
            mesh.submit("order.placed", -1, stream="orders").result(DEADLINE)
        assert [letter.error for letter in mesh.dead_letters()] == ["no such price"]


async def test_two_clients_are_two_meshes(shop: Service) -> None:
    @shop.on("orders")
    async def place(price: int) -> int:
        return price

    async with memory(shop) as one, memory(shop) as other:
        job = await one.submit("order.placed", 7, stream="orders")
        assert await job.result(DEADLINE) == 7
        assert (await other.job(job.id).status()).state == "queued"


async def test_services_of_streams_yaml_run_and_programs_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "streams.yaml").write_text(
        MESH.replace("  shop:\n", "  shop:\n    run: memory_shop:service\n").replace(
            "mailer: {", "mailer: {run: penstock_services.worker, "
        )
    )
    (tmp_path / "memory_shop.py").write_text(
        "from penstock import Service\nservice = Service('shop')\n\n\n"
        "@service.on('orders')\nasync def place(price: int) -> int:\n    return price\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_ENABLED", "false")
    with capture_logs() as logs:
        async with Penstock.connect() as mesh:
            job = await mesh.submit("order.placed", 7, stream="orders")
            assert (await job.result(DEADLINE), job.durability) == (7, "process")
    assert (logs[0]["services"], logs[0]["without"]) == (["shop"], ["mailer", "desk"])


# What is refused


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: [Service("stranger")], "services.stranger is missing"),
        (lambda: [Service("shop")], "services.shop.consumes lists orders, which no handler of the service reads"),
        (lambda: [tasked()], "service shop has tasks, which are given Redis, and PENSTOCK_BACKEND=memory has none"),
        (lambda: [handling(), handling()], "service shop is there twice"),
        (lambda: None, "streams.yaml names no service that can run in this process"),
    ],
    ids=["stranger", "no handler", "tasks", "twice", "none"],
)
async def test_services_that_cannot_run_here_are_refused(make: Callable[[], list[Service] | None], says: str) -> None:
    mesh = Penstock.connect(topology=parse(MESH), settings=Settings(backend="memory"), services=make())
    with pytest.raises(ConfigurationError, match=says):
        await mesh.__aenter__()


def handling() -> Service:
    service = Service("shop")

    @service.on("orders")
    async def place(_: Any) -> None: ...

    return service


def tasked() -> Service:
    service = handling()

    @service.task
    async def tick(_: Any) -> None: ...

    return service


def test_what_belongs_to_the_one_backend_is_refused_by_the_other() -> None:
    with pytest.raises(ConfigurationError, match="connect\\(\\) is given a server, and PENSTOCK_BACKEND=memory"):
        Penstock.connect("redis://127.0.0.1:1/0", topology=parse(MESH), settings=Settings(backend="memory"))
    with pytest.raises(ConfigurationError, match="beside Redis a service is a process of its own"):
        Penstock.connect(topology=parse(MESH), settings=Settings(), services=[])


async def test_a_mesh_that_cannot_reach_its_redis_does_not_fall_back_to_memory(shop: Service) -> None:
    settings = Settings(redis_url="redis://127.0.0.1:1/0", redis_retry=0.01)
    async with Penstock.connect(topology=parse(MESH), settings=settings) as mesh:
        with pytest.raises(Unavailable, match="cannot connect"):
            await mesh.submit("order.placed", stream="orders")
        assert mesh.durability == "memory"  # of Redis: what an answer would have said
        with pytest.raises(ConfigurationError, match="this mesh is in Redis"):
            _ = mesh.memory


async def test_what_asks_redis_is_told_that_there_is_none(shop: Service) -> None:
    handled = handling()
    async with memory(handled) as mesh:
        status, _, body = await Status(mesh).answer({"type": "http", "method": "GET", "path": "/status"}, "status")
        with pytest.raises(
            ConfigurationError, match="PENSTOCK_BACKEND=memory: what is kept in a database goes to Redis"
        ):
            await publish_kept(mesh, [KeptEvent(id="o-1", type="order.placed", data="1", stream="orders")])

    assert (status, b"this needs Redis, and PENSTOCK_BACKEND=memory has none" in body) == (501, True)


async def test_a_service_that_fails_takes_nothing_more(shop: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    handled = handling()

    def fail(*_: Any) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(Dispatcher, "accept", fail)
    async with memory(handled) as mesh:
        await mesh.submit("order.placed", stream="orders")
        with pytest.raises(Unavailable, match=r"service shop has failed: .*a mistake of ours"):
            await publish_forever(mesh)


async def publish_forever(mesh: Penstock) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            await mesh.publish("news", "tick")
            await asyncio.sleep(0)
