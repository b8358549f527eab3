"""Measurements of one process, for its own /metrics and, if somebody listens, for OTLP too."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator

from penstock.telemetry.spans import Span, Telemetry
from penstock.trace_context import TraceContext

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds in seconds of the buckets of handler durations: those of OpenTelemetry's messaging conventions."""


class Measures:
    """Counts what this process does, and passes everything on to whoever listens."""

    def __init__(self, listener: Telemetry) -> None:
        self._listener = listener
        self._consumed: Counter[tuple[str, str]] = Counter()
        self._sent: Counter[str] = Counter()
        self._runs: dict[tuple[str, str, str], list[int]] = {}
        self._seconds: defaultdict[tuple[str, str, str], float] = defaultdict(float)
        self.enabled = listener.enabled

    def begin(self, trace: TraceContext) -> TraceContext:
        """Decide whether a trace that begins here is sampled; return it with that decision."""
        return self._listener.begin(trace)

    def record(self, span: Span) -> None:
        """Take a finished span."""
        self._listener.record(span)

    def activate(self, trace: TraceContext) -> None:
        """Let spans that a handler makes through OpenTelemetry's own API be children of `trace`."""
        self._listener.activate(trace)

    def processed(self, seconds: float, *, stream: str, group: str, error: str | None) -> None:
        """Measure one handler run."""
        key = stream, group, "failed" if error else "ok"
        runs = self._runs.get(key)
        if runs is None:
            runs = self._runs[key] = [0] * (len(BUCKETS) + 1)
        runs[bisect_left(BUCKETS, seconds)] += 1
        self._seconds[key] += seconds
        self._listener.processed(seconds, stream=stream, group=group, error=error)

    def consumed(self, count: int, *, stream: str, group: str) -> None:
        """Count events that were read."""
        self._consumed[stream, group] += count
        self._listener.consumed(count, stream=stream, group=group)

    def sent(self, count: int, *, stream: str) -> None:
        """Count events that were published."""
        self._sent[stream] += count
        self._listener.sent(count, stream=stream)

    def operated(self, operation: str, seconds: float) -> None:
        """Measure one call to Redis."""
        self._listener.operated(operation, seconds)

    def exposition(self, *, hung_threads: int = 0) -> str:
        """Return the counts in Prometheus' text format (version 0.0.4)."""
        return "".join(f"{line}\n" for line in self._lines(hung_threads))

    def _lines(self, hung_threads: int) -> Iterator[str]:
        yield "# HELP penstock_hung_threads Threads of plain handlers whose time is over and that go on."
        yield "# TYPE penstock_hung_threads gauge"
        yield f"penstock_hung_threads {hung_threads}"
        yield "# HELP penstock_consumed_events_total Events this process has read."
        yield "# TYPE penstock_consumed_events_total counter"
        for (stream, group), count in sorted(self._consumed.items()):
            yield f'penstock_consumed_events_total{{stream="{stream}",group="{group}"}} {count}'
        yield "# HELP penstock_sent_events_total Events this process has published."
        yield "# TYPE penstock_sent_events_total counter"
        for stream, count in sorted(self._sent.items()):
            yield f'penstock_sent_events_total{{stream="{stream}"}} {count}'
        yield "# HELP penstock_process_duration_seconds How long handlers ran."
        yield "# TYPE penstock_process_duration_seconds histogram"
        for (stream, group, outcome), runs in sorted(self._runs.items()):
            labels = f'stream="{stream}",group="{group}",outcome="{outcome}"'
            total = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), runs, strict=True):
                total += count
                yield f'penstock_process_duration_seconds_bucket{{{labels},le="{bound}"}} {total}'
            yield f"penstock_process_duration_seconds_sum{{{labels}}} {self._seconds[stream, group, outcome]}"
            yield f"penstock_process_duration_seconds_count{{{labels}}} {total}"
