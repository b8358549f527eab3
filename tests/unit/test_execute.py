"""What becomes of an event, from how its handler ends."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import (
    BatchContext,
    ConfigurationError,
    Context,
    Event,
    InvalidEvent,
    Reject,
    Retry,
    Service,
    Snooze,
    TryAgain,
    Unavailable,
)
from penstock.service.effects import Effects, Scope
from penstock.service.execute import Concluded, Hooks, Policy, conclude, execute, execute_batch
from penstock.service.handlers import Handler
from penstock.service.outcome import Dead, Done, Outcome, Retried, crashed, dead, outcome_of, unhandled
from penstock.testing.doubles import Checkpoints
from tests.scopes import make_context, make_event, make_scope

RETRY = Retry(attempts=3, base=2.0, jitter=0)
POLICY = Policy(retry=RETRY, timeout=20)
NO_HOOKS = Hooks()


class Ticket(msgspec.Struct):
    ticket_id: str


def handler_of(function: Callable[..., Any], **options: Any) -> Handler:
    service = Service("worker")
    service.on("ingest", **options)(function)
    found = service.handlers.find("ingest", "t")
    assert found is not None
    return found


async def run(
    function: Callable[..., Any],
    data: object = None,
    *,
    attempt: int = 1,
    policy: Policy = POLICY,
    hooks: Hooks = NO_HOOKS,
    scope: Scope | None = None,
) -> Concluded:
    context = make_context(make_event(data=data, id="T-1"), scope, attempt=attempt)
    return await execute(handler_of(function), context, policy, hooks)


def raising(error: BaseException) -> Callable[..., Any]:
    async def handler(data: Any) -> None:
        raise error

    return handler


def types(effects: Effects) -> list[str]:
    return [output.fields[1] for output in effects.outputs]


# Outcomes


async def test_what_a_handler_returns_is_the_result_of_a_done_event() -> None:
    async def handler(ticket: Ticket) -> str:
        return ticket.ticket_id

    assert (await run(handler, {"ticket_id": "T-9"})).outcome == Done("T-9")


async def test_plain_functions_run_in_a_thread() -> None:
    def handler(data: Any) -> str:
        return threading.current_thread().name

    outcome = (await run(handler)).outcome

    assert isinstance(outcome, Done)
    assert outcome.result != threading.current_thread().name


async def test_an_async_function_behind_a_plain_decorator_is_awaited() -> None:
    async def handler(data: Any) -> str:
        return "awaited"

    @functools.wraps(handler)
    def decorated(data: Any) -> Any:
        return handler(data)

    assert (await run(decorated)).outcome == Done("awaited")


@pytest.mark.parametrize("attempt", [1, 2])
async def test_any_exception_is_tried_again_by_the_policy(attempt: int) -> None:
    outcome = (await run(raising(KeyError("x")), attempt=attempt)).outcome

    assert outcome == Retried(RETRY.delay(attempt), "KeyError: 'x'")


async def test_the_last_attempt_that_fails_is_dead() -> None:
    outcome = (await run(raising(KeyError("x")), attempt=3)).outcome

    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.error) == ("failed", "KeyError: 'x'")
    assert "raise error" in outcome.traceback
    assert outcome.fingerprint.startswith("t:failed:handler:")


@pytest.mark.parametrize("attempt", [1, 3, 99])
async def test_a_snooze_comes_back_as_often_as_it_likes(attempt: int) -> None:
    outcome = (await run(raising(Snooze(30)), attempt=attempt)).outcome

    assert outcome == Retried(30, "snoozed", snoozed=True)


@pytest.mark.parametrize("attempt", [1, 3, 99])
async def test_no_event_is_to_blame_for_redis_being_away(attempt: int) -> None:
    outcome = (await run(raising(Unavailable("out of memory")), attempt=attempt)).outcome

    assert isinstance(outcome, Retried)
    assert (outcome.snoozed, outcome.error) == (True, "Redis is unavailable: out of memory")


async def test_a_reject_is_dead_at_once() -> None:
    outcome = (await run(raising(Reject("no such customer")))).outcome

    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.error) == ("rejected", "no such customer")


async def test_try_again_has_a_say_in_when() -> None:
    assert (await run(raising(TryAgain("429", after=77)))).outcome == Retried(77, "429")
    assert (await run(raising(TryAgain("503")))).outcome == Retried(RETRY.delay(1), "503")


async def test_try_again_is_an_attempt_like_any_other() -> None:
    outcome = (await run(raising(TryAgain("503", after=1)), attempt=3)).outcome

    assert isinstance(outcome, Dead)
    assert outcome.reason == "failed"


async def emits(seconds: float, ctx: Context) -> None:
    ctx.emit("events", "later", delay=seconds)


async def snoozes(seconds: float, ctx: Context) -> None:
    raise Snooze(seconds)


async def tries_again(seconds: float, ctx: Context) -> None:
    raise TryAgain("busy", after=seconds)


@pytest.mark.parametrize("seconds", ["-1", "-1e-9", "31536001", "nan", "inf", "-inf"])
@pytest.mark.parametrize(("function", "what"), [(emits, "delay"), (snoozes, "a snooze"), (tries_again, "after")])
async def test_a_senseless_delay_is_an_error_of_the_handler(
    function: Callable[[float, Context], Awaitable[None]], what: str, seconds: str
) -> None:
    async def handler(data: Any, ctx: Context) -> None:
        await function(float(seconds), ctx)

    first, last = [(await run(handler, attempt=attempt)).outcome for attempt in (1, 3)]

    said = f"ValueError: {what} is 0 to 31,536,000 seconds, not {float(seconds)}"
    assert first == Retried(RETRY.delay(1), said)
    assert isinstance(last, Dead)
    assert (last.reason, last.error) == ("failed", said)


@pytest.mark.parametrize("seconds", [0, 0.5, 31_536_000])
async def test_a_delay_may_be_anything_up_to_a_year(seconds: float) -> None:
    assert (await run(raising(Snooze(seconds)))).outcome == Retried(seconds, "snoozed", snoozed=True)
    assert (await run(raising(TryAgain("busy", after=seconds)))).outcome == Retried(seconds, "busy")


async def test_a_policy_without_a_bound_waits_for_a_year_at_most() -> None:
    policy = Policy(Retry(attempts=99, base=1, max=float("inf"), jitter=0), timeout=20)

    assert (await run(raising(KeyError("x")), attempt=60, policy=policy)).outcome == Retried(
        31_536_000, "KeyError: 'x'"
    )


@pytest.mark.parametrize("error", [ConfigurationError("publishes lacks x"), InvalidEvent("data: no")])
async def test_what_trying_again_cannot_mend_is_dead_at_once(error: Exception) -> None:
    outcome = (await run(raising(error))).outcome

    assert isinstance(outcome, Dead)
    assert (outcome.reason, outcome.error) == ("invalid", str(error))


async def test_a_handler_that_runs_out_of_time_has_failed() -> None:
    async def handler(data: Any) -> None:
        await asyncio.Event().wait()

    outcome = (await run(handler, policy=Policy(RETRY, timeout=0.01))).outcome

    assert outcome == Retried(RETRY.delay(1), "TimeoutError: the handler ran out of time")


async def test_a_time_out_of_the_handlers_own_keeps_its_words() -> None:
    outcome = (await run(raising(TimeoutError("crm did not answer")))).outcome

    assert outcome == Retried(RETRY.delay(1), "TimeoutError: crm did not answer")


@pytest.mark.parametrize("error", [SystemExit(1), SystemExit("bye")])
async def test_a_handler_cannot_exit_the_process(error: SystemExit) -> None:
    outcome = (await run(raising(error))).outcome

    assert isinstance(outcome, Retried)
    assert outcome.error.startswith("SystemExit")


async def test_a_plain_handler_cannot_exit_the_process_either() -> None:
    def handler(data: Any) -> None:
        raise SystemExit(3)

    assert (await run(handler)).outcome == Retried(RETRY.delay(1), "SystemExit: 3")


async def test_a_stop_iteration_in_a_thread_does_not_hang() -> None:
    def handler(data: Any) -> None:
        next(iter(()))

    outcome = (await run(handler)).outcome

    assert isinstance(outcome, Retried)
    assert "StopIteration" in outcome.error


async def test_a_cancelled_error_from_within_is_a_failure_like_any_other() -> None:
    async def handler(data: Any) -> None:
        inner = asyncio.ensure_future(asyncio.Event().wait())
        inner.cancel()
        await inner

    outcome = (await run(handler)).outcome

    assert isinstance(outcome, Retried)
    assert outcome.error.startswith("CancelledError")


async def test_being_cancelled_from_outside_is_no_outcome() -> None:
    started = asyncio.Event()

    async def handler(data: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run(handler))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Data


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'{"ticket_id": 1}', "data: Expected `str`, got `int` - at `$.ticket_id`"),
        (b"{}", "data: Object missing required field `ticket_id`"),
        (b"{", "data: Input data was truncated"),
        (b'{"ticket_id": "\xff"}', "data: 'utf-8' codec can't decode"),
        (b"null", "data: Expected `object`, got `null`"),
    ],
)
async def test_data_that_does_not_fit_is_dead_with_the_field_named(data: bytes, complaint: str) -> None:
    async def handler(ticket: Ticket) -> None:
        raise AssertionError("it must not run")

    outcome = (await run(handler, data)).outcome

    assert isinstance(outcome, Dead)
    assert outcome.reason == "invalid"
    assert outcome.error.startswith(complaint)


async def test_data_nested_without_end_is_dead() -> None:
    async def handler(data: Any) -> None: ...

    outcome = (await run(handler, b"[" * 5000 + b"]" * 5000)).outcome

    assert isinstance(outcome, Dead)
    assert outcome.reason == "invalid"


@given(st.binary(max_size=60))
async def test_no_data_makes_execution_fail(data: bytes) -> None:
    async def handler(ticket: Ticket) -> str:
        return ticket.ticket_id

    outcome = (await run(handler, data)).outcome

    assert isinstance(outcome, Done | Dead)


# Effects


async def test_a_handler_that_fails_has_no_effects() -> None:
    async def handler(data: Any, ctx: Context) -> None:
        ctx.emit("events", "half")
        ctx.state.incrby("half")
        raise KeyError("x")

    effects = (await run(handler)).effects

    assert (effects.outputs, effects.operations) == ([], [])


async def test_a_plain_handler_whose_time_is_over_can_bring_about_nothing_more() -> None:
    timed_out, tried = threading.Event(), threading.Event()
    refusals: list[Exception] = []

    def handler(data: Any, ctx: Context) -> None:
        timed_out.wait(20)
        for effect in (lambda: ctx.emit("events", "late"), lambda: ctx.state.incrby("late")):
            try:
                effect()
            except RuntimeError as error:
                refusals.append(error)
        tried.set()

    effects = (await run(handler, policy=Policy(RETRY, timeout=0.01))).effects
    timed_out.set()

    assert await asyncio.to_thread(tried.wait, 20)
    assert len(refusals) == 2
    assert (effects.outputs, effects.operations) == ([], [])


async def test_a_task_that_outlives_its_handler_can_bring_about_nothing_more() -> None:
    left: list[Context] = []

    async def handler(data: Any, ctx: Context) -> None:
        left.append(ctx)

    concluded = await run(handler)

    assert concluded.outcome == Done()
    with pytest.raises(RuntimeError, match="this run of the handler is over"):
        left[0].emit("events", "late")
    assert concluded.effects.outputs == []


async def test_a_done_event_leaves_no_checkpoint_and_a_failed_one_does() -> None:
    async def result() -> int:
        return 5

    async def done(data: Any, ctx: Context) -> None:
        await ctx.step("one", result)

    async def failed(data: Any, ctx: Context) -> None:
        await ctx.step("one", result)
        raise KeyError("x")

    key = "checkpoint:worker:redis-cli:T-1"
    week, then = 604_800_000, 2_000
    assert (await run(done)).effects.operations == [["DEL", key]]
    assert (await run(failed)).effects.operations == [["PEXPIRE", key, str(week + then), "GT"]]
    assert (await run(failed, attempt=3)).effects.operations == [["PEXPIRE", key, str(week), "GT"]]


# Hooks


def telling(seen: list[Outcome]) -> Callable[[Context, Outcome], None]:
    def hook(context: Context, outcome: Outcome) -> None:
        seen.append(outcome)
        context.report("events", f"told.{type(outcome).__name__.lower()}")

    return hook


@pytest.mark.parametrize(
    ("error", "attempt", "told"),
    [(None, 1, "told.done"), (KeyError(), 1, "told.retried"), (KeyError(), 3, "told.dead")],
)
async def test_outcome_hooks_tell_of_every_outcome(error: Exception | None, attempt: int, told: str) -> None:
    async def handler(data: Any, ctx: Context) -> None:
        ctx.emit("events", "effect")
        if error is not None:
            raise error

    seen: list[Outcome] = []
    concluded = await run(handler, attempt=attempt, hooks=Hooks(on_outcome=(telling(seen),)))

    assert len(seen) == 1
    assert types(concluded.effects) == (["effect", told] if error is None else [told])


async def test_the_report_of_each_attempt_is_an_event_of_its_own() -> None:
    hooks = Hooks(on_outcome=(telling([]),))
    ids = [
        (await run(raising(KeyError()), attempt=attempt, hooks=hooks)).effects.outputs[0].fields[5]
        for attempt in (1, 2, 2)
    ]

    assert ids[0] != ids[1]
    assert ids[1] == ids[2]


async def test_a_start_hook_that_fails_fails_the_attempt() -> None:
    async def refuse(context: Context) -> None:
        raise Reject("not today")

    async def handler(data: Any) -> None:
        raise AssertionError("it must not run")

    outcome = (await run(handler, hooks=Hooks(on_start=(refuse,)))).outcome

    assert isinstance(outcome, Dead)
    assert outcome.error == "not today"


def broken(context: Context, outcome: Outcome) -> None:
    context.state.incrby("half")
    raise ValueError("the hook is broken")


async def test_an_outcome_hook_that_fails_fails_an_attempt_that_had_succeeded() -> None:
    async def handler(data: Any, ctx: Context) -> None:
        ctx.emit("events", "effect")

    concluded = await run(handler, hooks=Hooks(on_outcome=(broken,)))

    assert concluded.outcome == Retried(RETRY.delay(1), "ValueError: the hook is broken")
    assert (concluded.effects.outputs, concluded.effects.operations) == ([], [])


async def test_an_outcome_hook_that_fails_leaves_another_outcome_as_it_is() -> None:
    concluded = await run(raising(Snooze(5)), hooks=Hooks(on_outcome=(broken,)))

    assert concluded.outcome == Retried(5, "snoozed", snoozed=True)
    assert concluded.effects.operations == []


def test_an_event_that_nobody_handles_is_told_of_too() -> None:
    seen: list[Outcome] = []
    verdict = unhandled("worker", "ingest", "t")
    concluded = conclude(make_context(), verdict, POLICY, Hooks(on_outcome=(telling(seen),)))

    assert isinstance(concluded.outcome, Dead)
    assert concluded.outcome.error == "no handler of worker takes t on ingest"
    assert types(concluded.effects) == ["told.dead"]


# Batches


async def run_batch(
    function: Callable[..., Any], *datas: object, attempt: int = 1, policy: Policy = POLICY
) -> list[tuple[list[int], Concluded]]:
    batch = [(make_event(data=data, id=f"T-{index}"), attempt) for index, data in enumerate(datas)]
    handler = handler_of(function, batch=100)
    parts = await execute_batch(handler, make_scope(), batch, policy)
    for index in sorted(set(range(len(batch))) - {index for indexes, _ in parts for index in indexes}):
        [(_, alone)] = await execute_batch(handler, make_scope(), [batch[index]], policy)
        parts.append(([index], alone))
    return parts


async def test_a_batch_that_succeeds_is_done_as_one() -> None:
    async def handler(tickets: list[Ticket], ctx: BatchContext) -> None:
        for event, ticket in zip(ctx.events, tickets, strict=True):
            ctx.emit(event, "events", f"seen.{ticket.ticket_id}")

    parts = await run_batch(handler, *({"ticket_id": str(number)} for number in range(3)))

    assert [(indexes, concluded.outcome) for indexes, concluded in parts] == [([0, 1, 2], Done())]
    assert types(parts[0][1].effects) == ["seen.0", "seen.1", "seen.2"]


async def test_of_a_batch_that_fails_only_the_culprit_does() -> None:
    async def handler(numbers: list[int], ctx: BatchContext) -> None:
        for event, number in zip(ctx.events, numbers, strict=True):
            ctx.emit(event, "events", f"seen.{number}")
            if number == 1:
                raise KeyError("one")

    parts = await run_batch(handler, 0, 1, 2)

    assert [(indexes, type(concluded.outcome)) for indexes, concluded in parts] == [
        ([0], Done),
        ([1], Retried),
        ([2], Done),
    ]
    assert [types(concluded.effects) for _, concluded in parts] == [["seen.0"], [], ["seen.2"]]


async def test_data_that_does_not_fit_leaves_the_rest_of_a_batch_alone() -> None:
    seen: list[list[int]] = []

    async def handler(numbers: list[int]) -> None:
        seen.append(numbers)

    parts = await run_batch(handler, 0, "one", 2, b"[" * 5000)

    assert seen == [[0, 2]]
    assert [(indexes, type(concluded.outcome)) for indexes, concluded in parts] == [
        ([1], Dead),
        ([3], Dead),
        ([0, 2], Done),
    ]


async def test_each_event_of_a_failing_batch_is_concluded_once() -> None:
    async def handler(numbers: list[int]) -> None:
        raise KeyError("all of them")

    parts = await run_batch(handler, 0, "one", 2)

    assert sorted(index for indexes, _ in parts for index in indexes) == [0, 1, 2]


async def test_a_batch_handler_may_snooze_its_events() -> None:
    async def handler(numbers: list[int]) -> None:
        raise Snooze(9)

    parts = await run_batch(handler, 0, attempt=99)

    assert parts[0][1].outcome == Retried(9, "snoozed", snoozed=True)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(1), TimeoutError()])
async def test_nothing_a_batch_handler_raises_escapes(error: BaseException) -> None:
    async def handler(numbers: list[int]) -> None:
        raise error

    parts = await run_batch(handler, 0, 1)

    assert [type(concluded.outcome) for _, concluded in parts] == [Retried, Retried]


async def test_a_batch_is_cancelled_from_outside_without_an_outcome() -> None:
    started = asyncio.Event()

    async def handler(numbers: list[int]) -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run_batch(handler, 0, 1))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Picky(msgspec.Struct):
    number: int

    def __post_init__(self) -> None:
        if self.number == 1:
            raise KeyError("picky")


async def test_a_type_whose_own_code_fails_is_a_failure_of_its_event_alone() -> None:
    async def one(item: Picky) -> None: ...

    async def many(items: list[Picky]) -> None: ...

    parts = await run_batch(many, {"number": 0}, {"number": 1})

    assert isinstance((await run(one, {"number": 1})).outcome, Retried)
    assert [type(concluded.outcome) for _, concluded in parts] == [Retried, Done]


# Verdicts


@given(st.text(), st.text(), st.integers(1, 9))
def test_a_verdict_can_always_be_written(message: str, event_type: str, attempt: int) -> None:
    outcome = outcome_of(KeyError(message), event_type, attempt, RETRY)

    assert not isinstance(outcome, Done)
    (outcome.error + getattr(outcome, "traceback", "")).encode()


def test_half_a_surrogate_in_an_error_can_be_written() -> None:
    for outcome in (outcome_of(KeyError("\ud800"), "t", attempt, RETRY) for attempt in (1, 3)):
        assert not isinstance(outcome, Done)
        assert outcome.error.encode() == b"KeyError: '\\ud800'"
    assert dead("t", "rejected", "\ud800").error == "?"
    assert outcome_of(TryAgain("\ud800"), "t", 1, RETRY) == Retried(2.0, "?")


def test_long_errors_are_cut() -> None:
    outcome = dead("t", "failed", "x" * 100_000, KeyError("y" * 100_000))

    assert len(outcome.error) == 2_000
    assert len(outcome.traceback) == 8_000


def refuse(message: str) -> None:
    raise ValueError(message)


def test_a_fingerprint_is_short_however_long_the_type_is() -> None:
    assert len(dead("t" * 1_000_000, "failed", "why").fingerprint) < 300
    assert len(crashed("t" * 1_000_000, 3).fingerprint) < 300


def test_failures_of_one_kind_share_a_fingerprint() -> None:
    def failure(message: str) -> str:
        with pytest.raises(ValueError, match=message) as caught:
            refuse(message)
        return dead("t", "failed", message, caught.value).fingerprint

    assert failure("order 17 at 0x7f00ff") == failure("order 23 at 0x11aa22")
    assert failure("order 17") != failure("customer 17")
    assert failure("x").startswith("t:failed:refuse:")


def test_every_event_is_seen_by_an_untyped_handler() -> None:
    async def handler(event: Event) -> None: ...

    event = make_event(data=b"\xff")

    assert handler_of(handler).decode(event) is event


async def test_a_step_that_was_done_before_is_not_among_those_that_run() -> None:
    checkpoints = Checkpoints()

    async def result() -> int:
        return 5

    async def handler(data: Any, ctx: Context) -> int:
        return await ctx.step("one", result)

    assert (await run(handler, scope=make_scope(checkpoints=checkpoints))).outcome == Done(5)
    assert (await run(handler, scope=make_scope(checkpoints=checkpoints))).outcome == Done(5)
    assert checkpoints.take(["redis-cli:T-1"]) == ["one"]
