"""What becomes of an event, from how its handler ended."""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.errors import ConfigurationError, InvalidEvent, Reject, Snooze, TryAgain, trouble_of_redis
from penstock.retry import Retry
from penstock.text import described, writable
from penstock.times import LONGEST_DELAY

_MOST_TEXT = 2_000
_MOST_TRACEBACK = 8_000
_MOST_TYPE = 255  # characters of an event's type in a fingerprint: by XADD it may be of any length
_WHILE_AWAY = 1.0  # seconds until a handler that needed Redis runs again


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

    `reason` is one word: invalid, unhandled, rejected, failed or crashed. `fingerprint` is the same for failures
    of the same kind: event type, reason and place, and a digest of the message without its numbers.
    `traceparent` is the span of the run that failed, for a replay to link to.
    """

    reason: str
    error: str
    traceback: str = ""
    fingerprint: str = ""
    traceparent: str = ""


Outcome = Done | Retried | Dead


def outcome_of(error: BaseException, event_type: str, attempt: int, retry: Retry) -> Outcome:
    """Decide what becomes of an event whose handler raised `error` on attempt number `attempt`."""
    if isinstance(error, Snooze):
        return Retried(error.seconds, "snoozed", snoozed=True)
    away = trouble_of_redis(error)
    if away is not None:
        return Retried(_WHILE_AWAY, str(away), snoozed=True)
    if isinstance(error, Reject):
        return dead(event_type, "rejected", error.reason, error)
    if isinstance(error, ConfigurationError | InvalidEvent):
        return dead(event_type, "invalid", str(error), error)
    if attempt >= retry.attempts:
        return dead(event_type, "failed", _describe(error), error)
    delay = retry.delay(attempt)
    if isinstance(error, TryAgain) and error.after is not None:
        delay = error.after
    return Retried(min(delay, LONGEST_DELAY), _describe(error))


def unreadable(error: Exception, event_type: str) -> Dead:
    """Return the outcome for an event whose data does not fit its handler."""
    return dead(event_type, "invalid", f"data: {error}")


def unhandled(service: str, stream: str, event_type: str) -> Dead:
    """Return the outcome for an event that no handler of a group wants, where each is a demand."""
    return dead(event_type, "unhandled", f"no handler of {service} takes {event_type} on {stream}")


def early(seconds: float) -> Retried:
    """Return the outcome for an event whose producer wants it to be handled later (`at`, `in`)."""
    return Retried(min(seconds, LONGEST_DELAY), "not due yet", snoozed=True)


def crashed(event_type: str, deaths: int) -> Dead:
    """Return the outcome for an event that so many processes died with, the last of them with nothing else in hand."""
    error = f"the process died {deaths} times with this event in flight, the last time alone"
    return Dead(reason="crashed", error=error, fingerprint=f"crashed:{event_type[:_MOST_TYPE]}")


def parked(needs: Sequence[str], seconds: float) -> Retried:
    """Return the outcome for an event whose handler waits for circuit breakers; it has not been tried."""
    return Retried(seconds, f"waiting for {', '.join(needs)}", snoozed=True)


def dead(event_type: str, reason: str, message: str, error: BaseException | None = None) -> Dead:
    """Return the outcome of an event that is given up, with traceback and fingerprint."""
    trace = "".join(traceback.format_exception(error))[-_MOST_TRACEBACK:] if error else ""
    place = _place(error)
    normalised = re.sub(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+", "N", message)
    digest = hashlib.blake2b(f"{place}\0{normalised}".encode(errors="replace"), digest_size=4).hexdigest()
    return Dead(
        reason=reason,
        error=writable(message[:_MOST_TEXT]),
        traceback=writable(trace),
        fingerprint=":".join(filter(None, (event_type[:_MOST_TYPE], reason, place, digest))),
    )


def _describe(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "TimeoutError: the handler ran out of time"
    return writable(error.reason[:_MOST_TEXT]) if isinstance(error, TryAgain) else described(error, most=_MOST_TEXT)


def _place(error: BaseException | None) -> str:
    """Name the function that raised: the innermost frame."""
    if error is None or error.__traceback__ is None:
        return ""
    frame = traceback.extract_tb(error.__traceback__, limit=-1)[-1]
    return frame.name
