"""Running handlers: from an event in hand to its outcome and effects, with nothing of Redis in it."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import structlog

from penstock.event import Event
from penstock.retry import Retry
from penstock.service.context import BatchContext, Context
from penstock.service.effects import Effects, Scope
from penstock.service.handlers import Handler
from penstock.service.outcome import Dead, Done, Outcome, Retried, judge, unreadable
from penstock.service.spans import tell_batch, tell_run
from penstock.telemetry.current import current
from penstock.topology import Subscription

OutcomeHook = Callable[[Context, Outcome], None]
StartHook = Callable[[Context], Any]

_log = structlog.get_logger("penstock.execute")
# All that reading data into an annotated type may raise.
_UNREADABLE = (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Policy(msgspec.Struct, frozen=True):
    """How a handler's failures are treated, with streams.yaml and the decorator both considered."""

    retry: Retry
    timeout: float

    @classmethod
    def of(cls, handler: Handler, subscription: Subscription) -> Policy:
        """Return what holds for `handler`: its own word before that of streams.yaml."""
        return cls(handler.retry or subscription.retry, handler.timeout or subscription.timeout)


class Hooks(msgspec.Struct, frozen=True):
    """What a service wants to do around every single-event handler."""

    on_start: tuple[StartHook, ...] = ()
    on_outcome: tuple[OutcomeHook, ...] = ()


class Concluded(msgspec.Struct, frozen=True):
    """A handler run that is over: its outcome, and the effects to settle with it."""

    outcome: Outcome
    effects: Effects


async def execute(handler: Handler, context: Context, policy: Policy, hooks: Hooks) -> Concluded:
    """Run `handler`, and the hooks around it, on the event of `context`.

    Only being cancelled from outside is not turned into an outcome.
    """
    return conclude(context, await _outcome(handler, context, policy, hooks), policy, hooks)


def conclude(context: Context, outcome: Outcome, policy: Policy, hooks: Hooks) -> Concluded:
    """Add to an outcome what outcome hooks have to say; only a handler that is done has effects of its own."""
    if isinstance(outcome, Done):
        context.forget_steps()
    else:
        context = context.failed(keep=not (isinstance(outcome, Retried) and outcome.snoozed))
    try:
        for hook in hooks.on_outcome:
            hook(context, outcome)
    except Exception as error:  # noqa: BLE001 - a hook failed: so did this attempt, if it had not already
        _log.error("an outcome hook failed", event_id=context.event.id, exc_info=error)
        context = context.failed()
        if isinstance(outcome, Done):
            outcome = judge(error, context.event.type, context.attempt, policy.retry)
    if isinstance(outcome, Dead):
        outcome = msgspec.structs.replace(outcome, traceparent=context.trace.traceparent)
    context.effects.seal()
    tell_run(context, outcome, context.scope)
    return Concluded(outcome, context.effects)


async def execute_batch(
    handler: Handler, scope: Scope, batch: Sequence[tuple[Event, int]], policy: Policy
) -> AsyncIterator[tuple[list[int], Concluded]]:
    """Run a batch handler on events, each with the number of its attempt.

    Yields indexes of events with what became of them. If the handler fails on several it runs on each alone:
    one of them is to blame, and only that one fails.
    """
    good: list[tuple[int, Any]] = []
    for index, (event, attempt) in enumerate(batch):
        try:
            good.append((index, handler.decode(event)))
        except Exception as error:  # noqa: BLE001 - whatever a type's own code raises is the outcome
            yield [index], Concluded(_misfit(error, event, attempt, policy), Effects(scope))
    if len(good) > 1:
        context = BatchContext(scope, [batch[index][0] for index, _ in good])
        started_at = time.time_ns()
        if await _error_of(handler, [data for _, data in good], context, policy.timeout) is None:
            tell_batch(context, scope, handler.stream, started_at)
            yield [index for index, _ in good], Concluded(Done(), context.effects)
            return
    for index, data in good:
        event, attempt = batch[index]
        context = BatchContext(scope, [event])
        started_at = time.time_ns()
        failure = await _error_of(handler, [data], context, policy.timeout)
        if failure is None:
            tell_batch(context, scope, handler.stream, started_at)
            yield [index], Concluded(Done(), context.effects)
        else:
            yield [index], Concluded(judge(failure, event.type, attempt, policy.retry), Effects(scope))


async def _outcome(handler: Handler, context: Context, policy: Policy, hooks: Hooks) -> Outcome:
    event = context.event
    current.set(context)
    if context.scope.telemetry.enabled:
        context.scope.telemetry.activate(context.trace)
    try:
        for hook in hooks.on_start:
            await hook(context)
        try:
            data = handler.decode(event)
        except Exception as error:  # noqa: BLE001 - whatever a type's own code raises is the outcome
            return _misfit(error, event, context.attempt, policy)
        return Done(await _call(handler, data, context, policy.timeout))
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        if _cancelled_from_outside(error):
            raise
        return judge(error, event.type, context.attempt, policy.retry)


def _misfit(error: Exception, event: Event, attempt: int, policy: Policy) -> Outcome:
    if isinstance(error, _UNREADABLE):
        return unreadable(error, event.type)
    return judge(error, event.type, attempt, policy.retry)


async def _error_of(handler: Handler, items: list[Any], context: BatchContext, timeout: float) -> BaseException | None:
    """Call a batch handler; return what it raised. Its context takes no effects afterwards."""
    try:
        await _call(handler, items, context, timeout)
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        if _cancelled_from_outside(error):
            raise
        return error
    finally:
        context.effects.seal()
    return None


def _cancelled_from_outside(error: BaseException) -> bool:
    """Whether this task is being cancelled, rather than a handler having let one of its own escape."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _call(handler: Handler, data: Any, context: Any, timeout: float) -> Any:
    """Call the function, in a thread if it is a plain one, for at most `timeout` seconds."""
    arguments = (data, context) if handler.takes_context else (data,)
    async with asyncio.timeout(timeout):
        if handler.is_async:
            return await handler.function(*arguments)
        result = await asyncio.to_thread(_in_thread, handler.function, arguments)
        # A decorator may have wrapped an async function in a plain one.
        return await result if inspect.isawaitable(result) else result


def _in_thread(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:  # no future can carry it: whoever awaits would wait for ever
        raise RuntimeError("the handler raised StopIteration") from error
