"""Intake: reads what there is room for, and survives whatever happens to Redis."""

from __future__ import annotations

import asyncio

import structlog
from redis.exceptions import ResponseError

from penstock.redis.connection import unavailable
from penstock.service.dispatch import Dispatcher
from penstock.streams.commit import Source
from penstock.streams.heartbeat import Heartbeat
from penstock.streams.read import Reader

_BLOCK_MS = 2_000
_PAUSED = 0.25  # seconds between looks at the breakers while there is nothing to read for
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_log = structlog.get_logger("penstock.intake")


class Intake:
    """Feeds a dispatcher from a reader: own pending entries first, after every start and every error."""

    def __init__(self, reader: Reader, dispatcher: Dispatcher, heartbeat: Heartbeat, *, sources: list[Source]) -> None:
        self._reader = reader
        self._dispatcher = dispatcher
        self._presence = heartbeat
        self._sources = sources
        self._ready = asyncio.Event()
        self._trouble = ""

    @property
    def ready(self) -> bool:
        """Whether it is reading."""
        return self._ready.is_set()

    async def run(self) -> None:
        """Read until cancelled."""
        await self._presence.beaten.wait()  # a reader without a liveness key would be taken for dead
        _log.info("started")
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._prepare()
                pause = _FIRST_PAUSE
                while True:
                    await self._read_once()
            except Exception as error:
                self._ready.clear()
                if not self._explain(error):
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _prepare(self) -> None:
        created = await self._reader.create_groups()
        if created and self._trouble:
            _log.warning("consumer groups were gone; made again from the first entry on", streams=created)
        await self._resume()
        if self._trouble:
            _log.info("reading again", after=self._trouble)
            self._trouble = ""
        self._ready.set()

    async def _resume(self) -> None:
        """Take up entries that are ours but not in hand: a reply that never arrived left them pending."""
        after: dict[str, str] = {}
        while rows := await self._reader.pending(after, count=100):
            self._dispatcher.accept(rows)
            after.update({source.key: entry_id for source, entry_id, _ in rows})

    async def _read_once(self) -> None:
        free = await self._dispatcher.room()
        wanted = [source for source in self._sources if not self._dispatcher.paused(source.stream)]
        if not wanted:
            await asyncio.sleep(_PAUSED)
            return
        # COUNT holds for each stream of the call.
        self._dispatcher.accept(await self._reader.new(wanted, count=-(-free // len(wanted)), block_ms=_BLOCK_MS))

    def _explain(self, error: Exception) -> bool:
        """Say what is wrong, once for each change; return False if waiting will not help."""
        if isinstance(error, ResponseError) and ("NOGROUP" in str(error) or "no longer exists" in str(error)):
            reason = "consumer groups are gone"
        else:
            away = unavailable(error)
            if away is None:
                return False
            reason = away.reason
        if reason != self._trouble:
            self._trouble = reason
            _log.warning("reading has stopped", reason=reason)
        return True
