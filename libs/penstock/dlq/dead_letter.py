"""A dead letter: the event, and why its group gave up on it, as fields of an entry.

This is the one place that spells `dlq.*` fields. The scripts that write or read them do so by the same names,
which a test holds them to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import msgspec

from penstock.errors import InvalidEvent
from penstock.event import RETRY_FIELDS, UNKNOWN_SOURCE, identity, unfold, unique_id
from penstock.text import number
from penstock.times import rfc3339

PREFIX = "dlq."
STREAM, GROUP, ENTRY = "dlq.stream", "dlq.group", "dlq.entry"
REASON, ERROR, ATTEMPTS, TIME = "dlq.reason", "dlq.error", "dlq.attempts", "dlq.time"
FINGERPRINT, TRACEPARENT, TRACEBACK = "dlq.fingerprint", "dlq.traceparent", "dlq.traceback"


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: the event, which group gave up on it, and why.

    `letter` is its id in the queue. `entry` is the id it had in `stream`. `replayed` is when it was given
    back to its group, None if it was not. `traceparent` is the span of the run that failed.
    """

    letter: str
    event_id: str
    type: str
    stream: str
    group: str
    entry: str
    reason: str
    error: str
    attempts: int
    time: str
    fingerprint: str
    traceback: str = ""
    traceparent: str = ""
    replayed: str | None = None
    event: dict[str, str] = {}

    @property
    def source(self) -> str:
        """The event's source."""
        return self.event.get("source") or UNKNOWN_SOURCE

    @property
    def unique_id(self) -> str:
        """What tells its event from every other one."""
        return unique_id(self.source, self.event_id)


def encode(
    *,
    stream: str,
    group: str,
    entry: str,
    reason: str,
    error: str,
    attempts: int,
    time: float,
    fingerprint: str,
    traceparent: str = "",
    traceback: str = "",
) -> list[str]:
    """Return the fields that are put behind an entry's own when it goes to the dead letters.

    They are always these ten in this order. `time` is now, in seconds since the epoch.
    """
    fields = {
        STREAM: stream,
        GROUP: group,
        ENTRY: entry,
        REASON: reason,
        ERROR: error,
        ATTEMPTS: str(attempts),
        TIME: rfc3339(time),
        FINGERPRINT: fingerprint,
        TRACEPARENT: traceparent,
        TRACEBACK: traceback,
    }
    return [part for pair in fields.items() for part in pair]


def decode(letter: bytes, fields: Mapping[bytes, bytes], replayed: str | None) -> DeadLetter:
    """Read an entry of the queue; what somebody else put there is shown as far as it can be read."""
    fields = dict(fields)
    folded = fields.get(RETRY_FIELDS.encode())
    if folded is not None:
        with contextlib.suppress(InvalidEvent):  # it is shown as it is
            own = unfold([RETRY_FIELDS.encode(), folded])
            del fields[RETRY_FIELDS.encode()]
            fields = dict(zip(own[::2], own[1::2], strict=True)) | fields
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    stream, entry = text.get(STREAM, ""), text.get(ENTRY, "")
    return DeadLetter(
        letter=letter.decode(),
        event_id=text.get("id") or identity(stream, entry),
        type=text.get("type", ""),
        stream=stream,
        group=text.get(GROUP, ""),
        entry=entry,
        reason=text.get(REASON, ""),
        error=text.get(ERROR, ""),
        attempts=number(text.get(ATTEMPTS, "")),
        time=text.get(TIME, ""),
        fingerprint=text.get(FINGERPRINT, ""),
        traceback=text.get(TRACEBACK, ""),
        traceparent=text.get(TRACEPARENT, ""),
        replayed=replayed,
        event={name: value for name, value in text.items() if not name.startswith(PREFIX)},
    )
