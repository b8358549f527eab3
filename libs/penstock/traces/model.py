"""A trace as people and programs see it.

Durations are in seconds, times RFC 3339 in UTC. An `offset` is in seconds after the start of the trace, by the
server's clock, which counts in ms.
"""

from __future__ import annotations

from typing import Literal

import msgspec

TraceState = Literal["completed", "running", "delayed", "queued", "dead"]
AttemptState = Literal["completed", "failed", "snoozed", "dead", "cancelled", "running", "delayed", "queued"]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a group at an event, made or yet to be made.

    It took `elapsed` from when it began to wait, at `offset`; of that it waited `queue_wait` and ran for
    `duration`, where the group says so; the rest is settling. `due` is when the next attempt may run, or
    this one if it is delayed. `crashes` counts the processes that died with it in flight. `dead_letter` is the id
    of its dead letter and `replayed` when that was given back to the group: later attempts count from 1 again.
    `channel` is that of a delivery.
    """

    number: int
    outcome: AttemptState
    channel: str | None = None
    offset: float
    elapsed: float
    queue_wait: float | None = None
    duration: float | None = None
    error: str | None = None
    reason: str | None = None
    due: str | None = None
    consumer: str | None = None
    crashes: int = 0
    dead_letter: str | None = None
    replayed: str | None = None


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """An event as a group fared with it; without attempts, the group has left no more than its position."""

    group: str
    state: TraceState
    attempts: tuple[Attempt, ...] = ()


class TracedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a trace.

    `parent` is the id of the event that led to it and `depth` how many are above it; `via` is the type of
    the report through which it did, if it was one (an alert about a job's death). `missing` says that only
    what it led to was found. `due` is set while it waits to be published. `links` are ids of other traces
    that it comes from.
    """

    id: str
    type: str
    stream: str
    entry: str
    source: str
    time: str
    offset: float
    depth: int = 0
    parent: str | None = None
    via: str | None = None
    subject: str | None = None
    tenant: str | None = None
    trace_id: str
    links: tuple[str, ...] = ()
    missing: bool = False
    due: str | None = None
    hops: tuple[Hop, ...] = ()


class TraceSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A trace in one line. `type` is that of its first event, `attempts` counts those that are over.

    `error` says why it is dead.
    """

    trace_id: str
    state: TraceState
    type: str
    started: str
    duration: float
    events: int
    attempts: int
    error: str | None = None


class TraceList(msgspec.Struct, frozen=True, kw_only=True):
    """Recent traces, the newest first; `notes` say what was not looked at."""

    traces: tuple[TraceSummary, ...]
    notes: tuple[str, ...]


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A whole trace: its events from the first on, each followed by what it led to.

    `trace_ids` begins with its own; the others are those of its replays, each of which is a trace of its
    own to tracing tools. While it is open it lasts until `now`. `notes` say what is not shown and why.
    """

    trace_id: str
    trace_ids: tuple[str, ...]
    state: TraceState
    type: str
    started: str
    now: str
    duration: float
    attempts: int
    events: tuple[TracedEvent, ...]
    notes: tuple[str, ...]
