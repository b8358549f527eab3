"""The text format of Prometheus, version 0.0.4.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from penstock.metrics.sketch import Distribution, upper_bound
from penstock.metrics.tally import Tallies, Tally
from penstock.schemas import Series

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# OpenTelemetry's boundaries for message processing, and beyond them what queues need; in seconds.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300, 1800)

GAUGES: Final = {
    "lag_age": ("lag_age_seconds", "Seconds that the first undelivered event has waited."),
    "lag": ("lag_events", "Events never delivered to the group."),
    "oldest_pending": ("oldest_pending_seconds", "Age of the oldest event delivered and not settled."),
    "pending": ("pending_events", "Events delivered and in flight."),
    "delayed": ("delayed_events", "Events that wait for their next try."),
    "retry": ("retry_events", "Events due for their next try and not yet read."),
    "dead": ("dead_events", "Dead letters that were not replayed."),
    "consumers": ("consumers", "Processes of the group that are alive."),
    "ids_ahead": ("ids_ahead_seconds", "Seconds that the ids of the stream are ahead of the clock of Redis."),
    "spool_events": ("spool_waiting_events", "Accepted events that wait on local disks for Redis, by program."),
    "spool_bytes": ("spool_waiting_bytes", "Bytes of the files in which they wait."),
    "spool_age": ("spool_waiting_seconds", "Seconds that the first of them has waited."),
    "spool_aside": ("spool_aside_files", "Files of what was put aside, as it cannot be published."),
    "memory": ("redis_memory_bytes", "Bytes that Redis uses, as it counts them against maxmemory."),
    "memory_share": ("redis_memory_share", "How full Redis is: share of maxmemory, if it has one."),
}


def exposition(totals: Tallies, gauges: Iterable[Series]) -> str:
    """Return the page that Prometheus scrapes."""
    lines = [*_totals(totals), *_gauges(list(gauges))]
    return "\n".join(lines) + "\n"


def _totals(totals: Tallies) -> Iterator[str]:
    rows = [(_labels(key._asdict()), tally) for key, tally in totals.series.items()]
    yield from _head("events_total", "counter", "Events counted, by their time.")
    for labels, tally in rows:
        yield _line("events_total", labels, tally.count)
    yield from _head("events_late_total", "counter", "Events that were published too late for their window.")
    yield _line("events_late_total", [], totals.late)
    yield from _histogram("job_duration_seconds", "How long attempts at jobs took.", _durations(rows))
    yield from _histogram("job_queue_wait_seconds", "How long jobs waited to be read.", _waits(rows))


_Rows = list[tuple[list[str], Tally]]


def _durations(rows: _Rows) -> Iterator[tuple[list[str], Distribution]]:
    return ((labels, tally.duration) for labels, tally in rows if tally.duration)


def _waits(rows: _Rows) -> Iterator[tuple[list[str], Distribution]]:
    return ((labels, tally.queue_wait) for labels, tally in rows if tally.queue_wait)


def _histogram(name: str, text: str, rows: Iterable[tuple[list[str], Distribution]]) -> Iterator[str]:
    yield from _head(name, "histogram", text)
    for labels, distribution in rows:
        for bound, count in zip(BOUNDS, _cumulative(distribution), strict=True):
            yield _line(f"{name}_bucket", [*labels, f'le="{bound:g}"'], count)
        yield _line(f"{name}_bucket", [*labels, 'le="+Inf"'], distribution.count)
        yield _line(f"{name}_sum", labels, distribution.micros / 1e6)
        yield _line(f"{name}_count", labels, distribution.count)


def _cumulative(distribution: Distribution) -> list[int]:
    """Return how many durations are at most each of BOUNDS.

    One that lies within the relative error below a bound may count above it.
    """
    ordered = sorted(distribution.buckets.items())
    counts, at, total = [], 0, 0
    for bound in BOUNDS:
        while at < len(ordered) and upper_bound(ordered[at][0]) <= bound:
            total += ordered[at][1]
            at += 1
        counts.append(total)
    return counts


def _gauges(gauges: list[Series]) -> Iterator[str]:
    for name, (metric, text) in GAUGES.items():
        yield from _head(metric, "gauge", text)
        for series in gauges:
            if series.name == name and series.value is not None:
                yield _line(metric, _labels(series.labels), series.value)


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP penstock_{name} {text}"
    yield f"# TYPE penstock_{name} {kind}"


def _line(name: str, labels: list[str], value: float) -> str:
    block = f"{{{','.join(labels)}}}" if labels else ""
    return f"penstock_{name}{block} {value}"


def _labels(labels: dict[str, str]) -> list[str]:
    return [f'{name}="{_escape(value)}"' for name, value in labels.items() if value]


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
