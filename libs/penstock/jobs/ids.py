"""Ids of jobs: nobody can guess them, and they say where to look."""

from __future__ import annotations

import re

_TIMED = re.compile(r"[0-9a-f]{32}")
_HALF_MS = 12  # hexadecimal digits of the time in ms


def timed_id(now: float, randomness: bytes) -> str:
    """Return an event id that nobody can guess and that says when it was made (seconds since the epoch)."""
    return f"{round(now * 1000):012x}{randomness.hex()}"[:32]


def time_of(event_id: str) -> int | None:
    """Return when an id was made by `timed_id`, in ms since the epoch; None if it was not."""
    return int(event_id[:_HALF_MS], 16) if _TIMED.fullmatch(event_id) else None
