"""Dispatch: entries in, handlers run, units out."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import msgspec
import structlog

from penstock import event as codec
from penstock.dlq import dead_letter
from penstock.errors import InvalidEvent
from penstock.event import Event, Origin
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.service.context import Context
from penstock.service.effects import Effects, Scope
from penstock.service.execute import Concluded, Hooks, Policy, conclude, execute, execute_batch
from penstock.service.handlers import Handler, Handlers
from penstock.service.outcome import Dead, Done, Outcome, Retried, dead, parked, unhandled
from penstock.streams.commit import DEAD, DONE, RETRY, Committer, Entry, Settled, Source, Unit
from penstock.streams.heartbeat import Held
from penstock.streams.read import Row
from penstock.streams.rescue import MOST_DEATHS
from penstock.telemetry.spans import Span
from penstock.topology import ServiceSpec

_MOST_UNSETTLED = 1_000
_PAUSE = 0.5  # seconds between tries while Redis is away
_COALESCE = 0.002  # seconds a busy reader waits for more slots, rather than read entries one by one
_log = structlog.get_logger("penstock.dispatch")


class Work(msgspec.Struct, eq=False):
    """An entry in hand."""

    source: Source
    entry_id: str
    event: Event
    origin: Origin
    handler: Handler
    task: asyncio.Task[None] | None = None

    @property
    def held(self) -> Held:
        """The key under which it is in hand."""
        return self.source.index, self.entry_id


class Dispatcher:
    """Runs handlers on the entries it is given and submits what they bring about to the settler.

    An entry is in hand from when it is accepted until it is settled; it takes up one of `concurrency`
    slots until its handler has finished.
    """

    def __init__(
        self,
        scope: Scope,
        spec: ServiceSpec,
        handlers: Handlers,
        *,
        consumer: str,
        hooks: Hooks,
        client: AsyncRedis,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._scope = scope
        self._consumer = consumer
        self._spec = spec
        self._handlers = handlers
        self._policies: dict[Handler, Policy] = {}
        self._hooks = hooks
        self._client = client
        self._tasks = tasks
        self._settler: Committer | None = None
        self._running = 0
        self._slots = asyncio.Semaphore(spec.concurrency)
        self._changed = asyncio.Event()
        self._gathering: dict[Handler, list[Work]] = {}
        self._batching: set[Handler] = set()
        self._suspects: list[Work] = []
        self._trial: asyncio.Task[None] | None = None
        self._untold: dict[int, list[Span]] = {}
        self.in_hand: dict[Held, Work | None] = {}
        self.refused = 0
        """Entries whose commit came too late: others had taken them over."""

    def use(self, committer: Committer) -> None:
        """Submit units to `settler`, which reports to `concluded`."""
        self._settler = committer

    @property
    def running(self) -> int:
        """How many entries have a handler under way or waiting to start."""
        return self._running

    async def room(self) -> int:
        """Wait until handlers can be started; return how many."""
        concurrency = self._spec.concurrency
        enough = concurrency // 4
        waited = False
        while True:
            unsettled = len(self.in_hand) - self._running
            free = min(concurrency - self._running, concurrency + _MOST_UNSETTLED - unsettled)
            if free > 0 and (free >= enough or waited):
                return free
            if free > 0:
                waited = True
                await asyncio.sleep(_COALESCE)
            else:
                self._changed.clear()
                await self._changed.wait()

    def paused(self, stream: str) -> bool:
        """Whether every handler of `stream` waits for a circuit breaker, so that reading it is of no use."""
        handlers = self._handlers.on(stream)
        return bool(handlers) and all(self._scope.breakers.waiting(handler.needs) > 0 for handler in handlers)

    async def drained(self) -> None:
        """Wait until no handler runs."""
        while self._running:
            self._changed.clear()
            await self._changed.wait()

    def cancel(self) -> list[str]:
        """Cancel the handlers that still run; return the ids of their events."""
        if self._trial is not None:
            self._trial.cancel()
        orphans = []
        for work in self.in_hand.values():
            if work is not None and work.task is not None and not work.task.done():
                work.task.cancel()
                orphans.append(work.event.id)
        return orphans

    def lost(self, held: list[Held]) -> None:
        """Stop the handlers of entries that others have taken over."""
        for key in held:
            work = self.in_hand.get(key)
            if work is None or work.task is None or work.task.done():
                continue
            _log.warning("lost to another consumer: cancelling", event_id=work.event.id)
            if work.handler.batch is None:  # a batch is refused whole at its commit, and what is left runs again
                work.task.cancel()

    def accept(self, rows: list[Row]) -> None:
        """Take entries in hand and start their handlers."""
        for stream, count in Counter(source.stream for source, _, _ in rows).items():
            self._scope.telemetry.consumed(count, stream=stream, group=self._scope.service)
        for source, entry_id, fields in rows:
            held = source.index, entry_id
            if held in self.in_hand:
                continue
            self.in_hand[held] = None
            self._running += 1
            if fields is None:
                _log.warning("entry lost: deleted or trimmed while pending", stream=source.key, entry=entry_id)
                self._settle_plain(source, entry_id, DONE, [])
            else:
                self._start(source, entry_id, fields)
        self._start_batches()

    def concluded(self, settled: Settled) -> None:
        """Let go of a settled unit; see to what could not be settled."""
        spans = self._untold.pop(id(settled.unit), ())
        if settled.invalid is not None:
            self._bury_invalid(settled.unit, settled.invalid)
            return
        again: list[Work] = []
        unsettled = bool(settled.refused) or settled.stale
        if not unsettled:
            for span in spans:
                self._scope.telemetry.record(span)
        for index, entry in enumerate(settled.unit.entries):
            work = self.in_hand.pop((entry.source, entry.entry_id), None)
            if index in settled.refused:
                self.refused += 1
                _log.warning("commit refused: the entry belongs to another consumer", entry=entry.entry_id)
            elif unsettled and work is not None:
                again.append(work)
        for work in again:
            self.in_hand[work.held] = work
            self._running += 1
            self._begin(work)
        if again:
            self._start_batches()
        self._changed.set()

    # Starting

    def _start(self, source: Source, entry_id: str, fields: list[bytes]) -> None:
        try:
            if source.is_retry:
                event, origin = codec.decode_retry(source.stream, entry_id, fields)
            else:
                event, origin = codec.decode(source.stream, entry_id, fields), Origin(entry_id)
        except InvalidEvent as error:
            verdict = dead("", "invalid", str(error))
            self._settle_plain(source, entry_id, DEAD, self._burial(source, entry_id, 1, verdict))
            return
        handler = self._handlers.find(source.stream, event.type)
        if handler is None:
            self._unhandled(source, entry_id, event, origin)
            return
        work = Work(source, entry_id, event, origin, handler)
        self.in_hand[work.held] = work
        wait = self._scope.breakers.waiting(handler.needs) if handler.needs else 0.0
        if wait > 0:
            self._submit([self._entry(source, entry_id, origin, parked(handler.needs, wait))], Effects(self._scope))
            return
        if origin.crashes >= MOST_DEATHS - 1:
            self._suspects.append(work)
            if self._trial is None or self._trial.done():
                self._trial = self._tasks.create_task(self._run_suspects())
        else:
            self._begin(work)

    def _begin(self, work: Work) -> None:
        if work.handler.batch is not None:
            self._gather(work)
        else:
            work.task = self._tasks.create_task(self._run(work))

    def _unhandled(self, source: Source, entry_id: str, event: Event, origin: Origin) -> None:
        if self._spec.consumes[source.stream].unhandled_on(source.stream) == "skip":
            self._settle_plain(source, entry_id, DONE, [])
            return
        verdict = unhandled(self._scope.service, source.stream, event.type)
        context = Context(self._scope, event, stream=source.stream, attempt=origin.attempt)
        policy = Policy(self._spec.consumes[source.stream].retry, 0)
        self._settle(source, entry_id, origin, conclude(context, verdict, policy, self._hooks))

    async def _run_suspects(self) -> None:
        """Run entries that were in hand at several deaths one by one, saying which, to find the culprit."""
        while self._suspects:
            work = self._suspects.pop(0)
            try:
                await self._client.hset(self._scope.keys.trials(self._scope.service), self._consumer, work.entry_id)
            except Exception as error:
                if unavailable(error) is None:
                    raise
                self._suspects.insert(0, work)
                await asyncio.sleep(_PAUSE)
                continue
            run = self._run(work) if work.handler.batch is None else self._run_batch([work])
            work.task = self._tasks.create_task(run)
            await asyncio.wait([work.task])

    # Running

    async def _run(self, work: Work) -> None:
        try:
            async with self._slots:  # COUNT holds for each stream, so a read may bring more than there was room for
                context = Context(
                    self._scope,
                    work.event,
                    stream=work.source.stream,
                    attempt=work.origin.attempt,
                    queued=_queued(work.entry_id),
                )
                concluded = await execute(work.handler, context, self._policy(work), self._hooks)
        except asyncio.CancelledError:
            self._let_go(work)
            raise
        self._settle(work.source, work.entry_id, work.origin, concluded)

    async def _run_batch(self, batch: list[Work]) -> None:
        waiting = dict(enumerate(batch))
        handler = batch[0].handler
        events = [(work.event, work.origin.attempt) for work in batch]
        try:
            async for indexes, concluded in execute_batch(handler, self._scope, events, self._policy(batch[0])):
                part = [waiting.pop(index) for index in indexes]
                entries = [self._entry(work.source, work.entry_id, work.origin, concluded.outcome) for work in part]
                self._submit(entries, concluded.effects)
        except asyncio.CancelledError:
            for work in waiting.values():
                self._let_go(work)
            raise

    def _entry(self, source: Source, entry_id: str, origin: Origin, outcome: Outcome) -> Entry:
        if isinstance(outcome, Done):
            return Entry(source.index, entry_id)
        if isinstance(outcome, Retried):
            attempt = origin.attempt + (0 if outcome.snoozed else 1)
            fields = codec.encode_retry(origin.entry_id, attempt=attempt, error=outcome.error)
            return Entry(source.index, entry_id, RETRY, fields, round(outcome.delay * 1000))
        return Entry(source.index, entry_id, DEAD, self._burial(source, origin.entry_id, origin.attempt, outcome))

    # Gathering batches

    def _gather(self, work: Work) -> None:
        self._gathering.setdefault(work.handler, []).append(work)
        self._start_batch(work.handler, at_least=work.handler.batch or 1)

    def _start_batches(self) -> None:
        """Start what has gathered: nothing more comes for now."""
        for handler in list(self._gathering):
            self._start_batch(handler)

    def _start_batch(self, handler: Handler, at_least: int = 1) -> None:
        """Start the next batch of a handler, unless one is under way: meanwhile more gathers."""
        gathered = self._gathering.get(handler, [])
        if handler in self._batching or len(gathered) < at_least:
            return
        most = handler.batch or 1
        batch, rest = gathered[:most], gathered[most:]
        if rest:
            self._gathering[handler] = rest
        else:
            del self._gathering[handler]
        self._batching.add(handler)
        task = self._tasks.create_task(self._run_gathered(batch))
        for work in batch:
            work.task = task

    async def _run_gathered(self, batch: list[Work]) -> None:
        handler = batch[0].handler
        try:
            await self._run_batch(batch)
        finally:
            self._batching.discard(handler)
        self._start_batch(handler)

    # Settling

    def _settle(self, source: Source, entry_id: str, origin: Origin, concluded: Concluded) -> None:
        self._submit([self._entry(source, entry_id, origin, concluded.outcome)], concluded.effects)

    def _submit(self, entries: list[Entry], effects: Effects) -> None:
        assert self._settler is not None
        unit = Unit(entries, effects.outputs, effects.state.operations, effects.state.guards)
        if effects.spans:
            self._untold[id(unit)] = effects.spans
        self._running -= len(entries)
        self._changed.set()
        for stream in effects.streams:
            self._scope.telemetry.sent(1, stream=stream)
        try:
            self._settler.submit(unit)
        except InvalidEvent as error:
            self._untold.pop(id(unit), None)
            self._bury_invalid(unit, str(error))

    def _settle_plain(self, source: Source, entry_id: str, verdict: int, fields: list[str]) -> None:
        """Settle an entry that no handler has seen."""
        self._submit([Entry(source.index, entry_id, verdict, fields)], Effects(self._scope))

    def _bury_invalid(self, unit: Unit, why: str) -> None:
        """Dead-letter entries whose effects Redis can never take."""
        _log.error("effects refused", error=why)
        self._running += len(unit.entries)
        for entry in unit.entries:
            work = self.in_hand.get((entry.source, entry.entry_id))
            if work is None or entry.verdict == DEAD:  # even the report of its death was refused
                self._submit([entry], Effects(self._scope))
                continue
            verdict = dead(work.event.type, "invalid", f"effects: {why}")
            context = Context(self._scope, work.event, stream=work.source.stream, attempt=work.origin.attempt)
            self._settle(
                work.source,
                work.entry_id,
                work.origin,
                conclude(context, verdict, self._policy(work), self._hooks),
            )

    def _burial(self, source: Source, entry_id: str, attempts: int, verdict: Dead) -> list[str]:
        return dead_letter.encode(
            stream=source.stream,
            group=self._scope.service,
            entry=entry_id,
            reason=verdict.reason,
            error=verdict.error,
            attempts=attempts,
            time=time.time(),
            fingerprint=verdict.fingerprint,
            traceparent=verdict.traceparent,
            traceback=verdict.traceback,
        )

    def _let_go(self, work: Work) -> None:
        """Forget an entry without settling it: it is another's now, or is about to be handed back."""
        if self.in_hand.pop(work.held, None) is not None:
            self._running -= 1
            self._changed.set()

    def _policy(self, work: Work) -> Policy:
        found = self._policies.get(work.handler)
        if found is None:
            subscription = self._spec.consumes[work.source.stream]
            found = self._policies[work.handler] = Policy.of(work.handler, subscription)
        return found


def _queued(entry_id: str) -> float:
    return max(0.0, time.time() - int(entry_id.partition("-")[0]) / 1000)
