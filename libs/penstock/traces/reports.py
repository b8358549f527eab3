"""Reports: events by which a group tells how an attempt at another event, their cause, went."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from penstock.errors import UNREADABLE
from penstock.traces.model import AttemptState
from penstock.traces.records import Record

STARTED = "job.started"
OUTCOMES: dict[str, AttemptState] = {
    "job.completed": "completed",
    "job.failed": "failed",
    "job.snoozed": "snoozed",
    "job.dead": "dead",
    "job.cancelled": "cancelled",
    "delivery.sent": "completed",
    "delivery.failed": "failed",
    "delivery.dead": "dead",
}
REPORTS = frozenset({STARTED, *OUTCOMES})

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Reported(msgspec.Struct):
    """What a report says: parts of JobEvent and DeliveryAttempt, read leniently: anybody may write to a stream."""

    attempt: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1
    job_type: str = ""
    channel: str | None = None
    queue_wait: _Seconds | None = None
    duration: _Seconds | None = None
    latency: _Seconds | None = None
    error: str | None = None
    reason: str | None = None
    next_attempt_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None

    @property
    def ran(self) -> float | None:
        """Seconds that the attempt ran, as far as its group tells."""
        return self.latency if self.duration is None else self.duration

    @property
    def spent_ms(self) -> float:
        """How long the attempt waited and ran, in ms."""
        return 1000 * ((self.queue_wait or 0.0) + (self.ran or 0.0))


class AttemptReport(msgspec.Struct, frozen=True, eq=False):
    """A report, and what it tells."""

    event: Record
    reported: Reported


_decode = msgspec.json.Decoder(Reported).decode


def read(data: bytes) -> Reported:
    """Read a report's data; one that cannot be read still tells, by its type, how the attempt ended."""
    try:
        return _decode(data)
    except UNREADABLE:
        return Reported()
