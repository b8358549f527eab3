"""Dispatch: which entries may start now. Slots, batches that gather, and suspects that run alone."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import structlog

from penstock.redis.connection import AsyncRedis, unavailable
from penstock.service.effects import Scope
from penstock.service.execute import Hooks
from penstock.service.handlers import Handler, Handlers
from penstock.service.process import Observe, Processing, Work
from penstock.service.reports import Reports
from penstock.service.runs import Runs
from penstock.streams.commit import Commits
from penstock.streams.heartbeat import Held
from penstock.streams.read import Cancelled, Row
from penstock.streams.rescue import MOST_DEATHS
from penstock.topology import ServiceSpec

_MOST_UNSETTLED = 1_000
_MOST_BYTES = 64_000_000  # in flight; a read more, which has bounds of its own
_PAUSE = 0.5  # seconds between tries while Redis is away
_COALESCE = 0.002  # seconds a busy reader waits for more slots, rather than read entries one by one
_TAKEN_OVER = "lost: this process was silent, and another took the entry over: cancelling"
_TAKEN_AWAY = "lost: somebody took the entry away by hand (XGROUP DELCONSUMER, XACK or the like): cancelling"
_log = structlog.get_logger("penstock.dispatch")


class Dispatcher:
    """Starts handlers on the entries it is given.

    An entry is in flight from when it is accepted until it is settled; it takes up one of `concurrency`
    slots until its handler has finished.
    """

    def __init__(
        self,
        scope: Scope,
        spec: ServiceSpec,
        handlers: Handlers,
        *,
        consumer: str,
        hooks: Mapping[str, Hooks],
        reports: Mapping[str, Reports],
        skips: Collection[str],
        client: AsyncRedis,
        committer: Commits,
        runs: Runs,
        cancelled: Cancelled | None = None,
        observe: Observe | None = None,
    ) -> None:
        """What is `cancelled` is settled, and no handler sees it. `observe` is called with what has been settled."""
        self._scope = scope
        self._spec = spec
        self._consumer = consumer
        self._handlers = handlers
        self._client = client
        self._runs = runs
        self._processing = Processing(
            scope,
            spec,
            handlers,
            hooks=hooks,
            reports=reports,
            skips=skips,
            committer=committer,
            again=self._start_again,
            alone=self._start_alone,
            cancelled=cancelled,
            observe=observe,
        )
        self._slots = self._processing.slots
        self._gathering: dict[Handler, list[Work]] = {}
        self._batching: set[Handler] = set()
        self._suspects: list[Work] = []
        self._quarantined: Work | None = None
        self.in_flight = self._processing.in_flight

    @property
    def running(self) -> int:
        """How many entries have a handler under way or waiting to start."""
        return self._slots.taken

    @property
    def refused(self) -> int:
        """How many commits came too late."""
        return self._processing.refused

    async def room(self) -> int:
        """Wait until handlers can be started; return how many."""
        concurrency = self._spec.concurrency
        enough = concurrency // 4
        waited = False
        while True:
            unsettled = len(self.in_flight) - self._slots.taken
            free = min(concurrency - self._slots.taken, concurrency + _MOST_UNSETTLED - unsettled)
            if self._processing.bytes_in_flight >= _MOST_BYTES:
                free = 0
            if free > 0 and (free >= enough or waited):
                return free
            if free > 0:
                waited = True
                await asyncio.sleep(_COALESCE)
            else:
                await self._slots.change()

    def paused(self, stream: str) -> bool:
        """Whether every handler of `stream` waits for a circuit breaker, so that reading it is of no use."""
        handlers = self._handlers.on(stream)
        return bool(handlers) and all(self._scope.breakers.waiting(handler.needs) > 0 for handler in handlers)

    async def drained(self) -> None:
        """Wait until no handler runs."""
        while self._slots.taken:
            await self._slots.change()

    def cancel(self) -> list[str]:
        """Cancel the handlers that still run; return the ids of their events."""
        self._suspects.clear()
        orphans = []
        for work in self.in_flight.values():
            if work.run is not None:
                if work.run.is_running:
                    orphans.append(work.event.id)
                work.run.cancel()
        return orphans

    def lost(self, held: list[Held], was_silent: bool) -> None:
        """Stop the handlers of entries that are pending for another process, or for none.

        Others take over from a process that was silent; from one that was not, nobody but a person takes anything.
        """
        for key in held:
            work = self.in_flight.get(key)
            if work is None or work.run is None or not work.run.is_running:
                continue
            _log.warning(_TAKEN_OVER if was_silent else _TAKEN_AWAY, event_id=work.event.id)
            if work.handler is None or work.handler.batch is None:  # a batch is refused whole at its commit
                work.run.cancel()

    def accept(self, rows: Sequence[Row]) -> None:
        """Take entries in flight and start their handlers."""
        counts: dict[str, int] = {}
        accepted = 0
        for source, entry_id, fields in rows:
            counts[source.stream] = counts.get(source.stream, 0) + 1
            held = source.index, entry_id
            known = self.in_flight.get(held)
            if known is not None:
                known.read_again = True
                continue
            work = self._processing.open(source, entry_id, fields)
            self._processing.enter(work)
            accepted += 1
            if work.origin.crashes >= MOST_DEATHS - 1 and work.ready is None:
                self._suspect(work)
            else:
                self._start(work)
        self._slots.take(accepted)  # no handler has begun: runs begin with the next turn of the loop
        self._start_batches()
        for stream, count in counts.items():
            self._scope.telemetry.consumed(count, stream=stream, group=self._scope.service)

    def _start(self, work: Work) -> None:
        if work.ready is None and work.handler is not None and work.handler.batch is not None:
            self._gather(work)
        else:
            work.run = self._runs.start(self._processing.entry(work))

    def _start_again(self, works: Sequence[Work]) -> None:
        """Start entries whose commit came to nothing."""
        for work in works:
            self._start(work)
        self._start_batches()

    def _start_alone(self, work: Work) -> None:
        """Start an entry whose batch failed: another batch could fail with it."""
        work.run = self._runs.start(self._processing.batch([work], over=_nothing))

    # Quarantine

    def _suspect(self, work: Work) -> None:
        self._suspects.append(work)
        if self._quarantined is None:
            self._next_suspect()

    def _next_suspect(self) -> None:
        self._quarantined = self._suspects.pop(0) if self._suspects else None
        if self._quarantined is not None:
            self._quarantined.run = self._runs.start(self._run_suspect(self._quarantined))

    async def _run_suspect(self, work: Work) -> None:
        """Run an entry that was in flight at several deaths alone, saying which, to find the culprit."""
        try:
            await self._announce(work)
            if work.handler is not None and work.handler.batch is not None:
                await self._processing.batch([work], over=_nothing)
            else:
                await self._processing.entry(work)
            await self._acquit()
        finally:
            self._next_suspect()

    async def _acquit(self) -> None:
        """Take back what was announced: the suspect is settled, and nothing is run alone."""
        try:
            await self._client.hdel(self._scope.keys.quarantine(self._scope.service), self._consumer)
        except Exception as error:
            if unavailable(error) is None:  # else it names an entry that nobody has any more, and so charges none
                raise

    async def _announce(self, work: Work) -> None:
        while True:
            try:
                await self._client.hset(self._scope.keys.quarantine(self._scope.service), self._consumer, work.entry_id)
            except Exception as error:
                if unavailable(error) is None:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return

    # Gathering batches

    def _gather(self, work: Work) -> None:
        assert work.handler is not None
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

        def over() -> None:
            self._batching.discard(handler)
            self._start_batch(handler)

        run = self._runs.start(self._processing.batch(batch, over))
        for work in batch:
            work.run = run


def _nothing() -> None:
    pass
