"""Counting: from a batch of events to what it adds to each window."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from penstock import Event
from penstock.errors import UNREADABLE
from penstock.metrics.sketch import MOST, Distribution
from penstock.metrics.tally import FAILURES, Example, SeriesKey, SourceTally, Tallies, Tally
from penstock.metrics.windows import SHORT
from penstock.times import entry_ms, ms_of

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


def tally(events: Iterable[Event], lateness_ms: int, now_ms: int) -> dict[int, Tallies]:
    """Return what events add to the windows of 10 s, by the window's start in seconds.

    An event belongs to the window of its time. If the server took it `lateness_ms` or more after the end of that
    window it is late, and counts in the window in which it was taken: a clock that is wrong, or a straggler, must
    not hide a failure. This follows from the entry alone: it is the same on every attempt, in every replica,
    and however long the event waited to be read. Only where the id of the entry is of a time after `now_ms`, the
    server's, it is the producer's choice (or that clock went back) and says nothing: such an event counts as taken now.
    """
    windows: dict[int, Tallies] = {}
    for event in events:
        taken = min(entry_ms(event.entry_id), now_ms)
        stated = _stated(event)
        start = _window(taken if stated is None else min(stated, taken))
        late = (start + SHORT) * 1000 + lateness_ms <= taken
        tallies = _of(windows, _window(taken) if late else start)
        tallies.late += late
        _count(tallies, event, None if stated is None else abs(taken - stated))
    return windows


def _stated(event: Event) -> int | None:
    """Return the time that an event states, in ms; None if it states none that can be used."""
    if event.stated_time is None:
        return None
    try:
        return ms_of(event.stated_time)
    except ValueError:  # not a time, or one without an offset
        return None


def _window(ms: int) -> int:
    return ms // 1000 // SHORT * SHORT


def _of(windows: dict[int, Tallies], start: int) -> Tallies:
    found = windows.get(start)
    if found is None:
        found = windows[start] = Tallies()
    return found


def _count(tallies: Tallies, event: Event, skew_ms: int | None) -> None:
    measured, malformed = _measure(event) if event.type.startswith("job.") else (_UNMEASURED, 0)
    service = _label(event.source)
    if malformed or skew_ms is not None:
        tallies.source(service).merge(SourceTally(malformed, skew_ms))
    series = tallies.of(SeriesKey(_label(event.type), service, _label(event.tenant or ""), _label(measured.job_type)))
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


def _measure(event: Event) -> tuple[_Measured, int]:
    """Return what is measured of a job event, and how many of its fields had to be left out."""
    try:
        return _decode(event.data), 0
    except UNREADABLE:
        return _salvaged(event.data)


def _salvaged(data: bytes) -> tuple[_Measured, int]:
    """Return what can be used: one field that is wrong takes nothing from the others."""
    try:
        given = json.loads(data)  # unlike msgspec it reads NaN, which some write
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        return _UNMEASURED, 1
    usable = {}
    for field in msgspec.structs.fields(_Measured):
        with contextlib.suppress(msgspec.ValidationError, UnicodeEncodeError):
            usable[field.name] = _checked(given.get(field.name, field.default), field.type)
    return _Measured(**usable), sum(name not in usable for name in _Measured.__struct_fields__)


def _checked(value: object, kind: Any) -> Any:
    """Return a value if it is of a kind.

    Raises:
        msgspec.ValidationError: it is not.
        UnicodeEncodeError: it is text that cannot be written as UTF-8.
    """
    if isinstance(value, str):
        value.encode()
    return msgspec.convert(value, kind)


def _label(value: str) -> str:
    return value if len(value) <= _MOST_TEXT else f"{value[: _MOST_TEXT - 1]}…"


def _add(distribution: Distribution | None, seconds: float) -> Distribution:
    if distribution is None:
        distribution = Distribution()
    distribution.add(seconds)
    return distribution
