"""Every error Penstock raises on purpose.

PenstockError
├── ConfigurationError      a file, variable or declaration is wrong: stops at start-up
├── UnsuitableRedis         the server is too old or set up so that events would be lost
├── Unavailable             Redis cannot be reached or refuses writes now: try again
│   └── SpoolFull           and what local disk may hold in its place, it holds
├── RestartNeeded           too many threads hang: only a new process can go on
├── InvalidEvent            an entry or payload breaks the event format
├── JobDead                 a job that somebody waits for was given up
├── JobCancelled            a job that somebody waits for was cancelled
├── NotCancelled            a job cannot be cancelled any more, or was not found
├── NoRecord                a job that somebody waits for is over, and nothing says how
├── AmbiguousEvent          several sources have an event of this id: say which one
└── Directive               raised by a handler to say what is to become of its event
    ├── Snooze              hand it to me again later; no attempt is used up
    ├── Reject              it can never succeed: dead-letter it now
    └── TryAgain            this attempt failed; says when the next may run
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from penstock.times import check_delay

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that msgspec raises of what it cannot read: it is no JSON, not of that form, no UTF-8, nested too deep."""


class PenstockError(Exception):
    """Base of every error raised on purpose."""


class ConfigurationError(PenstockError):
    """A file, environment variable or declaration is wrong. The message says what to change."""


class UnsuitableRedis(PenstockError):
    """The Redis server is too old, or set up in a way that loses events."""


class Unavailable(PenstockError):
    """Redis cannot take the command now. `reason` is one short phrase, such as `out of memory`.

    `is_denial`: it is this user who may not do that, and others can go on.
    """

    def __init__(self, reason: str, *, is_denial: bool = False) -> None:
        super().__init__(f"Redis is unavailable: {reason}")
        self.reason = reason
        self.is_denial = is_denial


class SpoolFull(Unavailable):
    """Redis is away, and the spool takes no more."""


def trouble_of_redis(error: BaseException) -> Unavailable | None:
    """Return why Redis could not serve, if that is what a handler failed with: in what it was given, not its own.

    Redis is then away for everybody: neither an event nor a dependency is to blame.
    """
    return error if isinstance(error, Unavailable) else getattr(error, "unavailable", None)


class RestartNeeded(PenstockError):
    """So many threads of handlers hang that only a new process can go on."""


class InvalidEvent(PenstockError):
    """An entry or payload breaks the event format; the message names the field."""


class JobDead(PenstockError):
    """A job was given up.

    `reason` is one word (invalid, unhandled, rejected, failed, crashed), `error` what was said last, `letter` the id of
    its dead letter (`penstock dlq show`), if there still is one.
    """

    def __init__(self, job_id: str, *, reason: str, error: str, letter: str | None) -> None:
        super().__init__(f"job {job_id} is dead: {reason}{': ' if error else ''}{error}")
        self.job_id = job_id
        self.reason = reason
        self.error = error
        self.letter = letter


class JobCancelled(PenstockError):
    """A job was cancelled before it had an end."""


class NotCancelled(PenstockError):
    """A job cannot be cancelled. `state` is what has become of it, None if nothing is known of it."""

    def __init__(self, message: str, *, state: str | None) -> None:
        super().__init__(message)
        self.state = state


class NoRecord(PenstockError):
    """A job is over, and there is no record of how: it has expired, or none was made."""


class AmbiguousEvent(PenstockError):
    """Several events have this id, each of another source."""

    def __init__(self, event_id: str, sources: Sequence[str]) -> None:
        self.sources = sources
        super().__init__(
            f"{len(sources)} sources have an event {event_id}: {', '.join(sources)}; say which one is meant"
        )


class Directive(PenstockError):
    """Base of what a handler raises to say what is to become of its event."""


class Snooze(Directive):
    """Hand this event back after `seconds`, without using up an attempt.

    Negative, NaN or more than a year is a ValueError: an error of the handler, as any other.
    """

    def __init__(self, seconds: float) -> None:
        check_delay("a snooze", seconds)
        super().__init__(f"snoozed for {seconds} s")
        self.seconds = seconds


class Reject(Directive):
    """Dead-letter this event now: trying again cannot help."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TryAgain(Directive):
    """This attempt failed, try again: like any other exception, but with a say in when.

    `after` is the delay in seconds, such as a server's Retry-After; None leaves it to the retry policy. Negative,
    NaN or more than a year is a ValueError: the attempt has failed of that.
    """

    def __init__(self, reason: str, *, after: float | None = None) -> None:
        if after is not None:
            check_delay("after", after)
        super().__init__(reason)
        self.reason = reason
        self.after = after
