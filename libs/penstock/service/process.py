"""The life of one entry: from where it was read to its commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec
import structlog

from penstock import event as codec
from penstock.dlq import dead_letter
from penstock.errors import InvalidEvent
from penstock.event import Event, Origin
from penstock.resilience.checkpoint import Pending
from penstock.service.context import BatchContext, Context
from penstock.service.effects import Effects, Scope
from penstock.service.execute import Concluded, Hooks, Policy, conclude, execute, execute_batch
from penstock.service.handlers import Handler, Handlers
from penstock.service.outcome import Dead, Done, Outcome, Retried, crashed, dead, early, outcome_of, parked, unhandled
from penstock.service.reports import Reports
from penstock.service.runs import Run
from penstock.streams.commit import DEAD, RETRY, Commit, Commits, Entry, Settled, Source, UnitOfWork
from penstock.streams.heartbeat import Held
from penstock.streams.read import Cancelled
from penstock.streams.rescue import MOST_DEATHS
from penstock.topology import ServiceSpec

_log = structlog.get_logger("penstock.process")
_NO_EVENT = Event(type="", id="")


class Work(msgspec.Struct, eq=False):
    """An entry in flight. `ready` is what becomes of it where no handler is to see it.

    `read_again`: it was read once more meanwhile, as when its group was lost and made anew. If the commit under way
    then comes to nothing, the entry is still ours to do.
    """

    source: Source
    entry_id: str
    fields: list[bytes] | None
    event: Event = _NO_EVENT
    origin: Origin = Origin("")
    handler: Handler | None = None
    ready: Concluded | None = None
    run: Run | None = None
    read_again: bool = False
    size: int = 0
    """Bytes of its fields."""

    @property
    def held(self) -> Held:
        """The key under which it is in flight."""
        return self.source.index, self.entry_id


Observe = Callable[[Sequence[Work], Concluded], None]


class Slots:
    """How many entries have a handler under way or waiting to start, of all that are in flight."""

    def __init__(self) -> None:
        self.taken = 0
        self._changed = asyncio.Event()
        self._is_awaited = False

    def take(self, count: int) -> None:
        """Take slots for entries whose handlers are to run."""
        self.taken += count

    def give_back(self, count: int) -> None:
        """Give back the slots of entries whose handlers have run."""
        self.taken -= count
        self.tell()

    def tell(self) -> None:
        """Say that entries have left, or given back their slots."""
        if self._is_awaited:
            self._changed.set()

    async def change(self) -> None:
        """Wait until that is said."""
        self._changed.clear()
        self._is_awaited = True
        await self._changed.wait()
        self._is_awaited = False


class Processing:
    """Takes entries to their commits."""

    def __init__(
        self,
        scope: Scope,
        spec: ServiceSpec,
        handlers: Handlers,
        *,
        hooks: Mapping[str, Hooks],
        reports: Mapping[str, Reports],
        skips: Collection[str],
        committer: Commits,
        again: Callable[[Sequence[Work]], None],
        alone: Callable[[Work], None],
        cancelled: Cancelled | None = None,
        observe: Observe | None = None,
    ) -> None:
        """Take what is done around handlers by stream, and `reports` of those that carry jobs.

        On the streams in `skips` an event that nobody asks for is let go. `again` starts entries that have to be
        handled once more, `alone` one of a batch that has failed. What is `cancelled` no handler sees, and it is
        taken out of there. `observe` is called with what has been settled.
        """
        self._scope = scope
        self._spec = spec
        self._handlers = handlers
        self._hooks = hooks
        self._reports = reports
        self._skips = skips
        self._committer = committer
        self._again = again
        self._alone = alone
        self._cancelled: Cancelled = set() if cancelled is None else cancelled
        self._observe = observe
        self._policies: dict[Handler, Policy] = {}
        self.slots = Slots()
        self.in_flight: dict[Held, Work] = {}
        self.bytes_in_flight = 0
        self.refused = 0
        """Entries whose commit came too late: others had taken them over."""

    def open(self, source: Source, entry_id: str, fields: list[bytes] | None) -> Work:
        """Read an entry and find its handler, or say what becomes of it without one."""
        work = Work(source, entry_id, fields, size=sum(map(len, fields or ())))
        if fields is None:
            _log.warning("entry lost: deleted or trimmed while pending", stream=source.key, entry=entry_id)
            work.ready = self._without_effects(Done())
            return work
        try:
            if source.is_retry:
                work.event, work.origin = codec.decode_retry(source.stream, entry_id, fields)
            else:
                work.event, work.origin = codec.decode(source.stream, entry_id, fields), Origin(entry_id)
        except InvalidEvent as error:
            work.origin = Origin(entry_id)
            work.ready = self._without_effects(dead("", "invalid", str(error)))
            return work
        if self._cancelled and self._take_cancelled(work):
            return work
        handler = work.handler = self._handlers.find(source.stream, work.event.type)
        if work.event.extra and not source.is_retry:
            work.ready = self._early(work)
        if work.ready is not None:
            return work
        if work.origin.crashes >= MOST_DEATHS:
            work.ready = self._condemned(work)
        elif handler is None:
            work.ready = self._unhandled(work)
        elif handler.needs and (wait := self._scope.breakers.waiting(handler.needs)) > 0:
            work.ready = self._parked(work, handler, wait)
        return work

    async def entry(self, work: Work) -> None:
        """Take one entry from where it was read to its commit."""
        while True:
            try:
                concluded = work.ready or await self._execute(work)
            except asyncio.CancelledError:
                self._let_go(work)
                raise
            settled = await self._submit([work], concluded)
            if settled.invalid is not None:
                concluded, settled = await self._bury(work, concluded.outcome, settled.invalid)
            if not settled.stale and not (settled.refused and _is_to_be_done_again(work)):
                break
            self.slots.take(1)
        if settled.refused:
            self._refuse(work)
        else:
            self._told([work], concluded)
        self.leave(work)
        self.slots.tell()

    async def batch(self, works: list[Work], over: Callable[[], None]) -> None:
        """Take the entries of one call of a batch handler to their commits; call `over` once it has returned."""
        handler = works[0].handler
        assert handler is not None
        events = [(work.event, work.origin.attempt) for work in works]
        try:
            parts = await execute_batch(handler, self._scope, events, self._policy(works[0], handler))
        except asyncio.CancelledError as error:
            if _is_cancelled(works[0]):
                for work in works:
                    self._let_go(work)
                raise
            parts = self._self_cancelled(works, error)
        finally:
            over()
        commits: list[tuple[list[Work], Concluded, Commit]] = []
        alone = dict(enumerate(works))
        for indexes, concluded in parts:
            part = [alone.pop(index) for index in indexes]
            commits.append((part, concluded, self._submit(part, concluded)))
        for work in alone.values():
            self._alone(work)
        for part, concluded, commit in commits:
            await self._finish_part(part, concluded, await commit)

    async def _execute(self, work: Work) -> Concluded:
        handler = work.handler
        assert handler is not None
        if _is_cancelled(work):
            raise asyncio.CancelledError
        context = self._context(work)
        policy = self._policies.get(handler) or self._policy(work, handler)
        try:
            return await execute(handler, context, policy, self._hooks[work.source.stream])
        except asyncio.CancelledError as error:
            if _is_cancelled(work):
                raise
            outcome = outcome_of(_own_cancelling(error), work.event.type, work.origin.attempt, policy.retry)
            return conclude(context, outcome, policy, self._hooks[work.source.stream])

    def _submit(self, works: list[Work], concluded: Concluded) -> Commit:
        """Commit what a handler call has come to: from here on it takes up no slot."""
        outcome, effects = concluded.outcome, concluded.effects
        self.slots.give_back(len(works))
        self._report(works, concluded)
        if not isinstance(outcome, Done):
            for work in works:
                _tell_failure(work, outcome)
            entries = [self._disposition(work, outcome) for work in works]
        else:
            entries = [Entry(work.source.index, work.entry_id) for work in works]
        return self._committer.submit(UnitOfWork(entries, effects.outputs, effects.operations, effects.guards))

    def _report(self, works: list[Work], concluded: Concluded) -> None:
        """Add to what is committed what has become of these jobs, if they are any."""
        reports, run = self._reports.get(works[0].source.stream), concluded.context
        if reports is None or run is None:
            return
        for work in works:
            context = self._context(work, run) if isinstance(run, BatchContext) else run
            reports.outcome(context, concluded.outcome)

    async def _finish_part(self, part: list[Work], concluded: Concluded, settled: Settled) -> None:
        """See to what a commit of several entries says of each."""
        if settled.invalid is not None and len(part) > 1:  # one of them is to blame, and only that one fails
            self.slots.take(len(part))
            for work in part:
                self._alone(work)
        elif settled.invalid is not None:
            told, settled = await self._bury(part[0], concluded.outcome, settled.invalid)
            if settled.refused:
                self._refuse(part[0])
            else:
                self._told(part, told)
            self.leave(part[0])
        elif settled.refused or settled.stale:
            gone = [part[index] for index in settled.refused if not _is_to_be_done_again(part[index])]
            for work in gone:
                self._refuse(work)
                self.leave(work)
            again = [work for work in part if work not in gone]
            self.slots.take(len(again))
            self._again(again)
        else:
            self._told(part, concluded)
            for work in part:
                self.leave(work)
        self.slots.tell()

    async def _bury(self, work: Work, outcome: Outcome, why: str) -> tuple[Concluded, Settled]:
        """Dead-letter an entry whose effects Redis can never take; return what it has come to instead."""
        _log.error("effects refused", error=why, event_id=work.event.id)
        buried = outcome if isinstance(outcome, Dead) else dead(work.event.type, "invalid", f"effects: {why}")
        if work.handler is not None and not isinstance(outcome, Dead):
            policy, hooks = self._policy(work, work.handler), self._hooks[work.source.stream]
            told = conclude(self._context(work), buried, policy, hooks)
            self.slots.take(1)
            settled = await self._submit([work], told)
            if settled.invalid is None:
                return told, settled
        bare = self._without_effects(buried)  # even the report of its death was refused
        self.slots.take(1)
        return bare, await self._submit([work], bare)

    def _disposition(self, work: Work, outcome: Dead | Retried) -> Entry:
        source, origin = work.source, work.origin
        if isinstance(outcome, Retried):
            attempt = origin.attempt + (0 if outcome.snoozed else 1)
            fields = codec.encode_retry(origin.entry_id, attempt=attempt, error=outcome.error, crashes=origin.crashes)
            return Entry(
                source.index, work.entry_id, RETRY, fields, round(outcome.delay * 1000), work.size, work.fields or []
            )
        fields = dead_letter.encode(
            stream=source.stream,
            group=self._scope.service,
            entry=origin.entry_id,
            reason=outcome.reason,
            error=outcome.error,
            attempts=origin.attempt,
            time=time.time(),
            fingerprint=outcome.fingerprint,
            traceparent=outcome.traceparent,
            traceback=outcome.traceback,
        )
        return Entry(source.index, work.entry_id, DEAD, fields, size=work.size, in_hand=work.fields or [])

    def _context(self, work: Work, batch: BatchContext | None = None) -> Context:
        source, attempt = work.source, work.origin.attempt
        pending = Pending(source.key, work.entry_id, self._committer.consumer, source.is_retry)
        return Context(self._scope, work.event, stream=source.stream, attempt=attempt, pending=pending, batch=batch)

    def _parked(self, work: Work, handler: Handler, wait: float) -> Concluded:
        concluded = self._without_effects(parked(handler.needs, wait))
        lifetime = self._scope.checkpoints.lifetime
        if work.source.is_retry and lifetime:  # earlier attempts may have left a checkpoint
            concluded.effects.settle_checkpoint(work.event, lifetime + wait)
        return concluded

    def _early(self, work: Work) -> Concluded | None:
        """Conclude an entry that is not due yet: it comes back then, for its first attempt."""
        try:
            due = work.event.due
        except InvalidEvent as error:
            return self._dead(work, dead(work.event.type, "invalid", str(error)))
        wait = 0.0 if due is None else due - time.time()
        return self._without_effects(early(wait)) if wait > 0 else None

    def _unhandled(self, work: Work) -> Concluded:
        stream = work.source.stream
        if stream in self._skips:
            return self._without_effects(Done())
        return self._dead(work, unhandled(self._scope.service, stream, work.event.type))

    def _condemned(self, work: Work) -> Concluded:
        return self._dead(work, crashed(work.event.type, work.origin.crashes))

    def _take_cancelled(self, work: Work) -> bool:
        """Have an entry that is cancelled settled: its record says already what has become of it."""
        entry = work.source.stream, work.origin.entry_id
        if entry not in self._cancelled:
            return False
        self._cancelled.remove(entry)
        work.ready = self._without_effects(Done())
        work.ready.effects.forget_cancelled(*entry)
        return True

    def _dead(self, work: Work, outcome: Dead) -> Concluded:
        """Conclude an entry whose handler does not run, or that has none."""
        stream = work.source.stream
        policy = Policy(self._spec.consumes[stream].retry, 0)
        return conclude(self._context(work), outcome, policy, self._hooks[stream])

    def _self_cancelled(self, works: list[Work], error: BaseException) -> list[tuple[list[int], Concluded]]:
        if len(works) > 1:
            return []
        work, handler = works[0], works[0].handler
        assert handler is not None
        policy = self._policy(work, handler)
        outcome = outcome_of(_own_cancelling(error), work.event.type, work.origin.attempt, policy.retry)
        told = BatchContext(self._scope, [work.event])
        return [([0], Concluded(outcome, told.effects, told))]

    def _without_effects(self, outcome: Outcome) -> Concluded:
        return Concluded(outcome, Effects(self._scope))

    def _told(self, works: list[Work], concluded: Concluded) -> None:
        effects, telemetry = concluded.effects, self._scope.telemetry
        if self._observe is not None:
            self._observe(works, concluded)
        for stream in effects.streams:
            telemetry.sent(1, stream=stream)
        for span in effects.spans:
            telemetry.record(span)

    def _refuse(self, work: Work) -> None:
        self.refused += 1
        _log.warning("commit refused: the entry is not pending for this process any more", entry=work.entry_id)

    def _let_go(self, work: Work) -> None:
        """Forget an entry without settling it: it is another's now, or is about to be handed back."""
        if self.leave(work):
            self.slots.give_back(1)

    def enter(self, work: Work) -> None:
        """Take an entry in flight."""
        self.in_flight[work.held] = work
        self.bytes_in_flight += work.size

    def leave(self, work: Work) -> bool:
        """Have an entry in flight no more; return whether it was."""
        if self.in_flight.pop(work.held, None) is None:
            return False
        self.bytes_in_flight -= work.size
        return True

    def _policy(self, work: Work, handler: Handler) -> Policy:
        found = self._policies.get(handler)
        if found is None:
            found = self._policies[handler] = Policy.of(handler, self._spec.consumes[work.source.stream])
        return found


def _tell_failure(work: Work, outcome: Dead | Retried) -> None:
    """Log an attempt that failed: with the traceback if it was the last."""
    what = {"event_id": work.event.id or work.entry_id, "type": work.event.type, "attempt": work.origin.attempt}
    if work.handler is not None:
        what["handler"] = work.handler.name
    if isinstance(outcome, Dead):
        told = {"traceback": outcome.traceback} if outcome.traceback else {}
        _log.error("dead-lettered", **what, reason=outcome.reason, error=outcome.error, **told)
    elif not outcome.snoozed:
        _log.warning("attempt failed", **what, error=outcome.error, again_in=round(outcome.delay, 3))


def _is_to_be_done_again(work: Work) -> bool:
    """Return whether an entry whose commit was refused was read again meanwhile; that counts once."""
    again, work.read_again = work.read_again, False
    return again


def _is_cancelled(work: Work) -> bool:
    return work.run is not None and work.run.cancelled


def _own_cancelling(error: BaseException) -> Exception:
    """Return what to say of a handler that has cancelled itself, as some time-out libraries do."""
    return RuntimeError("the handler was cancelled from within").with_traceback(error.__traceback__)
