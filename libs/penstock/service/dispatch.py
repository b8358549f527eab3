"""Dispatch: entries in, handlers run, units out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from penstock import event as codec
from penstock.errors import InvalidEvent
from penstock.event import Event, Origin
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.service.context import BatchContext, Context, Effects, Scope
from penstock.service.execute import Dead, Done, Outcome, Policy, Retried, call, dead, execute, judge
from penstock.service.handlers import Handler, Handlers
from penstock.streams.janitor import MOST_DEATHS
from penstock.streams.presence import Held
from penstock.streams.read import Row
from penstock.streams.settle import DEAD, DONE, RETRY, Entry, Settled, Settler, Source, Unit
from penstock.topology import ServiceSpec

OutcomeHook = Callable[[Context, Outcome], None]
StartHook = Callable[[Context], Any]

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


class Hooks(msgspec.Struct, frozen=True):
    """What a service wants to do around every single-event handler."""

    on_start: tuple[StartHook, ...] = ()
    on_outcome: tuple[OutcomeHook, ...] = ()


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
        self._policies: dict[str, Policy] = {}
        self._hooks = hooks
        self._client = client
        self._tasks = tasks
        self._settler: Settler | None = None
        self._running = 0
        self._changed = asyncio.Event()
        self._gathering: dict[str, list[Work]] = {}
        self._batching: set[str] = set()
        self._suspects: list[Work] = []
        self._trial: asyncio.Task[None] | None = None
        self.in_hand: dict[Held, Work | None] = {}
        self.refused = 0
        """Entries whose commit came too late: others had taken them over."""

    def use(self, settler: Settler) -> None:
        """Submit units to `settler`, which reports to `concluded`."""
        self._settler = settler

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

    async def drained(self) -> None:
        """Wait until no handler runs."""
        while self._running:
            self._changed.clear()
            await self._changed.wait()

    def cancel(self) -> list[str]:
        """Cancel the handlers that still run; return the ids of their events."""
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
            _log.warning("lost to another consumer: cancelling", event=work.event.id)
            if work.handler.batch is None:  # a batch is refused whole at its commit, and what is left runs again
                work.task.cancel()

    def accept(self, rows: list[Row]) -> None:
        """Take entries in hand and start their handlers."""
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
        for name in list(self._gathering):
            self._start_batch(name)

    def concluded(self, settled: Settled) -> None:
        """Let go of a settled unit; see to what could not be settled."""
        if settled.invalid is not None:
            self._bury_invalid(settled.unit, settled.invalid)
            return
        again: list[Work] = []
        for index, entry in enumerate(settled.unit.entries):
            work = self.in_hand.pop((entry.source, entry.entry_id), None)
            if index in settled.refused:
                self.refused += 1
                _log.warning("commit refused: the entry belongs to another consumer", entry=entry.entry_id)
            elif settled.refused and work is not None:
                again.append(work)
        for work in again:
            self.in_hand[work.held] = work
            self._running += 1
            self._gather(work)
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
        if origin.crashes >= MOST_DEATHS - 1:
            self._suspects.append(work)
            if self._trial is None or self._trial.done():
                self._trial = self._tasks.create_task(self._run_suspects())
        elif handler.batch is not None:
            self._gather(work)
        else:
            work.task = self._tasks.create_task(self._run(work))

    def _unhandled(self, source: Source, entry_id: str, event: Event, origin: Origin) -> None:
        if self._spec.consumes[source.stream].unhandled_on(source.stream) == "skip":
            self._settle_plain(source, entry_id, DONE, [])
            return
        verdict = dead(
            event.type,
            "unhandled",
            f"no handler of {self._scope.service} takes {event.type} on {source.stream}",
        )
        context = Context(self._scope, event, stream=source.stream, attempt=origin.attempt)
        self._conclude(context, verdict, source, entry_id, origin)

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
            work.task = self._tasks.create_task(self._run(work))
            await asyncio.wait([work.task])

    # Running one event

    async def _run(self, work: Work) -> None:
        context = Context(
            self._scope,
            work.event,
            stream=work.source.stream,
            attempt=work.origin.attempt,
            queued=_queued(work.entry_id),
        )
        try:
            for hook in self._hooks.on_start:
                await hook(context)
            outcome = await execute(work.handler, context, self._policy(work))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._let_go(work)
                raise
            outcome = self._judge(error, work)
        except Exception as error:  # noqa: BLE001 - a hook failed: so did this attempt
            outcome = self._judge(error, work)
        self._conclude(context, outcome, work.source, work.entry_id, work.origin)

    def _conclude(self, context: Context, outcome: Outcome, source: Source, entry_id: str, origin: Origin) -> None:
        """Turn the outcome into a unit and submit it."""
        effects = context.effects
        if isinstance(outcome, Done):
            steps = context.settle_steps()
            if steps is not None:
                effects.state.operations.append(list(steps))
        else:
            effects.clear()
        for hook in self._hooks.on_outcome:
            hook(context, outcome)
        self._submit([self._entry(source, entry_id, origin, outcome)], effects)

    def _entry(self, source: Source, entry_id: str, origin: Origin, outcome: Outcome) -> Entry:
        if isinstance(outcome, Done):
            return Entry(source.index, entry_id)
        if isinstance(outcome, Retried):
            attempt = origin.attempt + (0 if outcome.snoozed else 1)
            fields = [
                codec.RETRY_ENTRY,
                origin.entry_id,
                codec.RETRY_ATTEMPT,
                str(attempt),
                codec.RETRY_ERROR,
                outcome.error,
            ]
            return Entry(source.index, entry_id, RETRY, fields, round(outcome.delay * 1000))
        return Entry(source.index, entry_id, DEAD, self._burial(source, origin.entry_id, origin.attempt, outcome))

    # Running batches

    def _gather(self, work: Work) -> None:
        self._gathering.setdefault(work.handler.name, []).append(work)
        self._start_batch(work.handler.name, at_least=work.handler.batch or 1)

    def _start_batch(self, name: str, at_least: int = 1) -> None:
        """Start the next batch of a handler, unless one is under way: meanwhile more gathers."""
        gathered = self._gathering.get(name, [])
        if name in self._batching or len(gathered) < at_least:
            return
        most = gathered[0].handler.batch or 1
        batch, rest = gathered[:most], gathered[most:]
        if rest:
            self._gathering[name] = rest
        else:
            del self._gathering[name]
        self._batching.add(name)
        task = self._tasks.create_task(self._run_batch(name, batch))
        for work in batch:
            work.task = task

    async def _run_batch(self, name: str, batch: list[Work]) -> None:
        try:
            if not await self._try_batch(batch):
                for work in batch:  # one of them is to blame: alone, only the culprit fails
                    await self._try_batch([work])
        except asyncio.CancelledError:
            for work in batch:
                self._let_go(work)
            raise
        finally:
            self._batching.discard(name)
        if name in self._gathering:
            self._start_batch(name)

    async def _try_batch(self, batch: list[Work]) -> bool:
        """Run a batch; return False if it failed and has not been concluded."""
        items: list[Any] = []
        good: list[Work] = []
        for work in batch:
            if work.held not in self.in_hand:
                continue
            try:
                items.append(work.handler.decode(work.event))
                good.append(work)
            except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
                self._conclude_batch([work], dead(work.event.type, "invalid", f"data: {error}"))
        if not good:
            return True
        context = BatchContext(self._scope, [work.event for work in good])
        policy = self._policy(good[0])
        try:
            await call(good[0].handler, items, context, policy.timeout)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a handler raises is its outcome
            if len(good) > 1:
                return False
            self._conclude_batch(good, self._judge(error, good[0]))
        else:
            self._conclude_batch(good, Done(), context.effects)
        return True

    def _conclude_batch(self, batch: list[Work], outcome: Outcome, effects: Effects | None = None) -> None:
        entries = [self._entry(work.source, work.entry_id, work.origin, outcome) for work in batch]
        self._submit(entries, effects or Effects(self._scope))

    # Settling

    def _submit(self, entries: list[Entry], effects: Effects) -> None:
        assert self._settler is not None
        self._settler.submit(Unit(entries, effects.outputs, effects.state.operations))
        self._running -= len(entries)
        self._changed.set()

    def _settle_plain(self, source: Source, entry_id: str, verdict: int, fields: list[str]) -> None:
        """Settle an entry that no handler has seen."""
        self._submit([Entry(source.index, entry_id, verdict, fields)], Effects(self._scope))

    def _bury_invalid(self, unit: Unit, why: str) -> None:
        """Dead-letter entries whose effects Redis can never take."""
        _log.error("effects refused", error=why)
        for entry in unit.entries:
            work = self.in_hand.get((entry.source, entry.entry_id))
            assert work is not None
            self._running += 1
            verdict = dead(work.event.type, "invalid", f"effects: {why}")
            context = Context(self._scope, work.event, stream=work.source.stream, attempt=work.origin.attempt)
            self._conclude(context, verdict, work.source, work.entry_id, work.origin)

    def _burial(self, source: Source, entry_id: str, attempts: int, verdict: Dead) -> list[str]:
        fields = {
            "dlq.stream": source.stream,
            "dlq.group": self._scope.service,
            "dlq.entry": entry_id,
            "dlq.reason": verdict.reason,
            "dlq.error": verdict.error,
            "dlq.attempts": str(attempts),
            "dlq.time": codec.rfc3339(time.time()),
            "dlq.fingerprint": verdict.fingerprint,
            "dlq.traceback": verdict.traceback,
        }
        return [part for pair in fields.items() for part in pair]

    def _let_go(self, work: Work) -> None:
        """Forget an entry without settling it: it is another's now, or is about to be handed back."""
        if self.in_hand.pop(work.held, None) is not None:
            self._running -= 1
            self._changed.set()

    def _judge(self, error: BaseException, work: Work) -> Outcome:
        return judge(error, work.event.type, work.origin.attempt, self._policy(work).retry)

    def _policy(self, work: Work) -> Policy:
        found = self._policies.get(work.handler.name)
        if found is None:
            subscription = self._spec.consumes[work.source.stream]
            found = self._policies[work.handler.name] = Policy(
                work.handler.retry or subscription.retry, work.handler.timeout or subscription.timeout
            )
        return found


def _queued(entry_id: str) -> float:
    return max(0.0, time.time() - int(entry_id.partition("-")[0]) / 1000)
