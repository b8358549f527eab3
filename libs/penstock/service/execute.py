"""Running a handler on an event and telling what became of it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import traceback
from typing import Any

import msgspec

from penstock.errors import ConfigurationError, InvalidEvent, Reject, Snooze, TryAgain
from penstock.resilience.retry import Retry
from penstock.service.context import Context, current
from penstock.service.handlers import Handler

_MOST_TEXT = 2_000
_MOST_TRACEBACK = 8_000


class Done(msgspec.Struct, frozen=True):
    """The handler returned `result`."""

    result: Any = None


class Retried(msgspec.Struct, frozen=True):
    """The handler failed and is tried again after `delay` seconds; a snooze uses up no attempt."""

    delay: float
    error: str
    snoozed: bool = False


class Dead(msgspec.Struct, frozen=True):
    """The event goes to the dead letters.

    `reason` is one word: invalid, unhandled, rejected or failed. `fingerprint` is the same for failures
    of the same kind: event type, reason and place, and a digest of the message without its numbers.
    """

    reason: str
    error: str
    traceback: str = ""
    fingerprint: str = ""


Outcome = Done | Retried | Dead


class Policy(msgspec.Struct, frozen=True):
    """How a handler's failures are treated, with streams.yaml and the decorator both considered."""

    retry: Retry
    timeout: float


async def execute(handler: Handler, context: Context, policy: Policy) -> Outcome:
    """Run `handler` on the event of `context`. Only being cancelled is not turned into an outcome."""
    event = context.event
    current.set(context)
    try:
        data = handler.decode(event)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        return dead(event.type, "invalid", f"data: {error}")
    try:
        return Done(await call(handler, data, context, policy.timeout))
    except Snooze as snooze:
        return Retried(snooze.seconds, "snoozed", snoozed=True)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a handler raises is its outcome
        return judge(error, event.type, context.attempt, policy.retry)


async def call(handler: Handler, data: Any, context: Any, timeout: float) -> Any:
    """Call the function, in a thread if it is a plain one, for at most `timeout` seconds."""
    arguments = (data, context) if handler.takes_context else (data,)
    async with asyncio.timeout(timeout):
        if handler.is_async:
            return await handler.function(*arguments)
        return await asyncio.to_thread(handler.function, *arguments)


def judge(error: BaseException, event_type: str, attempt: int, retry: Retry) -> Outcome:
    """Decide what becomes of an event whose handler raised `error` on attempt number `attempt`."""
    if isinstance(error, Reject):
        return dead(event_type, "rejected", error.reason, error)
    if isinstance(error, ConfigurationError | InvalidEvent):
        return dead(event_type, "invalid", str(error), error)
    if attempt >= retry.attempts:
        return dead(event_type, "failed", _describe(error), error)
    delay = retry.delay(attempt)
    if isinstance(error, TryAgain) and error.after is not None:
        delay = error.after
    return Retried(delay, _describe(error))


def dead(event_type: str, reason: str, message: str, error: BaseException | None = None) -> Dead:
    """Make a dead letter's verdict, with traceback and fingerprint."""
    trace = "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:] if error else ""
    place = _place(error)
    normalised = re.sub(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+", "N", message)
    digest = hashlib.blake2b(f"{place}\0{normalised}".encode(errors="replace"), digest_size=4).hexdigest()
    return Dead(
        reason=reason,
        error=message[:_MOST_TEXT].encode(errors="replace").decode(),
        traceback=trace.encode(errors="replace").decode(),
        fingerprint=":".join(filter(None, (event_type, reason, place, digest))),
    )


def _describe(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "TimeoutError: the handler ran out of time"
    if isinstance(error, TryAgain):
        return error.reason[:_MOST_TEXT]
    text = f"{type(error).__name__}: {error}"[:_MOST_TEXT]
    return text.encode(errors="replace").decode()


def _place(error: BaseException | None) -> str:
    """Name the function that raised: the innermost frame."""
    if error is None or error.__traceback__ is None:
        return ""
    frame = traceback.extract_tb(error.__traceback__, limit=-1)[-1]
    return frame.name
