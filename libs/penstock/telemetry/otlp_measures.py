"""Measures over OTLP: what a process has counted, sent now and then by a thread of its own.

The SDK's instruments would take each measurement one by one; here there are only sums to send. Names, units and
attributes are those of OpenTelemetry's messaging conventions
(https://opentelemetry.io/docs/specs/semconv/messaging/messaging-metrics/).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import structlog
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from penstock.errors import ConfigurationError
from penstock.telemetry.measures import BUCKETS, Durations, Measures
from penstock.telemetry.spans import Attributes
from penstock.text import writable

_INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
_TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
_log = structlog.get_logger("penstock.telemetry")


class MeasuresExport:
    """Sends measures every OTEL_METRIC_EXPORT_INTERVAL milliseconds (60,000), and once more at the end."""

    def __init__(
        self,
        measures: Measures,
        exporter: MetricExporter,
        resource: Resource,
        scope: InstrumentationScope,
        broker: Attributes,
    ) -> None:
        """Start sending; `broker` are the attributes that say which Redis it is.

        Raises:
            ConfigurationError: the interval is no number of milliseconds.
        """
        self._measures = measures
        self._exporter = exporter
        self._resource = resource
        self._scope = scope
        self._broker = broker
        self._interval = _interval()
        self._delta = os.environ.get(_TEMPORALITY, "").lower() in ("delta", "lowmemory")
        self._since = time.time_ns()
        self._sent: dict[Any, Any] = {}  # what was sent before, for deltas
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp-measures", daemon=True)
        self._thread.start()

    def shutdown(self) -> None:
        """Send what is left."""
        self._ending.set()
        self._thread.join()
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._ending.wait(self._interval):
            self._send()
        self._send()

    def _send(self) -> None:
        now = time.time_ns()
        metrics = list(self._metrics(now))
        if self._delta:
            self._since = now
        if metrics:
            try:
                scope = ScopeMetrics(self._scope, metrics, "")
                self._exporter.export(MetricsData([ResourceMetrics(self._resource, [scope], "")]))
            except Exception as error:  # noqa: BLE001 - whatever a receiver does: the next round may succeed
                _log.warning("telemetry is not getting through", reason=f"{type(error).__name__}: {error}")

    def _metrics(self, now: int) -> Iterator[Metric]:
        # Lists at once: the event loop goes on counting.
        seen = self._measures
        consumed = [
            (self._attributes("receive", stream, group), count)
            for (stream, group), count in list(seen.consumed_events.items())
        ]
        sent = [(self._attributes("send", stream), count) for stream, count in list(seen.sent_events.items())]
        runs = [
            (self._attributes("process", stream, group, error), found)
            for (stream, group, error), found in list(seen.runs.items())
        ]
        operations = [(self._attributes(operation), found) for operation, found in list(seen.operations.items())]
        for name, counts in (("client.consumed.messages", consumed), ("client.sent.messages", sent)):
            if counts:
                yield self._sum(f"messaging.{name}", counts, now)
        for name, durations in (("process.duration", runs), ("client.operation.duration", operations)):
            if durations:
                yield self._histogram(f"messaging.{name}", durations, now)

    def _sum(self, name: str, counts: list[tuple[Attributes, int]], now: int) -> Metric:
        points = [
            NumberDataPoint(about, self._since, now, self._since_last((name, *about.values()), [count])[0])
            for about, count in counts
        ]
        return Metric(name, None, "{message}", Sum(points, self._temporality, is_monotonic=True))

    def _histogram(self, name: str, durations: list[tuple[Attributes, Durations]], now: int) -> Metric:
        points = []
        for about, found in durations:
            seconds, *counts = self._since_last((name, *about.values()), [found.seconds, *found.counts])
            nothing: Any = None  # OTLP lets the extremes out, though the SDK's class does not say so
            points.append(
                HistogramDataPoint(
                    about, self._since, now, sum(counts), seconds, counts, BUCKETS, min=nothing, max=nothing
                )
            )
        return Metric(name, None, "s", Histogram(points, self._temporality))

    def _attributes(self, operation: str, stream: str = "", group: str = "", error: str | None = None) -> Attributes:
        attributes = {
            "messaging.system": "redis",
            "messaging.operation.name": operation,
            "messaging.destination.name": stream,
            "messaging.consumer.group.name": group,
            "error.type": writable(error or ""),
        }
        return {**{name: value for name, value in attributes.items() if value}, **self._broker}

    @property
    def _temporality(self) -> AggregationTemporality:
        return AggregationTemporality.DELTA if self._delta else AggregationTemporality.CUMULATIVE

    def _since_last(self, key: tuple[Any, ...], values: list[Any]) -> list[Any]:
        if not self._delta:
            return values
        before, self._sent[key] = self._sent.get(key, [0] * len(values)), values
        return [now - then for now, then in zip(values, before, strict=True)]


def _interval() -> float:
    given = os.environ.get(_INTERVAL) or "60000"
    if not given.isdecimal() or int(given) == 0:
        raise ConfigurationError(f"environment: {_INTERVAL}: {given!r} is no number of milliseconds; for example 60000")
    return int(given) / 1000
