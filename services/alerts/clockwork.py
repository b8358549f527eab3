"""Times as they stand in events, and the tick that lets time pass where nothing else happens."""

from __future__ import annotations

from datetime import datetime

import msgspec

TICK = "alerts.tick"
TICK_SECONDS = 10


class Tick(msgspec.Struct, frozen=True):
    """alerts.tick, on `metrics`: it is `time` (RFC 3339) now."""

    time: str


def seconds_of(text: str) -> float:
    """Return an RFC 3339 time in seconds since the epoch.

    Raises:
        ValueError: it is none.
    """
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return when.timestamp()
