"""Measurements of one process, for its own /metrics and, if somebody listens, for OTLP too.

They are counted here and looked at when somebody asks: an instrument of OpenTelemetry's own costs more for each
event than all that is done with it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from penstock.telemetry.spans import NullTelemetry, Telemetry

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds in seconds of the buckets of durations: those of OpenTelemetry's messaging conventions."""
_MOST_ERRORS = 100  # kinds of failure told apart: handlers may name theirs as they like
_OTHER = "_OTHER"  # what the conventions have for the rest


class Durations:
    """How long something took, many times over: `counts` by bucket, and the sum in seconds."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Measures:
    """What a process does, counted; spans go on to whoever listens."""

    def __init__(self, listener: Telemetry | None = None) -> None:
        listener = listener or NullTelemetry()
        self.enabled = listener.enabled
        """Whether anybody listens for spans."""
        self.begin = listener.begin
        """Decide whether a trace that begins here is sampled; return it with that decision."""
        self.record = listener.record
        """Take a finished span."""
        self.consumed_events: Counter[tuple[str, str]] = Counter()
        """Events read, by stream and group."""
        self.sent_events: Counter[str] = Counter()
        """Events published, by stream."""
        self.runs: dict[tuple[str, str, str | None], Durations] = {}
        """Handler runs, by stream, group and what they failed of."""
        self.operations: dict[str, Durations] = {}
        """Calls to Redis: `send` (publishing a batch) and `settle` (a commit)."""

    def processed(self, seconds: float, *, stream: str, group: str, error: str | None) -> None:
        """Measure one handler run."""
        key = stream, group, error
        found = self.runs.get(key)
        if found is None:
            if len(self.runs) >= _MOST_ERRORS and error is not None:
                key = stream, group, _OTHER
            found = self.runs.setdefault(key, Durations())
        found.add(seconds)

    def consumed(self, count: int, *, stream: str, group: str) -> None:
        """Count events that were read."""
        self.consumed_events[stream, group] += count

    def sent(self, count: int, *, stream: str) -> None:
        """Count events that were published."""
        self.sent_events[stream] += count

    def operated(self, operation: str, seconds: float) -> None:
        """Measure one call to Redis."""
        self.operations.setdefault(operation, Durations()).add(seconds)

    def exposition(self, *, hung_threads: int = 0) -> str:
        """Return the counts in Prometheus' text format (version 0.0.4)."""
        return "".join(f"{line}\n" for line in self._lines(hung_threads))

    def _lines(self, hung_threads: int) -> Iterator[str]:
        yield "# HELP penstock_hung_threads Threads of plain handlers whose time is over and that go on."
        yield "# TYPE penstock_hung_threads gauge"
        yield f"penstock_hung_threads {hung_threads}"
        yield "# HELP penstock_consumed_events_total Events this process has read."
        yield "# TYPE penstock_consumed_events_total counter"
        for (stream, group), count in sorted(self.consumed_events.items()):
            yield f'penstock_consumed_events_total{{stream="{stream}",group="{group}"}} {count}'
        yield "# HELP penstock_sent_events_total Events this process has published."
        yield "# TYPE penstock_sent_events_total counter"
        for stream, count in sorted(self.sent_events.items()):
            yield f'penstock_sent_events_total{{stream="{stream}"}} {count}'
        yield "# HELP penstock_process_duration_seconds How long handlers ran."
        yield "# TYPE penstock_process_duration_seconds histogram"
        for (stream, group, outcome), runs in sorted(self._runs_by_outcome().items()):
            labels = f'stream="{stream}",group="{group}",outcome="{outcome}"'
            total = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), runs.counts, strict=True):
                total += count
                yield f'penstock_process_duration_seconds_bucket{{{labels},le="{bound}"}} {total}'
            yield f"penstock_process_duration_seconds_sum{{{labels}}} {runs.seconds}"
            yield f"penstock_process_duration_seconds_count{{{labels}}} {total}"

    def _runs_by_outcome(self) -> dict[tuple[str, str, str], Durations]:
        joined: dict[tuple[str, str, str], Durations] = {}
        for (stream, group, error), runs in self.runs.items():
            into = joined.setdefault((stream, group, "failed" if error else "ok"), Durations())
            into.counts = [one + other for one, other in zip(into.counts, runs.counts, strict=True)]
            into.seconds += runs.seconds
        return joined
