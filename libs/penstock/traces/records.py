"""Entries: what the places of Redis say of an event, without its data."""

from __future__ import annotations

import msgspec

from penstock.dlq import dead_letter
from penstock.event import (
    RETRY_ATTEMPT,
    RETRY_CRASHES,
    RETRY_ENTRY,
    RETRY_ERROR,
    UNKNOWN_SOURCE,
    identity,
    trace_of,
    unique_id,
)
from penstock.text import number
from penstock.times import entry_ms
from penstock.trace_context import TraceContext

Place = tuple[str, str]

# The fields that are read, in the order in which the functions below take their values.
EVENT = ("type", "id", "source", "subject", "tenant", "cause", "causesource", "traceparent", "links")
PARKED = (*EVENT, RETRY_ENTRY, RETRY_ATTEMPT, RETRY_CRASHES, RETRY_ERROR)
DEAD = (
    *EVENT,
    dead_letter.STREAM,
    dead_letter.GROUP,
    dead_letter.ENTRY,
    dead_letter.ATTEMPTS,
    dead_letter.REASON,
    dead_letter.ERROR,
)


class Record(msgspec.Struct, frozen=True, eq=False):
    """An event as one place in Redis has it. `time` is when the server took it, in ms since the epoch.

    `due` is set while it waits to be published, in ms; it then has no `entry_id` yet.
    """

    stream: str
    entry_id: str
    time: int
    type: str
    id: str
    source: str
    subject: str
    tenant: str
    cause: str
    trace_id: str
    causesource: str = ""
    links: tuple[str, ...] = ()
    due: int | None = None

    @property
    def place(self) -> Place:
        """What tells it from every other event, also from those under the same id."""
        return self.stream, self.entry_id or f"scheduled {unique_id(self.source, self.id)}"


class Parked(msgspec.Struct, frozen=True, eq=False):
    """An event that a group will try again: delayed until `due` (ms), or due and in its retry stream."""

    event: Record
    group: str
    attempt: int
    crashes: int
    error: str
    due: int | None = None
    retry_id: str | None = None

    @property
    def retry_time(self) -> int:
        """When it came into the retry stream, in ms."""
        return entry_ms(self.retry_id or "")


class DeadRecord(msgspec.Struct, frozen=True, eq=False):
    """A dead letter. `time` is when the server took it, in ms; `replayed` when it was given back."""

    event: Record
    group: str
    dead_letter: str
    time: int
    attempts: int
    reason: str
    error: str
    replayed: str | None = None


def read_event(stream: str, entry_id: str, values: list[str], *, due: int | None = None) -> Record:
    """Read an event from the values of EVENT."""
    event_type, event_id, source, subject, tenant, cause, causesource, traceparent, links = values[: len(EVENT)]
    event_id = event_id or identity(stream, entry_id)
    source = source or UNKNOWN_SOURCE
    return Record(
        stream=stream,
        entry_id=entry_id,
        time=entry_ms(entry_id) if due is None else due,
        type=event_type,
        id=event_id,
        source=source,
        subject=subject,
        tenant=tenant,
        cause=cause,
        causesource=causesource,
        trace_id=trace_of(traceparent, source, event_id).trace_id,
        links=tuple(link.trace_id for link in map(TraceContext.parse, links.split()) if link) if links else (),
        due=due,
    )


def read_parked(
    stream: str, group: str, values: list[str], entry_id: str, *, due: int | None = None, retry_id: str | None = None
) -> Parked:
    """Read what a group will try again from the values of PARKED."""
    origin, attempt, crashes, error = values[len(EVENT) :]
    event = read_event(stream, origin or entry_id, values)
    return Parked(event, group, number(attempt) or 1, number(crashes), error, due, retry_id)


def read_dead(dead_letter: str, values: list[str]) -> DeadRecord:
    """Read a dead letter from the values of DEAD."""
    stream, group, entry_id, attempts, reason, error = values[len(EVENT) :]
    event = read_event(stream, entry_id, values)
    return DeadRecord(event, group, dead_letter, entry_ms(dead_letter), number(attempts), reason, error)
