"""The harness on a real server: each call runs the service there until what it was given is settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec
from redis.exceptions import ResponseError

from penstock.errors import InvalidEvent
from penstock.event import encode_retry
from penstock.resilience import checkpoint
from penstock.resilience.breaker import Failure
from penstock.resilience.checkpoint import Pending
from penstock.service import effects
from penstock.service.app import Service
from penstock.service.context import Context
from penstock.service.effects import Effects, Scope
from penstock.service.execute import Concluded
from penstock.service.handlers import Handler, Handlers
from penstock.service.lifecycle import serve
from penstock.service.outcome import dead, parked
from penstock.service.process import Work
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.testing.doubles import Breakers, Checkpoints, Outlet
from penstock.testing.harness import Harness
from penstock.testing.run import Emitted, Given, Run, fields_of, read
from penstock.topology import Topology

_POLL = 0.005  # seconds between looks whether the group is there
_LOOK = 0.1  # seconds between looks whether a breaker has opened and nothing is read any more
_GRACE = 1.0  # seconds: when the service stops all is settled, but what that has led to
_MOST_RUNS = 50  # of one event: a handler that expects what never holds would run for ever
_REPORTS = {"job.completed", "job.failed", "job.snoozed", "job.dead"}  # the library's own words about a job

Place = tuple[bool, str]
"""Where an event lies: whether on the retry stream, and its entry id."""


class LiveHarness(Harness):
    """A Harness whose handlers run as a service on a real server, with everything that Redis does.

    What still waits for its next attempt when a call ends is taken out: a test that wants one sends it.
    """

    def __init__(
        self, url: str, service: Service, topology: Topology | None = None, *, publishes: Collection[str] | None = None
    ) -> None:
        """Take the URL of a server that belongs to the test alone; the rest is as for a Harness."""
        super().__init__(service, topology, publishes=publishes)
        self._service = service
        self._settings = Settings(redis_url=url, drain_timeout=_GRACE)

    async def send_all(self, stream: str, given: Iterable[Given]) -> list[Run]:
        """Publish several events at once, and run the service until all are settled.

        Raises:
            ConfigurationError: the service does not read `stream`.
        """
        self._check_reads(stream)
        delivery = _Delivery(stream, given, handlers=self._handlers, waiting=self._waiting, scope=self._watched)
        carrier = Service(self._service.name)
        carrier.include(self._service)
        carrier.tasks = [delivery.run]
        carrier.on_start(delivery.begun)
        if delivery.due:
            await serve(carrier, self._settings, self._topology, observer=delivery)
        return [one if isinstance(one, Run) else self._run_of(*one) for one in delivery.results()]

    def _run_of(self, works: Sequence[Work], concluded: Concluded) -> Run:
        return self._told([work.event for work in works], concluded)

    def _emitted(self, effects: Effects) -> list[Emitted]:
        return [one for one in super()._emitted(effects) if one.type not in _REPORTS]

    def _watched(self, scope: Scope) -> Scope:
        """Return a scope that does the same, and tells the doubles of it."""
        return msgspec.structs.replace(
            scope,
            checkpoints=_Checkpoints(scope.checkpoints, self._checkpoints),
            outlet=_Outlet(scope.outlet, self._outlet),
            breakers=_Breakers(scope.breakers, self._breakers),
        )


class _Due(NamedTuple):
    """An event to publish, and the place of its result."""

    number: int
    event_id: str
    is_retry: bool
    fields: list[bytes | str]


class _Delivery:
    """Events on their way through a service: published once it reads, heard of when they are settled."""

    def __init__(
        self,
        stream: str,
        given: Iterable[Given],
        *,
        handlers: Handlers,
        waiting: Callable[[Handler], float],
        scope: Callable[[Scope], Scope],
    ) -> None:
        self._stream = stream
        self._handlers = handlers
        self.scope = scope
        self._results: list[Run | Place] = []
        self.due: list[_Due] = []
        """What is to be published."""
        for one in given:
            self._results.append(self._prepare(one, waiting))
        self._settled: dict[Place, tuple[Sequence[Work], Concluded]] = {}
        self._begun: Counter[str] = Counter()
        self._more = asyncio.Event()

    async def begun(self, context: Context) -> None:
        """Count a run."""
        self._begun[context.event.entry_id] += 1

    def settled(self, works: Sequence[Work], concluded: Concluded) -> None:
        """Note what became of entries."""
        for work in works:
            self._settled[work.source.is_retry, work.entry_id] = works, concluded
        self._more.set()

    async def run(self, runtime: Runtime) -> None:
        """Publish, wait until all is settled, and have the service stop."""
        try:
            await self._group_is_there(runtime)
            await runtime.breakers.look()
            await self._publish(runtime)
            await self._wait(runtime)
            await runtime.redis.delete(*(runtime.keys.delayed(name, runtime.name) for name in runtime.spec.consumes))
        finally:
            runtime.stopping.set()

    def results(self) -> list[Run | tuple[Sequence[Work], Concluded]]:
        """Return what became of the events: first of single ones, in their order, then of batches."""
        singles: list[Run | tuple[Sequence[Work], Concluded]] = []
        batches: dict[int, tuple[Sequence[Work], Concluded]] = {}
        for one in self._results:
            if isinstance(one, Run):
                singles.append(one)
                continue
            works, concluded = self._settled[one]
            if works[0].handler is not None and works[0].handler.batch is not None:
                batches[id(concluded)] = works, concluded
            else:
                singles.append((works, concluded))
        return [*singles, *batches.values()]

    async def _group_is_there(self, runtime: Runtime) -> None:
        """Wait until it is: one that begins with what is new sees nothing that was published before."""
        key = runtime.keys.stream(self._stream)
        while True:
            with contextlib.suppress(ResponseError):  # there is no such stream yet
                if any(group["name"] == runtime.name.encode() for group in await runtime.redis.xinfo_groups(key)):
                    return
            await asyncio.sleep(_POLL)

    def _prepare(self, one: Given, waiting: Callable[[Handler], float]) -> Run | Place:
        """Return what becomes of an event that is not to be published; make all others due."""
        try:
            event = read(self._stream, one)
        except InvalidEvent as error:
            return Run(ids=(one.id or "",), outcome=dead("", "invalid", str(error)))
        handler = self._handlers.find(self._stream, event.type)
        if handler is not None and (wait := waiting(handler)):
            return Run(ids=(event.id,), outcome=parked(handler.needs, wait))
        fields: list[bytes | str] = [*fields_of(one)]
        is_retry = one.attempt > 1
        if is_retry:
            fields += encode_retry(event.entry_id, attempt=one.attempt, error="")
        self.due.append(_Due(len(self._results), event.id, is_retry, fields))
        return is_retry, ""

    async def _publish(self, runtime: Runtime) -> None:
        """Publish all at once, so that batches may find each other."""
        async with runtime.redis.pipeline(transaction=True) as pipeline:
            for one in self.due:
                pipeline.xadd(
                    self._key(runtime, one.is_retry), dict(zip(one.fields[::2], one.fields[1::2], strict=True))
                )
            ids = await pipeline.execute()
        for one, entry_id in zip(self.due, ids, strict=True):
            self._results[one.number] = one.is_retry, entry_id.decode()

    def _key(self, runtime: Runtime, is_retry: bool) -> str:
        keys = runtime.keys
        return keys.retry(self._stream, runtime.name) if is_retry else keys.stream(self._stream)

    async def _wait(self, runtime: Runtime) -> None:
        handlers = self._handlers.on(self._stream)
        while unsettled := [one for one in self.due if self._results[one.number] not in self._settled]:
            self._more.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), _LOOK)
            if max(self._begun.values(), default=0) > _MOST_RUNS:
                raise AssertionError(
                    f"a handler ran {_MOST_RUNS} times: what its ctx.state.expect asks for never holds"
                )
            if handlers and all(runtime.breakers.waiting(handler.needs) > 0 for handler in handlers):
                await self._take_back(runtime, unsettled)

    async def _take_back(self, runtime: Runtime, unsettled: list[_Due]) -> None:
        """Take back what is not read: all handlers of the stream wait for breakers that calls have opened."""
        needs = sorted({name for handler in self._handlers.on(self._stream) for name in handler.needs})
        for one in unsettled:
            place = self._results[one.number]
            assert not isinstance(place, Run)
            key, entry_id = self._key(runtime, one.is_retry), place[1]
            is_in_flight = await runtime.redis.xpending_range(key, runtime.name, entry_id, entry_id, 1)
            if not is_in_flight and place not in self._settled:
                await runtime.redis.xdel(key, entry_id)
                outcome = parked(needs, runtime.breakers.waiting(needs))
                self._results[one.number] = Run(ids=(one.event_id,), outcome=outcome)
                self.due.remove(one)


class _Checkpoints:
    """The real ones; the double hears which steps ran."""

    def __init__(self, real: checkpoint.Checkpoints, double: Checkpoints) -> None:
        self._real, self._double = real, double

    @property
    def lifetime(self) -> float:
        return self._real.lifetime

    async def load(self, event: str) -> dict[str, bytes]:
        return await self._real.load(event)

    async def store(self, event: str, step: str, result: bytes, pending: Pending | None) -> bytes:
        kept = await self._real.store(event, step, result, pending)
        await self._double.store(event, step, result)
        return kept


class _Outlet:
    """The real one; the double hears what was published."""

    def __init__(self, real: effects.Outlet, double: Outlet) -> None:
        self._real, self._double = real, double

    async def publish(self, stream: str, fields: list[str]) -> None:
        await self._real.publish(stream, fields)
        await self._double.publish(stream, fields)


class _Breakers:
    """The real ones, and those that the test has opened."""

    def __init__(self, real: effects.Breakers, double: Breakers) -> None:
        self._real, self._double = real, double

    @contextlib.asynccontextmanager
    async def guard(self, name: str, failures: Failure = Exception) -> AsyncIterator[None]:
        async with self._double.guard(name), self._real.guard(name, failures):
            yield

    def waiting(self, names: Iterable[str]) -> float:
        return self._real.waiting(names)
