"""A dead letter: the event, and why its group gave up on it, as fields of an entry."""

from __future__ import annotations

import msgspec

from penstock.event import identity


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


def _decode(letter: bytes, fields: dict[bytes, bytes], replayed: str | None) -> DeadLetter:
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    stream, entry = text.get("dlq.stream", ""), text.get("dlq.entry", "")
    attempts = text.get("dlq.attempts", "")
    return DeadLetter(
        letter=letter.decode(),
        event_id=text.get("id") or identity(stream, entry),
        type=text.get("type", ""),
        stream=stream,
        group=text.get("dlq.group", ""),
        entry=entry,
        reason=text.get("dlq.reason", ""),
        error=text.get("dlq.error", ""),
        attempts=int(attempts) if attempts.isdecimal() else 0,
        time=text.get("dlq.time", ""),
        fingerprint=text.get("dlq.fingerprint", ""),
        traceback=text.get("dlq.traceback", ""),
        traceparent=text.get("dlq.traceparent", ""),
        replayed=replayed,
        event={
            name: value for name, value in text.items() if not name.startswith(("dlq.", "retry.")) and name != "attempt"
        },
    )
