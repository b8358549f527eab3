"""The data of every event type that the shipped services publish; services share these, never each other.

Durations are in seconds, rates per second, times RFC 3339 in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

Severity = Literal["info", "warning", "critical"]


class JobEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """job.started, job.completed, job.failed (tried again), job.snoozed, job.dead and job.cancelled, on `events`.

    `attempt` is the number of the run; of a cancelled job, how many runs there were.
    """

    job_id: str
    job_type: str
    attempt: int
    duration: float | None = None
    queue_wait: float | None = None
    result: Any = None
    error: str | None = None
    reason: str | None = None
    next_attempt_at: str | None = None


class BreakerChanged(msgspec.Struct, frozen=True, kw_only=True):
    """breaker.opened, breaker.half_open and breaker.closed, on `events`: a circuit breaker changed its state.

    `epoch` counts the changes of this breaker; `reason` says in words why.
    """

    name: str
    from_: Literal["closed", "open", "half_open"] = msgspec.field(name="from")
    to: Literal["closed", "open", "half_open"]
    reason: str
    epoch: int


class TrimmingHeld(msgspec.Struct, frozen=True, kw_only=True):
    """retention.held, on `events`, every minute: `group` has not read or settled what `stream` would be rid of."""

    stream: str
    group: str


class EntriesDropped(msgspec.Struct, frozen=True, kw_only=True):
    """retention.dropped, on `events`: `count` entries beyond `hard_limit` went that `group` had not read or settled."""

    stream: str
    group: str
    count: int


class LettersDropped(msgspec.Struct, frozen=True, kw_only=True):
    """dlq.dropped, on `events`: dead letters beyond DLQ_RETENTION_DAYS or DLQ_MAX_ENTRIES are gone for good."""

    count: int


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution of seconds; within 1 % of the exact values, but for `max`, which is exact.

    p99 is the value of rank floor(0.99 * (count - 1)), counted from 0, and the others likewise.
    """

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
    span_id: str = ""


COUNTED: Final[Mapping[str, tuple[str, ...]]] = {
    "events": ("type", "service", "tenant", "job_type"),
    "jobs": ("job_type", "service", "tenant"),
}
"""The series that count events, with the labels they may have."""
GAUGES: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("lag_age", "lag", "oldest_pending", "pending", "delayed", "retry", "dead", "consumers", "ids_ahead"),
        ("stream", "group"),
    ),
    **dict.fromkeys(("memory", "memory_share", "time_to_full"), ()),
    **dict.fromkeys(("spool_events", "spool_bytes", "spool_age", "spool_aside"), ("program", "host")),
}
"""The series that tell a state of the mesh, with their labels."""
MEASURED: Final[Mapping[str, tuple[str, ...]]] = {"skew": ("service",), "malformed": ("service",), "overflow": ()}
"""The series that tell what is wrong with what is counted, with their labels; they come with the counted ones."""


