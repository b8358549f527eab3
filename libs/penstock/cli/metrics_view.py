"""How `penstock metrics` shows windows: what happened over the time asked for, and its course as sparklines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from penstock.cli.terminal import make_table
from penstock.metrics.report import WindowQuery
from penstock.metrics.rollup import roll_up
from penstock.metrics.tally import merged
from penstock.metrics.windows import Window
from penstock.schemas import Quantiles, Series
from penstock.times import short_duration

_MOST_CELLS, _LEAST_CELLS = 30, 10  # of a sparkline
_BESIDE = 110  # columns of the screen for what stands beside a sparkline
_BARS = "▁▂▃▄▅▆▇█"
_GAUGES = ("lag_age", "lag", "oldest_pending", "pending", "delayed", "retry", "dead", "consumers")
_AGES = ("lag_age", "oldest_pending")
_Key = tuple[str, tuple[tuple[str, str], ...]]


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be shown: windows that begin in [since, until), and the query that chooses their series."""

    query: WindowQuery
    since: float
    until: float
    windows: list[Window]


def render(look: Look, width: int) -> RenderableType:
    """Return tables of jobs, events and the mesh in `width` columns, each only if there is something to show."""
    span = max(look.until - look.since, 1.0)
    counted = roll_up(merged(window.tallies for window in look.windows), span)
    series = [one for one in counted if look.query.wants(one)]
    course = _Course(look, cells=max(_LEAST_CELLS, min(_MOST_CELLS, width - _BESIDE)))
    jobs = [_job_row(one, course) for one in series if one.name == "jobs"]
    events = [_event_row(one, course) for one in series if one.name == "events"]
    mesh = _mesh_rows(look, course)
    late = sum(window.tallies.late for window in look.windows)
    parts: list[RenderableType] = [Text(_headline(look, late), style="dim")]
    for columns, spare, rows, left in (
        (_JOBS, _SPARE_JOBS, jobs, 1),
        (_EVENTS, _SPARE_EVENTS, events, 2),
        (_MESH, _SPARE_MESH, mesh, 2),
    ):
        if rows:
            table = make_table(columns, rows, numbers=columns[left:-1], spare=spare, width=width)
            parts += [Text(""), table]
    if len(parts) == 1:
        parts.append(Text("nothing was counted in this time"))
    return Group(*parts)


_JOBS = ("job", "attempts", "/s", "failed", "p50", "p90", "p95", "p99", "max", "wait p95", "course")
_SPARE_JOBS = ("p90", "p99", "wait p95", "max", "course", "p95")
_EVENTS = ("event", "from", "count", "/s", "course")
_SPARE_EVENTS = ("course",)
_MESH = (
    "stream",
    "group",
    "lag age",
    "lag",
    "oldest",
    "pending",
    "delayed",
    "retry",
    "dead",
    "alive",
    "lag age course",
)
_SPARE_MESH = ("lag age course", "oldest", "alive", "delayed", "retry")


def _headline(look: Look, late: int) -> str:
    late_text = f", {late} events came too late for theirs" if late else ""
    return f"{short_duration(look.until - look.since)} in windows of {look.query.seconds} s{late_text}"


class _Course:
    """How series went over time, in the cells of a sparkline."""

    def __init__(self, look: Look, *, cells: int) -> None:
        self._count = cells
        self._cells: dict[_Key, list[float]] = {}
        width = max((look.until - look.since) / cells, look.query.seconds)
        for window in look.windows:
            cell = min(int((window.start - look.since) / width), cells - 1)
            for series in roll_up(window.tallies, window.seconds):
                self._put(series, cell, lambda old, new: old + new, series.count or 0)
            for series in window.gauges:
                self._put(series, cell, max, series.value or 0)
        self._used = max(1, min(cells, round((look.until - look.since) / width)))

    def of(self, series: Series) -> str:
        """Return the sparkline of a series."""
        return sparkline(self._cells.get(_key(series), [])[: self._used])

    def _put(self, series: Series, cell: int, join: Callable[[float, float], float], value: float) -> None:
        cells = self._cells.setdefault(_key(series), [0.0] * self._count)
        cells[cell] = join(cells[cell], value)


def sparkline(values: Sequence[float]) -> str:
    """Return one character for each value: a space for 0, else a bar as high as its share of the greatest."""
    most = max(values, default=0.0)
    return "".join(_BARS[min(int(value / most * len(_BARS)), len(_BARS) - 1)] if value > 0 else " " for value in values)


def _job_row(series: Series, course: _Course) -> list[str]:
    return [
        _named(series, ("job_type", "tenant", "service"), unless={"service": "worker"}),
        str(series.count),
        f"{series.rate or 0:.3g}",
        f"{series.error_rate or 0:.1%}",
        *_quantiles(series.duration),
        short_duration(series.queue_wait.p95) if series.queue_wait else "-",
        course.of(series),
    ]


def _quantiles(found: Quantiles | None) -> list[str]:
    if found is None:
        return ["-"] * 5
    return [short_duration(value) for value in (found.p50, found.p90, found.p95, found.p99, found.max)]


def _event_row(series: Series, course: _Course) -> list[str]:
    return [
        _named(series, ("type", "job_type")),
        _named(series, ("service", "tenant")),
        str(series.count),
        f"{series.rate or 0:.3g}",
        course.of(series),
    ]


def _mesh_rows(look: Look, course: _Course) -> list[list[str]]:
    gauges = next((window.gauges for window in reversed(look.windows) if window.gauges), [])
    groups: dict[tuple[str, str], dict[str, Series]] = {}
    for series in filter(look.query.wants, gauges):
        if not series.labels:
            continue
        place = series.labels.get("stream", ""), series.labels.get("group", "")
        groups.setdefault(place, {})[series.name] = series
    return [
        [
            *place,
            *(_gauge(found.get(name)) for name in _GAUGES),
            course.of(found["lag_age"]) if "lag_age" in found else "",
        ]
        for place, found in groups.items()
    ]


def _gauge(series: Series | None) -> str:
    if series is None or series.value is None:
        return "-"
    return short_duration(series.value) if series.name in _AGES else f"{series.value:g}"


def _named(series: Series, labels: Iterable[str], unless: dict[str, str] | None = None) -> str:
    values = [series.labels.get(label, "") for label in labels if series.labels.get(label) != (unless or {}).get(label)]
    return " ".join(filter(None, values)) or "-"


def _key(series: Series) -> _Key:
    return series.name, tuple(sorted(series.labels.items()))
