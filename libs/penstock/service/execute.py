"""Running handlers: from an event in flight to its outcome and effects, with nothing of Redis in it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from penstock.errors import UNREADABLE
from penstock.event import Event
from penstock.retry import Retry
from penstock.service import forks
from penstock.service.context import BatchContext, Context
from penstock.service.effects import Effects, Scope
from penstock.service.handlers import Handler
from penstock.service.outcome import Dead, Done, Outcome, Retried, outcome_of, unreadable
from penstock.service.spans import record_batch, record_run
from penstock.service.time_limits import TimeLimit
from penstock.telemetry.current import current
from penstock.topology import Subscription

OutcomeHook = Callable[[Context, Outcome], None]
StartHook = Callable[[Context], Any]
ResultHook = Callable[[Any], None]

_log = structlog.get_logger("penstock.execute")


class Policy(msgspec.Struct, frozen=True):
    """How a handler's failures are treated, with streams.yaml and the decorator both considered."""

    retry: Retry
    timeout: float

    @classmethod
    def of(cls, handler: Handler, subscription: Subscription) -> Policy:
        """Return what holds for `handler`: its own word before that of streams.yaml."""
        return cls(handler.retry or subscription.retry, handler.timeout or subscription.timeout)


class Hooks(msgspec.Struct, frozen=True):
    """What is done around every single-event handler of a stream."""

    on_start: tuple[StartHook, ...] = ()
    on_result: tuple[ResultHook, ...] = ()
    on_outcome: tuple[OutcomeHook, ...] = ()


class Concluded(msgspec.Struct, frozen=True):
    """A handler run that is over: its outcome, and the effects to settle with it. `context`: a handler was due."""

    outcome: Outcome
    effects: Effects
    context: Context | BatchContext | None = None


async def execute(handler: Handler, context: Context, policy: Policy, hooks: Hooks) -> Concluded:
    """Run `handler`, and the hooks around it, on the event of `context`.

    Only being cancelled from outside is not turned into an outcome.
    """
    current.set(context)
    event = context.event
    outcome: Outcome
    try:
        for hook in hooks.on_start:
            await hook(context)
        try:
            data = handler.decode(event)
        except Exception as error:  # noqa: BLE001 - whatever a type's own code raises is the outcome
            outcome = _misfit(error, event, context.attempt, policy)
        else:
            result = await _call(handler, data, context, policy.timeout)
            for check in hooks.on_result:
                check(result)
            outcome = Done(result)
    except BaseException as error:
        if _comes_from_outside(error):
            raise
        outcome = outcome_of(error, event.type, context.attempt, policy.retry)
    if context.says_progress:
        await context.scope.progress.settle(event)
    return conclude(context, outcome, policy, hooks)


def conclude(context: Context, outcome: Outcome, policy: Policy, hooks: Hooks) -> Concluded:
    """Add to an outcome what outcome hooks have to say; only a handler that is done has effects of its own."""
    if type(outcome) is not Done:
        context = context.failed(keep=not (isinstance(outcome, Retried) and outcome.snoozed))
    if hooks.on_outcome:
        try:
            for hook in hooks.on_outcome:
                hook(context, outcome)
        except Exception as error:  # noqa: BLE001 - a hook failed: so did this attempt, if it had not already
            _log.error("an outcome hook failed", event_id=context.event.id, exc_info=error)
            context = context.failed()
            if isinstance(outcome, Done):
                outcome = outcome_of(error, context.event.type, context.attempt, policy.retry)
    if isinstance(outcome, Dead):
        outcome = msgspec.structs.replace(outcome, traceparent=context.trace.traceparent)
    context.settle_steps(outcome)
    context.effects.seal()
    record_run(context, outcome, context.scope)
    return Concluded(outcome, context.effects, context)


async def execute_batch(
    handler: Handler, scope: Scope, batch: Sequence[tuple[Event, int]], policy: Policy
) -> list[tuple[list[int], Concluded]]:
    """Run a batch handler on events, each with the number of its attempt.

    Returns indexes of events with what became of them. Events that are missing from it have failed together:
    each is to run alone, for one of them is to blame, and only that one fails.
    """
    concluded: list[tuple[list[int], Concluded]] = []
    readable: list[int] = []
    items: list[Any] = []
    for index, (event, attempt) in enumerate(batch):
        try:
            items.append(handler.decode(event))
            readable.append(index)
        except Exception as error:  # noqa: BLE001 - whatever a type's own code raises is the outcome
            told = BatchContext(scope, [event])
            concluded.append(([index], Concluded(_misfit(error, event, attempt, policy), told.effects, told)))
    if not readable:
        return concluded
    context = BatchContext(scope, [batch[index][0] for index in readable])
    failure = await _error_of(handler, items, context, policy.timeout)
    if failure is None:
        record_batch(context, scope, handler.stream)
        concluded.append((readable, Concluded(Done(), context.effects, context)))
    elif len(readable) == 1:
        event, attempt = batch[readable[0]]
        outcome = outcome_of(failure, event.type, attempt, policy.retry)
        told = context.failed()
        concluded.append((readable, Concluded(outcome, told.effects, told)))
    return concluded


def _misfit(error: Exception, event: Event, attempt: int, policy: Policy) -> Outcome:
    if isinstance(error, UNREADABLE):
        return unreadable(error, event.type)
    return outcome_of(error, event.type, attempt, policy.retry)


async def _error_of(handler: Handler, items: list[Any], context: BatchContext, timeout: float) -> BaseException | None:
    """Call a batch handler; return what it raised. Its context takes no effects afterwards."""
    try:
        await _call(handler, items, context, timeout)
    except BaseException as error:
        if _comes_from_outside(error):
            raise
        return error
    finally:
        context.effects.seal()
    return None


def _comes_from_outside(error: BaseException) -> bool:
    """Whether this run is being stopped, rather than its handler having let an exception of its own escape.

    What a handler raises is that handler's outcome, also where it would end a program: SystemExit,
    KeyboardInterrupt, GeneratorExit, or a CancelledError of something that it awaited.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, GeneratorExit)  # it is being closed: see _call


async def _call(handler: Handler, data: Any, context: Any, timeout: float) -> Any:
    """Call the function, in a thread if it is a plain one, for at most `timeout` seconds from when it begins.

    Raises:
        TimeoutError: its time was over.
    """
    arguments = (data, context) if handler.takes_context else (data,)
    limits = context.scope.time_limits
    limit = limits.start(timeout, begun=handler.is_async)
    try:
        if handler.is_async:
            return await handler.function(*arguments)
        result = await asyncio.to_thread(_in_thread, handler.function, arguments, limit)
        # A decorator may have wrapped an async function in a plain one.
        return await result if inspect.isawaitable(result) else result
    except asyncio.CancelledError:
        if limit.over and limit.task.uncancel() == 0:
            raise TimeoutError from None
        raise
    except GeneratorExit as error:
        if _current_task() is limit.task:  # its own
            raise RuntimeError("the handler raised GeneratorExit") from error
        raise
    finally:
        forks.end_if_child()
        limits.end(limit)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # the loop has ended
        return None


def _in_thread(function: Callable[..., Any], arguments: tuple[Any, ...], limit: TimeLimit) -> Any:
    limit.begin()
    try:
        return function(*arguments)
    except (StopIteration, GeneratorExit) as error:  # no future can carry them to who awaits it
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error
