"""Effects: what a handler run brings about, gathered until its commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

import msgspec

from penstock.errors import ConfigurationError
from penstock.event import Event, derived_id, encode_caused
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.resilience.breaker import Failure
from penstock.resilience.checkpoint import Checkpoints
from penstock.service.progress import NoProgress, ProgressSink
from penstock.service.time_limits import TimeLimits
from penstock.streams.commit import Output
from penstock.telemetry.measures import Measures
from penstock.telemetry.spans import Span, send_span
from penstock.times import check_delay
from penstock.trace_context import TraceContext


class Outlet(Protocol):
    """Where events go that do not wait for the commit: a Publisher."""

    async def publish(self, stream: str, fields: list[str]) -> object:
        """Publish one event; return once it is kept."""


class Breakers(Protocol):
    """The circuit breakers a handler may call through."""

    def guard(self, name: str, failures: Failure = Exception) -> AbstractAsyncContextManager[None]:
        """Run what is inside through breaker `name`."""

    def waiting(self, names: Iterable[str]) -> float:
        """Return the seconds until all of these may let calls pass; 0 when they do."""


class Scope(msgspec.Struct, frozen=True):
    """What all contexts of one service share."""

    service: str
    keys: Keys
    publishes: frozenset[str]
    checkpoints: Checkpoints
    outlet: Outlet
    breakers: Breakers
    redis: AsyncRedis | None = None
    telemetry: Measures = msgspec.field(default_factory=Measures)
    progress: ProgressSink = msgspec.field(default_factory=NoProgress)
    time_limits: TimeLimits = msgspec.field(default_factory=TimeLimits)

    def check_publishes(self, stream: str) -> None:
        """Refuse to publish where streams.yaml does not say that this service does.

        Raises:
            ConfigurationError: with the key to add.
        """
        if stream not in self.publishes:
            raise ConfigurationError(f"streams.yaml: services.{self.service}.publishes does not list {stream}; add it")


class Effects:
    """What a handler call brings about; nothing of it happens before the commit.

    Once sealed it takes nothing more: a plain function goes on in its thread when its time is over, and what
    it does then must not slip into the commit that says it failed.
    """

    __slots__ = ("_emitted", "_scope", "guards", "operations", "outputs", "sealed", "spans", "streams")

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._emitted: dict[str, int] | None = None
        self.outputs: list[Output] = []
        self.streams: list[str] = []
        """Stream of each output."""
        self.operations: list[list[Any]] = []
        """The state operations asked for."""
        self.guards: list[tuple[str, str, str | Literal[False]]] = []
        """The guards asked for."""
        self.spans: list[Span] = []
        self.sealed = False

    @property
    def state(self) -> State:
        """State operations."""
        return State(self._scope.keys, self._scope.service, self)

    def emit(
        self,
        cause: Event,
        trace: TraceContext,
        stream: str,
        type: str,  # noqa: A002 - the attribute's name
        data: Any,
        *,
        index: str | None = None,
        subject: str | None = None,
        tenant: str | None = None,
        delay: float = 0.0,
        links: Sequence[TraceContext] = (),
    ) -> str:
        """Add an event caused by `cause`; return its id, which follows from the cause and `index`.

        Without an index it is the number of events that `cause` has brought about so far. Whether a handler may do so
        is `check_publishing`'s to say.
        """
        scope = self._scope
        check_delay("delay", delay)
        if index is None:  # two events of one batch may have the same id, and entry ids of different streams too
            if self._emitted is None:
                self._emitted = {}
            number = self._emitted.get(cause.entry_id, 0)
            self._emitted[cause.entry_id] = number + 1
            index = str(number)
        event_id = derived_id(scope.service, cause.unique_id, index)
        if trace.sampled:
            self.spans.append(send_span(trace, stream, event_id, links))
            trace = self.spans[-1].context
        elif not trace.span_id:
            trace = trace.child()
        fields = encode_caused(
            cause,
            type,
            data,
            event_id=event_id,
            source=scope.service,
            trace=trace,
            subject=subject,
            tenant=tenant,
            links=links,
        )
        self.streams.append(stream)
        if delay > 0:
            self.outputs.append(Output(scope.keys.scheduled(stream), fields, max(1, round(delay * 1000))))
        else:
            self.outputs.append(Output(scope.keys.stream(stream), fields))
        return event_id

    def settle_checkpoint(self, event: Event, keep: float | None) -> None:
        """Have the commit remove the checkpoint of an event, or let it live for `keep` seconds at least."""
        key = self._scope.keys.checkpoint(self._scope.service, event.unique_id)
        operation = ["DEL", key] if keep is None else ["PEXPIRE", key, str(round(keep * 1000)), "GT"]
        self.operations.append(operation)

    def forget_cancelled(self, stream: str, entry_id: str) -> None:
        """Have the commit take away the mark of an entry that was cancelled."""
        self.operations.append(["HDEL", self._scope.keys.cancelled(stream), entry_id])

    def keep_record(self, event: Event, record: str, *, owner: str, ttl: float) -> None:
        """Have the commit write what became of a job, unless the record is another entry's than `owner`: that stays.

        It lives for `ttl` seconds from then on.
        """
        operation = ["HSETOWN", self._scope.keys.job(event.id), event.source, owner, record, str(round(ttl * 1000))]
        self.operations.append(operation)

    def check_publishing(self, stream: str) -> None:
        """Refuse what comes too late, or goes where streams.yaml does not say that this service publishes.

        Raises:
            RuntimeError: this run of the handler is over.
            ConfigurationError: with the key to add.
        """
        self.check_open()
        self._scope.check_publishes(stream)

    def check_open(self) -> None:
        """Refuse what comes too late.

        Raises:
            RuntimeError: this run of the handler is over.
        """
        if self.sealed:
            raise RuntimeError("this run of the handler is over: what it brings about now can have no effect")

    def seal(self) -> None:
        """Take nothing more."""
        self.sealed = True


class State:
    """State operations on keys of this service: they take effect together with the event, exactly once.

    Names are relative: `hincrby("counts", "a")` works on key `state:<service>:counts`.
    """

    def __init__(self, keys: Keys, service: str, effects: Effects) -> None:
        self._keys = keys
        self._service = service
        self._effects = effects

    def key(self, name: str) -> str:
        """Return the full Redis key of `name`, for reading."""
        return self._keys.state(self._service, name)

    def expect(self, name: str, field: str, value: str | None) -> None:
        """Settle only if `field` of the hash `name` still holds `value` then; None: it is not there.

        Otherwise nothing of this run takes effect, no attempt is used up, and the handler runs again: what it
        reads, decides and writes is thus one step, however many replicas do the same. The handler must
        read the guarded field first, and change it with every commit.
        """
        self._effects.check_open()
        self._effects.guards.append((self.key(name), field, False if value is None else value))

    def hincrby(self, name: str, field: str, by: int = 1) -> None:
        """Add `by` to an integer in a hash."""
        self._add("HINCRBY", name, field, str(by))

    def hincrbyfloat(self, name: str, field: str, by: float) -> None:
        """Add `by` to a number in a hash."""
        self._add("HINCRBYFLOAT", name, field, repr(by))

    def hset(self, name: str, values: dict[str, str | float]) -> None:
        """Set fields of a hash."""
        if values:
            self._add("HSET", name, *(str(part) for pair in values.items() for part in pair))

    def hdel(self, name: str, *fields: str) -> None:
        """Delete fields of a hash."""
        if fields:
            self._add("HDEL", name, *fields)

    def zadd(self, name: str, scores: dict[str, float]) -> None:
        """Set the scores of members of a sorted set."""
        if scores:
            self._add("ZADD", name, *(part for member, score in scores.items() for part in (repr(score), member)))

    def zrem(self, name: str, *members: str) -> None:
        """Remove members of a sorted set."""
        if members:
            self._add("ZREM", name, *members)

    def sadd(self, name: str, *members: str) -> None:
        """Add members to a set."""
        if members:
            self._add("SADD", name, *members)

    def srem(self, name: str, *members: str) -> None:
        """Remove members of a set."""
        if members:
            self._add("SREM", name, *members)

    def append(self, name: str, *values: str) -> None:
        """Put values at the end of a list, in this order."""
        if values:
            self._add("RPUSH", name, *values)

    def push(self, name: str, *values: str, most: int) -> None:
        """Put values in front of a list, the last one foremost, and keep the first `most` of it."""
        if values:
            self._add("LPUSH", name, *values)
            self._add("LTRIM", name, "0", str(most - 1))

    def set(self, name: str, value: str, *, ttl: float | None = None) -> None:
        """Set a string; `ttl` in seconds."""
        self._add("SET", name, value, *(() if ttl is None else ("PX", str(round(ttl * 1000)))))

    def incrby(self, name: str, by: int = 1) -> None:
        """Add `by` to an integer."""
        self._add("INCRBY", name, str(by))

    def delete(self, name: str) -> None:
        """Delete a key."""
        self._add("DEL", name)

    def expire(self, name: str, ttl: float) -> None:
        """Let a key expire in `ttl` seconds."""
        self._add("PEXPIRE", name, str(round(ttl * 1000)))

    def _add(self, command: str, name: str, *arguments: str) -> None:
        self._effects.check_open()
        self._effects.operations.append([command, self.key(name), *arguments])
