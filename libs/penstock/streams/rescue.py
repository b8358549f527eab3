"""The janitor: brings the work of dead consumers back to the living, within seconds."""

from __future__ import annotations

import asyncio
import time

import structlog
from redis.exceptions import ResponseError

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script
from penstock.streams.commit import Source
from penstock.streams.heartbeat import LIFETIME
from penstock.times import rfc3339

MOST_DEATHS = 3  # processes that may die with an event in hand before it goes to the dead letters
_TICK = 1.0
_MOST_ENTRIES = 200
_STALE_MS = 60_000  # a living consumer beats every second for what it holds: such an entry nobody holds
_reassign = Script("penstock.streams", "rescue")
_log = structlog.get_logger("penstock.janitor")


class Rescuer:
    """Looks after one group's streams. Every process runs one; for each tick one of them does the work."""

    def __init__(self, client: AsyncRedis, keys: Keys, *, group: str, sources: list[Source], dlq: str) -> None:
        self._client = client
        self._keys = keys
        self._group = group
        self._sources = sources
        self._retries = {source.stream: source.key for source in sources if source.is_retry}
        self._dlq = dlq
        self._not_before = 0.0

    async def run(self) -> None:
        """Sweep once a second until cancelled."""
        while True:
            await asyncio.sleep(_TICK)
            try:
                await self._tick()
            except Exception as error:
                if unavailable(error) is None and not _no_group(error):
                    raise
                # Nobody could beat while Redis was away: give all the time to show they are alive.
                self._not_before = time.monotonic() + LIFETIME

    async def release(self, consumer: str) -> int:
        """Hand back everything `consumer` holds and remove it; return how many entries that were.

        Raises:
            redis.exceptions.RedisError: Redis is away; the others take it over later.
        """
        handed_back = 0
        for source in self._sources:
            removed = 0
            while not removed:
                try:
                    moved, dead, _, removed = await self._reassign(source, consumer, "release")
                except ResponseError as error:
                    if not _no_group(error):
                        raise
                    break  # flushed away, and all we held with it
                handed_back += moved + dead
        return handed_back

    async def _tick(self) -> None:
        lock = self._keys.lock(f"janitor:{self._group}")
        if not await self._client.set(lock, "1", nx=True, px=round(_TICK * 900)):
            return
        server = await self._client.info("server")
        if time.monotonic() < self._not_before or server["uptime_in_seconds"] <= LIFETIME:
            return
        for source in self._sources:
            for consumer in await self._dead(source):
                await self._rescue(source, consumer)
            handed_back = await self._reassign(source, "", "stale")
            self._report("entries that nobody held were handed back", source, "", handed_back)

    async def _dead(self, source: Source) -> list[str]:
        rows = await self._client.xinfo_consumers(source.key, self._group)
        names = [row["name"].decode() for row in rows]
        if not names:
            return []
        async with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.exists(self._keys.live(name))
            alive = await pipeline.execute()
        return [name for name, beats in zip(names, alive, strict=True) if not beats]

    async def _rescue(self, source: Source, consumer: str) -> None:
        while True:
            reply = await self._reassign(source, consumer, "rescue")
            if reply[0] < 0:
                return
            self._report("took over from a dead consumer", source, consumer, reply)
            if reply[3]:
                return

    async def _reassign(self, source: Source, consumer: str, mode: str) -> list[int]:
        reply: list[int] = await _reassign(
            self._client,
            [
                source.key,
                self._retries[source.stream],
                self._dlq,
                self._keys.live(consumer),
                self._keys.trials(self._group),
            ],
            [
                self._group,
                consumer,
                mode,
                _MOST_ENTRIES,
                MOST_DEATHS,
                _STALE_MS,
                source.stream,
                rfc3339(time.time()),
            ],
        )
        return reply

    def _report(self, what: str, source: Source, consumer: str, reply: list[int]) -> None:
        moved, dead, gone, _ = reply
        if moved or dead or gone:
            _log.warning(what, stream=source.key, consumer=consumer, moved=moved, dead=dead, lost=gone)


def _no_group(error: Exception) -> bool:
    return isinstance(error, ResponseError) and ("NOGROUP" in str(error) or "no such key" in str(error))
