"""Counting: from a batch of events to what it adds to each window."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from penstock import Event
from penstock.metrics.rollup import FAILURES
from penstock.metrics.sketch import MOST, Distribution
from penstock.metrics.tally import Example, SeriesKey, Tallies, Tally
from penstock.metrics.windows import SHORT
from penstock.times import entry_ms, ms_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MOST_TEXT = 200  # characters of a label, an id or an error that are kept

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=MOST)]


class _Measured(msgspec.Struct):
    """What is measured of a job event: a part of JobEvent, read leniently."""

    job_type: str = ""
    duration: _Seconds | None = None
    queue_wait: _Seconds | None = None
    error: str | None = None


_UNMEASURED = _Measured()
_decode = msgspec.json.Decoder(_Measured).decode


def tally(events: Iterable[Event], lateness_ms: int) -> dict[int, Tallies]:
    """Return what events add to the windows of 10 s, by the window's start in seconds.

    An event belongs to the window of its time. It is late if the server took it `lateness_ms` or more after
    the end of that window; it is then counted as late in the window in which it was taken. This follows from
    the entry alone: it is the same on every attempt, in every replica, and however long the event waited
    to be read.
    """
    windows: dict[int, Tallies] = {}
    for event in events:
        taken = entry_ms(event.entry_id)
        start = _window(_happened(event, taken))
        if (start + SHORT) * 1000 + lateness_ms <= taken:
            _of(windows, _window(taken)).late += 1
        else:
            _count(_of(windows, start), event)
    return windows


def _happened(event: Event, taken: int) -> int:
    """Return the time of an event in ms: never after it was taken, and just then if it does not say."""
    try:
        return min(ms_of(event.time), taken)
    except ValueError:
        return taken


def _window(ms: int) -> int:
    return ms // 1000 // SHORT * SHORT


def _of(windows: dict[int, Tallies], start: int) -> Tallies:
    found = windows.get(start)
    if found is None:
        found = windows[start] = Tallies()
    return found


def _count(tallies: Tallies, event: Event) -> None:
    measured = _measure(event) if event.type.startswith("job.") else _UNMEASURED
    series = tallies.of(
        SeriesKey(_label(event.type), _label(event.source), _label(event.tenant or ""), _label(measured.job_type))
    )
    series.count += 1
    if measured.queue_wait is not None:
        series.queue_wait = _add(series.queue_wait, measured.queue_wait)
    if measured.duration is not None:
        series.duration = _add(series.duration, measured.duration)
        series.add_slow(measured.duration, event.id[:_MOST_TEXT], event.trace.trace_id, event.trace.span_id)
    if event.type in FAILURES:
        _fail(series, event, measured)


def _fail(series: Tally, event: Event, measured: _Measured) -> None:
    series.errors += 1
    error = measured.error[:_MOST_TEXT] if measured.error else None
    series.add_failed(
        Example(event.id[:_MOST_TEXT], event.trace.trace_id, measured.duration, error, event.trace.span_id)
    )


def _measure(event: Event) -> _Measured:
    try:
        return _decode(event.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # counted by its type alone
        return _UNMEASURED


def _label(value: str) -> str:
    return value if len(value) <= _MOST_TEXT else f"{value[: _MOST_TEXT - 1]}…"


def _add(distribution: Distribution | None, seconds: float) -> Distribution:
    if distribution is None:
        distribution = Distribution()
    distribution.add(seconds)
    return distribution