class Series(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One series of one window.

    Counted ones carry count and what follows from it (`error_rate` is errors / count):

    - `events` (labels type, service, tenant, job_type, each where it is known): every event. `errors` are
      job.failed and job.dead, so within one type the rate is 0 or 1. Exemplars are of kind failed.
    - `jobs` (labels job_type, service, tenant): the same, joined over how an attempt ended; its error rate is
      the share of attempts that failed. Each attempt thus counts in `events` and in `jobs`. Exemplars are
      the slowest three, and three of those that failed.

    Gauges of the mesh (labels stream, group) carry the last `value` of the window: `lag_age` (seconds that
    the first undelivered event has waited), `lag`, `oldest_pending` (seconds), `pending`, `delayed`, `retry`,
    `dead` (dead letters not replayed), `consumers` (processes alive) and, where it is so, `ids_ahead` (seconds that the
    ids of the stream are ahead of Redis's clock: they tell no time). Without labels: `memory` (bytes that Redis
    uses) and, if it has a maxmemory, `memory_share` of that and, while it grows, `time_to_full` (seconds). By program
    and host, where there is something to tell: `spool_events`, `spool_bytes` and `spool_age` (seconds that the first
    has waited) of what waits in spools, and `spool_aside` (files of what was put aside).

    Beside the counted series come, with a `value` and only where there is something to tell: `skew` (label service:
    seconds between the time that a source's events state and their arrival, the least of the window; its clock
    is wrong, or all it sends is old), `malformed` (label service: fields of job events that could not be
    counted, such as a duration that is no number) and `overflow` (series joined with others for lack of room).
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
    """metrics.window, on `metrics`: one closed window. Large ones come in several events (`part` of `parts`).

    Each window of `seconds` (10 or 60) comes once for each `scope`. `events` holds the counted series and is
    closed once every event that belongs to it has been counted, however late that is; there is none where
    nothing happened. `mesh` holds the gauges and is closed by the clock, so that a lag shows even when it
    is the processor itself that lags. `late` counts those of its events that belong to earlier windows by their
    own time, but were published too late for them.
    """

    start: str
    seconds: int
    scope: Literal["events", "mesh"] = "events"
    series: list[Series]
    part: int = 1
    parts: int = 1
    late: int = 0


class Tick(msgspec.Struct, frozen=True):
    """alerts.tick, on `metrics`, every 10 s, and when people change what is notified: it is `time` (RFC 3339) now."""

    time: str


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """alert.triggered, alert.repeated (it fires still), alert.acknowledged, alert.unacknowledged and alert.resolved.

    `fingerprint` is the same for one alert from trigger to resolve: rule and labels. `since` is when it began
    to fire and stays the same too: both together name one episode. Everything else may change meanwhile, severity
    and labels included: whoever was told of the beginning must be told of the end. alert.repeated comes when
    `repeat` is over, when others joined, and when its severity changed; `resolved_at` is set once it is over.
    `reason` says in words why it fired or resolved. `flapping`: it came and went so often that it is one alert
    now, until it has been calm. `acknowledged_by` says who has taken it on, since `acknowledged_at`: from then on
    nobody else needs to be called, and there are no repeats. alert.unacknowledged takes that back, and says
    `unacknowledged_by` whom.
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
    flapping: bool = False
    acknowledged_by: str | None = None
    acknowledged_at: str | None = None
    unacknowledged_by: str | None = None


class Watchdog(msgspec.Struct, frozen=True, kw_only=True):
    """alert.watchdog, on `alerts`, every minute: metrics are measured and rules are evaluated, up to `time`.

    What is called from the outside only while these come, and is missed there, tells that nobody would be told.
    """

    time: str


class Notification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """notification.due, on `notifications`: one change of an alert on its way to one channel.

    `order` sorts the changes of one alert. `recipient` is the one of several, where the channel has several.
    `failover` lists the channels that stand in should this one fail for good; `instead_of` is the channel that
    this one stands in for, and `why` it failed. `escalated` says why it is told to others.
    """

    channel: str
    alert: Alert
    order: str
    recipient: str | None = None
    failover: list[str] = []
    instead_of: str | None = None
    why: str | None = None
    escalated: str | None = None


class Escalation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """notification.escalate, on `notifications`, `after` seconds: an alert is told to others unless it is acknowledged.

    `fingerprint` and `since` name the episode of the alert; `begun` the change that took an acknowledgement back,
    where that let it begin anew.
    """

    fingerprint: str
    since: str
    channels: list[str]
    failover: list[str] = []
    after: float
    begun: str = ""


class ButtonPressed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """button.pressed, on `notifications`: `by` has pressed a button under an alert in a channel that counts.

    `fingerprint` and `since` name the episode that it stood under. `answer_to` is where whoever pressed is answered:
    Slack's response_url or Telegram's callback query.
    """

    channel: str
    action: Literal["ack", "unack"]
    fingerprint: str
    since: str
    by: str
    answer_to: str


class Digest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """notification.digest, on `notifications`, after at most `every` seconds: a channel is told what was gathered."""

    channel: str
    every: float
    failover: list[str] = []


class ChannelTest(msgspec.Struct, frozen=True, kw_only=True):
    """notification.test, on `notifications`: somebody wants to see a message arrive."""

    channel: str


class NotifyReloaded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """notify.reloaded, on `deliveries`: a notifier has read its configuration again, because of `by`.

    `changes` says what is different; with an `error` the configuration before it stays.
    """

    process: str
    by: str
    changes: list[str] = []
    error: str | None = None


class ChannelUnblock(msgspec.Struct, frozen=True, kw_only=True):
    """notification.unblock, on `notifications`: a channel is to be used again at once, whatever it asked for."""

    channel: str


class ChannelUnblocked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """channel.unblocked, on `deliveries`: a channel is used again; so many deliveries that waited are tried now."""

    channel: str
    waiting: int = 0
    error: str | None = None


class ChannelChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """channel.changed, on `notifications`: a channel (or one recipient of it) began to fail, and why, or recovered."""

    channel: str
    recipient: str | None = None
    failing: bool
    reason: str = ""


class DeliveryAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """delivery.sent, delivery.failed (tried again) and delivery.dead, on `deliveries`: one attempt each.

    `code` (of HTTP or SMTP) and `answer` are what the other side said, the answer cut and without secrets.
    `latency` is in seconds.
    """

    delivery_id: str
    channel: str
    recipient: str | None = None
    fingerprint: str
    rule: str
    transition: Literal["triggered", "acknowledged", "unacknowledged", "resolved", "test"]
    attempt: int
    status: Literal["sent", "failed", "dead"]
    code: int | None = None
    latency: float | None = None
    answer: str | None = None
    error: str | None = None
    next_attempt_at: str | None = None


class ContainerServiceChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """service_created, service_started, service_stopped and service_deleted, on `events`: of a container service.

    `endpoints` are, for each named port, the addresses (host:port) at which its replicas answer; they are told with
    service_started, once all of them run and are healthy.
    """

    service: str
    generation: int
    image: str
    endpoints: dict[str, list[str]] = {}


class ContainerServiceFailed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """service_failed, on `events`: a replica of a container service does not do what it should.

    `phase` says at what: pull, create, start, run (it has ended), health, drift (somebody else has removed it).
    `log` are the last lines that it wrote, `attempt` the failures without a minute of rest between, the last included.
    After the one that has `crash_loop` nothing more is told until it has worked for a minute.
    """

    service: str
    generation: int
    replica: int
    phase: Literal["pull", "create", "start", "run", "health", "drift"]
    error: str
    exit_code: int | None = None
    out_of_memory: bool = False
    log: str = ""
    attempt: int
    next_attempt_at: str
    crash_loop: bool = False


class EngineChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """engine.lost and engine.back, on `events`: the container engine has not answered since `since`, or does again."""

    since: str
    reason: str = ""
