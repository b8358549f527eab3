"""Times as text: RFC 3339, durations in words, and the ids of stream entries, which begin with a time."""

from __future__ import annotations

import functools
import re
from datetime import UTC, datetime

LONGEST_DELAY = 365 * 86_400.0
"""Seconds that anything may be put off by."""
_LAST = 253_402_300_799.0  # 9999-12-31T23:59:59Z, the end of RFC 3339
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENTRY_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_UNITS = ((86_400, "d", "d"), (3_600, "h", "h"), (60, "min", "m"), (1, "s", "s"))


def check_delay(name: str, seconds: float) -> None:
    """Refuse to put something off by what is no time to wait; `name` is what the caller calls it.

    Raises:
        ValueError: it is negative, NaN or more than LONGEST_DELAY, or no number, such as a timedelta.
    """
    try:
        fits = 0 <= seconds <= LONGEST_DELAY  # NaN is neither
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{name} is 0 to {LONGEST_DELAY:,.0f} seconds, not {seconds!r}")


def rfc3339(seconds: float) -> str:
    """Format seconds since the epoch as RFC 3339 in UTC with milliseconds.

    What lies outside of RFC 3339's years is cut to them: a producer may choose the id of an entry.
    """
    if not 0 <= seconds <= _LAST:
        seconds = min(max(0.0, seconds), _LAST)
    return _millisecond(int(seconds * 1_000_000) // 1000)


@functools.lru_cache(maxsize=64)
def _millisecond(ms: int) -> str:
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@functools.lru_cache(maxsize=64)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def seconds_of(text: str) -> float:
    """Return an RFC 3339 time in seconds since the epoch.

    Raises:
        ValueError: it is none, or has no time zone.
    """
    return _read(text).timestamp()


def ms_of(text: str) -> int:
    """Return an RFC 3339 time in whole ms since the epoch.

    Raises:
        ValueError: it is none, or has no time zone.
    """
    since = _read(text) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _read(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return when


def duration(seconds: float) -> str:
    """Write a duration for people, in its two largest units: `8.5 ms`, `45 s`, `3 min 20 s`, `2 h`, `1 d 4 h`."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 59.95:
        return _below_a_minute(seconds)
    large, unit, small, rest = _split(seconds)
    return f"{large} {_UNITS[unit][1]}" + (f" {small} {_UNITS[rest][1]}" if small else "")


def short_duration(seconds: float) -> str:
    """Write a duration for a table, in at most 8 characters: `8.5 ms`, `45 s`, `3m 20s`, `1d 04h`."""
    if seconds < 59.95:
        return _below_a_minute(max(0.0, seconds))
    large, unit, small, rest = _split(seconds)
    return f"{large}{_UNITS[unit][2]} {small:02}{_UNITS[rest][2]}"


def _below_a_minute(seconds: float) -> str:
    if seconds >= 0.9995 or seconds == 0:
        return f"{seconds:.3g} s"
    if seconds >= 0.001:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds * 1000:.1f} ms" if seconds >= 0.0001 else "<0.1 ms"


def _split(seconds: float) -> tuple[int, int, int, int]:
    """Return how many of which unit, and how many of the next smaller one, from a minute on."""
    whole = round(seconds)
    unit = next(at for at, (size, _, _) in enumerate(_UNITS) if whole >= size)
    large, below = divmod(whole, _UNITS[unit][0])
    return large, unit, below // _UNITS[unit + 1][0], unit + 1


def entry_time(entry_id: str) -> str:
    """Return the RFC 3339 time at which the server took an entry."""
    return rfc3339(entry_ms(entry_id) / 1000)


def entry_ms(entry_id: str | bytes) -> int:
    """Return the time in an entry id, in ms since the epoch; 0 if it is none, as somebody's own field may say."""
    return entry_order(entry_id)[0]


def entry_order(entry_id: str | bytes) -> tuple[int, int]:
    """Return what entry ids are ordered by; (0, 0) if it is none."""
    found = _ENTRY_ID.fullmatch(entry_id if isinstance(entry_id, str) else entry_id.decode(errors="replace"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def is_entry_id(text: str) -> bool:
    """Return whether a server would take this for the id of an entry."""
    return _ENTRY_ID.fullmatch(text) is not None and max(entry_order(text)) < 2**64


def entry_id_at(seconds: float) -> str:
    """Return the least id of an entry that the server takes at `seconds` since the epoch."""
    return f"{max(0, round(seconds * 1000))}-0"
