"""What a handler is given beside its data: the event, and every effect it may have."""

from __future__ import annotations

import copy
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar, cast, get_type_hints

import structlog

from penstock import models
from penstock.errors import InvalidEvent
from penstock.event import Event, derived_id, encode_caused, encode_data
from penstock.jobs.progress import make_progress
from penstock.redis.connection import AsyncRedis
from penstock.resilience.breaker import Failure
from penstock.resilience.checkpoint import Pending
from penstock.service.effects import Effects, Scope, State
from penstock.service.outcome import Done, Outcome, Retried
from penstock.telemetry.spans import Active, Attributes, Kind, send_span, span
from penstock.trace_context import TraceContext

T = TypeVar("T")
MOST_RESULT = 1_000_000  # bytes of JSON


class Context:
    """One event in the hands of a handler."""

    __slots__ = (
        "_effects",
        "_notes",
        "_pending",
        "_published",
        "_scope",
        "_started",
        "_step_counts",
        "_steps",
        "_trace",
        "attempt",
        "event",
        "says_progress",
        "started_at",
        "stream",
    )

    def __init__(
        self,
        scope: Scope,
        event: Event,
        *,
        stream: str,
        attempt: int = 1,
        pending: Pending | None = None,
        batch: BatchContext | None = None,
    ) -> None:
        """`pending` is the entry that it was read as this time; `batch` the run that it was handled in with others."""
        self._scope = scope
        self._effects = Effects(scope) if batch is None else batch.effects
        self._pending = pending
        self._notes: dict[str, Any] | None = None
        self._steps: dict[str, bytes] | None = None
        self._step_counts: dict[str, int] | None = None
        self._published = 0
        self.says_progress = False
        """Whether this run has said how far it is."""
        self._trace = None if batch is None else batch.trace_of(event)
        self.started_at = time.time_ns() if batch is None else batch.started_at
        """When this run of the handler began, in nanoseconds since the epoch."""
        self.event = event
        self.stream = stream
        self.attempt = attempt
        self._started = time.perf_counter() if batch is None else batch.started

    @property
    def queued(self) -> float:
        """Seconds the event waited, in the stream and in this process, before its handler began."""
        entry_id = self._pending.entry_id if self._pending else self.event.entry_id
        waited = self.started_at / 1e9 - int(entry_id.partition("-")[0]) / 1000
        return waited if waited > 0 else 0.0

    @property
    def notes(self) -> dict[str, Any]:
        """What the handler leaves for the outcome hooks of this run; nothing of it is kept."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    @property
    def service(self) -> str:
        """Name of the service, and so of the consumer group."""
        return self._scope.service

    @property
    def scope(self) -> Scope:
        """What all contexts of this service share."""
        return self._scope

    @property
    def elapsed(self) -> float:
        """Seconds since this run of the handler began."""
        return time.perf_counter() - self._started

    @property
    def trace(self) -> TraceContext:
        """Trace context of this run of the handler; what it publishes carries it on."""
        if self._trace is None:
            trace = self.event.trace
            self._trace = (trace if trace.span_id else self._scope.telemetry.begin(trace)).child()
        return self._trace

    @property
    def redis(self) -> AsyncRedis:
        """A client for reading, such as this service's own state; what it writes is no part of the commit."""
        return self._scope.redis

    @property
    def state(self) -> State:
        """State operations that take effect together with this event, exactly once."""
        return self._effects.state

    @property
    def effects(self) -> Effects:
        """What the handler has brought about so far; for tests and hooks."""
        return self._effects

    @property
    def log(self) -> Any:
        """A logger; every line carries event and trace id."""
        return structlog.get_logger(self._scope.service)

    def idempotency_key(self, step: str = "") -> str:
        """Return a key for calls to the outside that is the same on every attempt of this event and step."""
        return f"{self.event.unique_id}:{step}" if step else self.event.unique_id

    def breaker(self, name: str, *, failures: Failure = Exception) -> AbstractAsyncContextManager[None]:
        """Call a dependency through the circuit breaker `name`, shared by the whole fleet.

        ```python
        async with ctx.breaker("crm", failures=(aiohttp.ClientError, TimeoutError)):
            await crm.update(...)
        ```
        `failures` says which exceptions count against the dependency: types, or a function that tells.
        While the breaker is open CircuitOpen ends the run: the event waits and no attempt is used up.
        """
        return self._scope.breakers.guard(name, failures)

    def span(
        self, name: str, *, kind: Kind = "internal", attributes: Attributes | None = None
    ) -> AbstractContextManager[Active]:
        """Time a part of the handler as a span of its own.

        ```python
        with ctx.span("PUT", kind="client") as call:
            await crm.put(..., headers={"traceparent": call.context.traceparent})
        ```
        """
        return span(self._scope.telemetry, self.trace, name, kind=kind, attributes=attributes)

    def emit(
        self,
        stream: str,
        type: str,  # noqa: A002 - the attribute's name
        data: Any = None,
        *,
        subject: str | None = None,
        tenant: str | None = None,
        delay: float = 0.0,
    ) -> str:
        """Publish an event when, and only when, this one is settled as done; return the new event's id.

        Subject and tenant are inherited unless given. `delay` in seconds publishes it later.

        Raises:
            ConfigurationError: streams.yaml does not let this service publish to `stream`.
            InvalidEvent: the data cannot be written as JSON.
            ValueError: `delay` is negative, NaN or more than a year.
        """
        self._effects.check_publishing(stream)
        return self._effects.emit(
            self.event, self.trace, stream, type, data, subject=subject, tenant=tenant, delay=delay
        )

    def report(self, stream: str, type: str, data: Any = None) -> str:  # noqa: A002
        """Publish an event about this attempt, whatever its outcome (for outcome hooks).

        Its id follows from the attempt too: each attempt's report is an event of its own.

        Raises:
            ConfigurationError: streams.yaml does not let this service publish to `stream`.
            InvalidEvent: the data cannot be written as JSON.
        """
        self._effects.check_publishing(stream)
        return self._effects.emit(self.event, self.trace, stream, type, data, index=f"{type}#{self.attempt}")

    async def publish(self, stream: str, type: str, data: Any = None) -> None:  # noqa: A002
        """Publish an event now, whatever becomes of this one: at least once, not with the commit.

        Raises:
            ConfigurationError: streams.yaml does not let this service publish to `stream`.
            Unavailable: Redis could not take it.
        """
        self._scope.check_publishes(stream)
        self._published += 1
        await publish_now(self, stream, type, data, index=f"{type}#{self.attempt}.{self._published}")

    def progress(self, share: float, note: str = "") -> None:
        """Say how far this job is: a share of the work, from 0 to 1, and a few words.

        It returns at once and is no part of the commit: what is said last is written within a third of a second,
        and when the handler ends, for `penstock job`, the client's `watch` and live streams to show. It may be lost
        with the process, or while Redis is away. Of events that are no jobs nothing is written.

        Raises:
            ValueError: the share is not from 0 to 1.
            RuntimeError: this run of the handler is over.
        """
        self._effects.check_open()
        self._scope.progress.tell(self.event, self.stream, make_progress(self.event, self.attempt, share, note))
        self.says_progress = True

    async def step(self, name: str, function: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """Run `function` once for this event, even through crashes and retries, and return its result.

        The result is kept as JSON and, on a later attempt, converted to the function's return annotation.
        A name that is used again in the same run is numbered: the second `charge` is `charge#2`, so in a loop
        each call is a step of its own, as long as every attempt goes through them in the same order.
        A crash between the step's end and the record of it repeats the step: give what it calls
        `ctx.idempotency_key(name)`.

        Raises:
            InvalidEvent: the result cannot be written as JSON, is larger than MOST_RESULT, or what was kept of an
                earlier attempt does not fit the annotation.
            TakenOver: another process has the event now.
            ValueError: the name has a #.
        """
        name = self._numbered(name)
        if self._steps is None:
            loaded = await self._scope.checkpoints.load(self.event.unique_id)
            if self._steps is None:  # another step of this run may have loaded them meanwhile
                self._steps = loaded
        stored = self._steps.get(name)
        if stored is not None:
            return cast(T, _restore(name, stored, function))
        with self.span(f"step {name}"):
            result = await function(*args, **kwargs)
        encoded = _encode_result(name, result)
        kept = await self._scope.checkpoints.store(self.event.unique_id, name, encoded, self._pending)
        self._steps[name] = kept
        return result if kept == encoded else cast(T, _restore(name, kept, function))

    def _numbered(self, name: str) -> str:
        if "#" in name:
            raise ValueError(f"the name of a step has no #, which numbers those of one name: {name!r}")
        if self._step_counts is None:
            self._step_counts = {}
        number = self._step_counts[name] = self._step_counts.get(name, 0) + 1
        return name if number == 1 else f"{name}#{number}"

    def settle_steps(self, outcome: Outcome) -> None:
        """Have the commit remove the event's checkpoint, if it may have one, or keep it until the event comes back."""
        if not self._steps and (self._pending is None or not self._pending.is_retry):
            return
        lifetime = self._scope.checkpoints.lifetime
        if lifetime:
            wait = outcome.delay if isinstance(outcome, Retried) else 0.0
            self._effects.settle_checkpoint(self.event, None if isinstance(outcome, Done) else lifetime + wait)

    def failed(self, *, keep: bool = True) -> Context:
        """Return a context for telling that this run failed: of the same event and span, without its effects.

        `keep` has its trace kept from here on, whatever was decided where it began.
        """
        self._effects.seal()
        told = copy.copy(self)
        if keep and self._scope.telemetry.enabled:
            told._trace = self.trace.keep()  # noqa: SLF001 - of this very class; what fails is always kept
        told._effects = Effects(self._scope)  # noqa: SLF001 - of this very class
        return told


async def publish_now(context: Context, stream: str, type: str, data: Any, *, index: str) -> None:  # noqa: A002
    """Publish an event because of that of `context`, which with `index` makes its id; do not wait for the commit.

    Raises:
        Unavailable: Redis could not take it.
    """
    scope, event, trace = context.scope, context.event, context.trace
    event_id = derived_id(scope.service, event.unique_id, index)
    if trace.sampled:
        sent = send_span(trace, stream, event_id)
        scope.telemetry.record(sent)
        trace = sent.context
    fields = encode_caused(event, type, data, event_id=event_id, source=scope.service, trace=trace)
    await scope.outlet.publish(stream, fields)


class BatchContext:
    """Many events in the hands of a batch handler: settled together or not at all."""

    def __init__(self, scope: Scope, events: Sequence[Event]) -> None:
        self._scope = scope
        self._effects = Effects(scope)
        self.trace = _batch_trace(scope, events)
        """Span of this run: within the event's own trace if it is the only one, else of a trace of its own."""
        self.events = events
        self.service = scope.service
        self.started_at = time.time_ns()
        """When this run began, in nanoseconds since the epoch."""
        self.started = time.perf_counter()

    @property
    def scope(self) -> Scope:
        """What all contexts of this service share."""
        return self._scope

    @property
    def redis(self) -> AsyncRedis:
        """A client for reading; see `Context.redis`."""
        return self._scope.redis

    @property
    def state(self) -> State:
        """State operations that take effect together with these events, exactly once."""
        return self._effects.state

    @property
    def effects(self) -> Effects:
        """What the handler has brought about so far; for tests."""
        return self._effects

    def emit(
        self,
        cause: Event,
        stream: str,
        type: str,  # noqa: A002 - the attribute's name
        data: Any = None,
        *,
        subject: str | None = None,
        tenant: str | None = None,
        delay: float = 0.0,
        links: Sequence[TraceContext] = (),
    ) -> str:
        """Publish an event caused by one of the batch when, and only when, the batch is settled as done.

        `links` are other traces that it comes from.

        Raises:
            ConfigurationError: streams.yaml does not let this service publish to `stream`.
            InvalidEvent: the data cannot be written as JSON.
            ValueError: `delay` is negative, NaN or more than a year.
        """
        self._effects.check_publishing(stream)
        return self._effects.emit(
            cause, self.trace_of(cause), stream, type, data, subject=subject, tenant=tenant, delay=delay, links=links
        )

    def failed(self) -> BatchContext:
        """Return a context for telling that this run failed: of the same events and span, without its effects."""
        self._effects.seal()
        told = copy.copy(self)
        told._effects = Effects(self._scope)  # noqa: SLF001 - of this very class
        if self._scope.telemetry.enabled:
            told.trace = self.trace.keep()
        return told

    def trace_of(self, event: Event) -> TraceContext:
        """Return the trace in which it is told what this run did with one of its events."""
        trace = self.trace if len(self.events) == 1 else event.trace
        return trace if trace.span_id else self._scope.telemetry.begin(trace)


def _batch_trace(scope: Scope, events: Sequence[Event]) -> TraceContext:
    telemetry = scope.telemetry
    if len(events) == 1:
        trace = events[0].trace
        return (trace if trace.span_id else telemetry.begin(trace)).child()
    if telemetry.enabled and any(event.trace.sampled for event in events):
        return TraceContext.new().child().keep()
    return TraceContext.new()


def _encode_result(step: str, result: Any) -> bytes:
    try:
        encoded = encode_data(result).encode()
    except InvalidEvent as error:
        raise InvalidEvent(f"the result of step {step} cannot be kept: {error}") from None
    if len(encoded) > MOST_RESULT:
        raise InvalidEvent(
            f"the result of step {step} is {len(encoded):,} bytes of JSON, and at most {MOST_RESULT:,} are kept: "
            "put it where larger things belong (a file, a bucket, a table) and return where that is"
        )
    return encoded


def _restore(step: str, stored: bytes, function: Callable[..., Any]) -> Any:
    try:
        kind = get_type_hints(function, include_extras=True).get("return", Any)
    except (NameError, TypeError):  # a callable without annotations, or with ones that cannot be resolved
        kind = Any
    try:
        return models.decoder(kind)(stored)
    except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
        raise InvalidEvent(
            f"what an earlier attempt kept of step {step} does not fit what it returns now: {error}"
        ) from None
