"""Intake: reads what there is room for, and survives whatever happens to Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from redis.exceptions import ResponseError

from penstock.redis.connection import unavailable
from penstock.service.dispatch import Dispatcher
from penstock.streams.commit import Source
from penstock.streams.groups import Groups
from penstock.streams.heartbeat import Heartbeat
from penstock.streams.read import Reader, Row

_BLOCK_MS = 2_000
_MOST_BYTES = 8_000_000  # about what one read may bring
_PAUSED = 0.25  # seconds between looks at the breakers while there is nothing to read for
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_LOOKS = 1, 2, 4, 8, 16, 32
"""Seconds after a read that failed at which to look for what it took late; beyond, what nobody holds is swept up."""
_log = structlog.get_logger("penstock.intake")


class Appetite:
    """How many entries to ask for at once: a read must not bring more bytes than a process can bear.

    COUNT is all that can be said to Redis, so it follows from the size of what came last, and grows by twice at most.
    """

    def __init__(self) -> None:
        self._most = 8

    def most(self, free: int) -> int:
        """Return how many entries to ask for where there are `free` slots."""
        return min(free, self._most)

    def learn(self, rows: Sequence[Row]) -> None:
        """Take note of what came."""
        if rows:
            some = rows[:: max(1, len(rows) // 4)]
            size = sum(sum(map(len, fields or ())) for _, _, fields in some) / len(some)
            self._most = max(1, min(2 * max(self._most, len(rows)), round(_MOST_BYTES / max(1.0, size))))


class Intake:
    """Feeds a dispatcher from a reader: own pending entries first, after every start and every error.

    And again for a while after an error: a read that was given up may still be on its way, and takes entries when it
    arrives. However late it is, they wait for about as long again.
    """

    def __init__(
        self,
        reader: Reader,
        dispatcher: Dispatcher,
        heartbeat: Heartbeat,
        groups: Groups,
        *,
        sources: list[Source],
        hand_back: Callable[[Source, list[str]], Awaitable[object]],
    ) -> None:
        """`hand_back` gives entries of a source to whoever is free."""
        self._hand_back = hand_back
        self._appetite = Appetite()
        self._turn = 0
        self._reader = reader
        self._dispatcher = dispatcher
        self._heartbeat = heartbeat
        self._groups = groups
        self._sources = sources
        self._reading = False
        self._trouble = ""
        self._looks: list[float] = []  # when to look for what a read took that was given up, by `time.monotonic`

    @property
    def trouble(self) -> str:
        """Why it is not reading just now, if it is not."""
        if not self._reading:
            return self._trouble or "it has not begun to read its streams"
        return self._heartbeat.trouble

    async def run(self) -> None:
        """Read until cancelled."""
        await self._heartbeat.beaten.wait()  # a reader without a beat would be taken for dead
        _log.info("started")
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._prepare()
                pause = _FIRST_PAUSE
                while True:
                    await self._read_once()
            except Exception as error:
                self._reading = False
                self._looks = [time.monotonic() + seconds for seconds in _LOOKS]
                if not self._explain(error):
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _prepare(self) -> None:
        await self._groups.make()
        await self._resume()
        if self._trouble:
            _log.info("reading again", after=self._trouble)
            self._trouble = ""
        self._reading = True

    async def _resume(self) -> None:
        """Take up entries that are ours but not in flight: a reply that never arrived left them pending."""
        after: dict[str, str] = {}
        while True:
            known = set(self._dispatcher.in_flight)  # as of before the read: what is settled during it is not new
            rows = await self._reader.pending(after, count=self._appetite.most(100))
            if not rows:
                return
            self._appetite.learn(rows)
            self._dispatcher.accept([row for row in rows if (row[0].index, row[1]) not in known])
            after.update({source.key: entry_id for source, entry_id, _ in rows})

    async def _read_once(self) -> None:
        free = await self._dispatcher.room()
        if self._looks and time.monotonic() >= self._looks[0]:
            del self._looks[0]
            await self._resume()
            return
        wanted = [source for source in self._sources if not self._dispatcher.paused(source.stream)]
        if not wanted or not self._heartbeat.steady:
            await asyncio.sleep(_PAUSED)
            return
        count = self._appetite.most(free) // len(wanted)  # COUNT holds for each stream of the call
        rows = (
            await self._reader.new(wanted, count=count, block_ms=_BLOCK_MS)
            if count
            else await self._read_in_turn(wanted, free)
        )
        self._appetite.learn(rows)
        self._dispatcher.accept(rows)

    async def _read_in_turn(self, wanted: list[Source], free: int) -> list[Row]:
        """Read with fewer free slots than streams: one after another, and what is taken up is not too much."""
        self._turn += 1
        for source in wanted[self._turn % len(wanted) :] + wanted[: self._turn % len(wanted)]:
            rows = await self._reader.new([source], count=1, block_ms=None)
            if rows:
                return rows
        rows = await self._reader.new(wanted, count=1, block_ms=_BLOCK_MS)  # hardly ever more than one
        for source, entry_id, _ in rows[free:]:
            await self._hand_back(source, [entry_id])
        return rows[:free]

    def _explain(self, error: Exception) -> bool:
        """Say what is wrong, once for each change; return False if waiting will not help."""
        if isinstance(error, ResponseError) and ("NOGROUP" in str(error) or "no longer exists" in str(error)):
            reason = "consumer groups are gone"
        else:
            away = unavailable(error)
            if away is None:
                return False
            blocked = self._heartbeat.blocked
            reason = f"the event loop was blocked for {blocked:.0f} s" if blocked else away.reason
        if reason != self._trouble:
            self._trouble = reason
            _log.warning("reading has stopped", reason=reason)
        return True
