"""The harness: a service's handlers, run as in production, without Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any

from penstock.errors import ConfigurationError, InvalidEvent
from penstock.event import Event
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.service.app import Service, check_streams
from penstock.service.context import Context
from penstock.service.effects import Effects, Scope
from penstock.service.execute import Concluded, Policy, conclude, execute, execute_batch
from penstock.service.handlers import Handler
from penstock.service.outcome import Done, dead, parked, unhandled
from penstock.testing.doubles import Breakers, Checkpoints, Outlet, ProgressLog
from penstock.testing.run import Emitted, Given, Run, decoded, read
from penstock.topology import ServiceSpec, Stream, Subscription, Topology, load


class Harness:
    """Hands events to the handlers of a service.

    Checkpoints are kept for as long as the harness lives: send an event again under the same `id` and with
    `attempt=2` to see that a step which was done is not repeated.
    """

    def __init__(
        self,
        service: Service,
        topology: Topology | None = None,
        *,
        publishes: Collection[str] | None = None,
        redis: AsyncRedis = None,
    ) -> None:
        """Take the service's declaration from `topology`, else from ./streams.yaml as production does.

        With `publishes` there is no streams.yaml: the service reads what it has handlers for, by the
        defaults, and may publish to these streams. `redis` is what handlers get as `ctx.redis`.

        Raises:
            ConfigurationError: the service and its declaration do not fit together.
        """
        self._handlers = service.handlers
        self._hooks = service.hooks
        if publishes is None:
            self._topology = topology or load()
        else:
            consumes = {stream: Subscription() for stream in self._handlers.streams}
            spec = ServiceSpec(consumes=consumes, publishes=tuple(publishes))
            streams = {stream: Stream() for stream in (*consumes, *publishes)}
            self._topology = Topology(streams=streams, services={service.name: spec})
        self._spec = self._topology.service(service.name)
        check_streams(service, self._spec)
        self._checkpoints = Checkpoints()
        self._outlet = Outlet()
        self._breakers = Breakers()
        self._progress = ProgressLog()
        self._scope = Scope(
            service=service.name,
            keys=Keys(),
            publishes=frozenset(self._spec.publishes),
            checkpoints=self._checkpoints,
            outlet=self._outlet,
            breakers=self._breakers,
            redis=redis,
            progress=self._progress,
        )

    def open_breaker(self, name: str, seconds: float = 60.0) -> None:
        """Open a circuit breaker that would try again in `seconds`."""
        self._breakers.open[name] = seconds

    def close_breaker(self, name: str) -> None:
        """Close a circuit breaker; they all are at first."""
        self._breakers.open.pop(name, None)

    async def send(self, stream: str, type: str, data: Any = None, **attributes: Any) -> Run:  # noqa: A002
        """Hand one event to the service; `attributes` are those of a Given.

        Raises:
            ConfigurationError: the service does not read `stream`.
        """
        return (await self.send_all(stream, [Given(type=type, data=data, **attributes)]))[0]

    async def send_all(self, stream: str, given: Iterable[Given]) -> list[Run]:
        """Hand several events to the service at once; batch handlers get them together.

        Raises:
            ConfigurationError: the service does not read `stream`.
        """
        self._check_reads(stream)
        runs: list[Run] = []
        batches: dict[Handler, list[tuple[Event, int]]] = {}
        for one in given:
            try:
                event = read(stream, one)
            except InvalidEvent as error:
                runs.append(Run(ids=(one.id or "",), outcome=dead("", "invalid", str(error))))
                continue
            handler = self._handlers.find(stream, event.type)
            if handler is not None and handler.batch is not None and not self._waiting(handler):
                batches.setdefault(handler, []).append((event, one.attempt))
            else:
                runs.append(await self._run(stream, event, one.attempt, handler))
        for handler, events in batches.items():
            runs += [run async for run in self._run_batches(stream, handler, events)]
        return runs

    def _check_reads(self, stream: str) -> None:
        if stream not in self._spec.consumes:
            raise ConfigurationError(f"{self._scope.service} has no handler on {stream}")

    async def _run(self, stream: str, event: Event, attempt: int, handler: Handler | None) -> Run:
        subscription = self._spec.consumes[stream]
        context = Context(self._scope, event, stream=stream, attempt=attempt)
        if handler is None:
            if self._topology.unhandled(self._scope.service, stream) == "skip":
                return Run(ids=(event.id,), outcome=Done())
            outcome = unhandled(self._scope.service, stream, event.type)
            concluded = conclude(context, outcome, Policy(subscription.retry, 0), self._hooks)
        elif wait := self._waiting(handler):
            return Run(ids=(event.id,), outcome=parked(handler.needs, wait))
        else:
            concluded = await execute(handler, context, Policy.of(handler, subscription), self._hooks)
        return self._told([event], concluded)

    async def _run_batches(
        self, stream: str, handler: Handler, events: Sequence[tuple[Event, int]]
    ) -> AsyncIterator[Run]:
        policy = Policy.of(handler, self._spec.consumes[stream])
        most = handler.batch or 1
        for start in range(0, len(events), most):
            batch = events[start : start + most]
            alone = dict(enumerate(batch))
            for indexes, concluded in await execute_batch(handler, self._scope, batch, policy):
                yield self._told([alone.pop(index)[0] for index in indexes], concluded)
            for one in alone.values():  # it failed as a whole: one of them is to blame
                [(_, concluded)] = await execute_batch(handler, self._scope, [one], policy)
                yield self._told([one[0]], concluded)

    def _waiting(self, handler: Handler) -> float:
        return self._breakers.waiting(handler.needs)

    def _told(self, events: Sequence[Event], concluded: Concluded) -> Run:
        ids = tuple(event.id for event in events)
        effects = concluded.effects
        return Run(
            ids=ids,
            outcome=concluded.outcome,
            events=self._emitted(effects),
            published=self._outlet.take(events),
            state=self._operations(effects, events),
            guards=[(self._relative(key), field, value or None) for key, field, value in effects.guards],
            steps=self._checkpoints.take([event.unique_id for event in events]),
            progress=self._progress.take(ids),
        )

    def _emitted(self, effects: Effects) -> list[Emitted]:
        keys = self._scope.keys
        names = {key(name): name for name in self._spec.publishes for key in (keys.stream, keys.scheduled)}
        return [
            Emitted(names[output.key], decoded(names[output.key], output.fields), output.delay_ms / 1000)
            for output in effects.outputs
        ]

    def _operations(self, effects: Effects, events: Sequence[Event]) -> list[tuple[str, ...]]:
        ids = [event.unique_id for event in events]
        checkpoints = {self._scope.keys.checkpoint(self._scope.service, event): event for event in ids}
        told: list[tuple[str, ...]] = []
        for command, key, *arguments in effects.operations:
            if key in checkpoints:
                if command == "DEL":  # an event that is done leaves none
                    self._checkpoints.forget(checkpoints[key])
            elif key.startswith(self._scope.keys.state(self._scope.service, "")):  # the record of a job is not its own
                told.append((command, self._relative(key), *arguments))
        return told

    def _relative(self, key: str) -> str:
        return key.removeprefix(self._scope.keys.state(self._scope.service, ""))
