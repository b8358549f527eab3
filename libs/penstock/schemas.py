"""The data of every event type that the shipped services publish; services share these, never each other.

Durations are in seconds, rates per second, times RFC 3339 in UTC.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Severity = Literal["info", "warning", "critical"]


class JobEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """job.started, job.completed, job.failed (tried again), job.snoozed and job.dead, on `events`."""

    job_id: str
    job_type: str
    attempt: int
    duration: float | None = None
    queue_wait: float | None = None
    result: Any = None
    error: str | None = None
    reason: str | None = None
    next_attempt_at: str | None = None


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of seconds; within 1 % of the exact values, but for `max`, which is exact."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float


class Exemplar(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event that stands for many: among the slowest, or failed."""

    trace_id: str
    event_id: str
    kind: Literal["slowest", "failed"]
    duration: float | None = None
    error: str | None = None


class Series(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One series of one window.

    `name` is `events` (labels type, service, tenant: what the mesh processed) or a gauge of the mesh itself:
    `lag_age`, `lag`, `oldest_pending`, `pending`, `delayed`, `dead`, `consumers` (labels stream, group).
    Counted series carry count and what follows from it; gauges carry the last `value` of the window.
    `errors` counts job.failed and job.dead; `error_rate` is errors / count.
    """

    name: str
    labels: dict[str, str] = {}
    value: float | None = None
    count: int | None = None
    rate: float | None = None
    errors: int | None = None
    error_rate: float | None = None
    duration: Quantiles | None = None
    queue_wait: Quantiles | None = None
    exemplars: list[Exemplar] = []


class MetricsWindow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """metrics.window, on `metrics`: one closed window. Large ones come in several events (`part` of `parts`)."""

    start: str
    seconds: int
    series: list[Series]
    part: int = 1
    parts: int = 1
    late: int = 0


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """alert.triggered and alert.resolved, on `alerts`.

    `fingerprint` is the same for one alert from trigger to resolve: rule and labels. `since` is when it began
    to fire; `resolved_at` is set once it is over. `reason` says in words why it fired or resolved.
    """

    fingerprint: str
    rule: str
    severity: Severity
    status: Literal["firing", "resolved"]
    labels: dict[str, str] = {}
    summary: str
    reason: str
    value: float | None = None
    threshold: float | None = None
    since: str
    resolved_at: str | None = None
    exemplars: list[str] = []
    runbook: str | None = None


class DeliveryAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """delivery.sent, delivery.failed (tried again) and delivery.dead, on `deliveries`: one attempt each.

    `answer` is what the other side said, cut and without secrets. `latency` is in seconds.
    """

    delivery_id: str
    channel: str
    fingerprint: str
    rule: str
    transition: Literal["triggered", "resolved", "test"]
    attempt: int
    outcome: Literal["sent", "failed", "dead"]
    status: int | None = None
    latency: float | None = None
    answer: str | None = None
    error: str | None = None
    next_attempt_at: str | None = None
