"""Times: RFC 3339 and entry ids, read and written."""

from __future__ import annotations

from datetime import UTC, datetime

_LAST_MS = 253_402_300_799_000  # 9999-12-31T23:59:59Z


def entry_time(entry_id: str) -> str:
    """Return the RFC 3339 time (UTC, milliseconds) at which the server took an entry.

    A producer may choose the id: what lies beyond RFC 3339's last year is cut to it.
    """
    return rfc3339(min(int(entry_id.partition("-")[0]), _LAST_MS) / 1000)


def rfc3339(timestamp: float) -> str:
    """Format seconds since the epoch as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_of(text: str) -> float:
    """Return an RFC 3339 time in seconds since the epoch.

    Raises:
        ValueError: it is none.
    """
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return when.timestamp()
