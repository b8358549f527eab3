"""Closing windows: each exactly once, whatever dies in the middle and however many replicas try.

Every change to windows other than appending a part is one transaction (WATCH, MULTI, EXEC) that also raises
a revision, and takes place only if nobody else has raised it since the window was read. Appending does not
raise it: a commit never waits for a closer, and a closer only ever replaces the parts it has read.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog
from redis.exceptions import WatchError

from penstock.keys import Keys
from penstock.metrics import totals
from penstock.metrics.rollup import roll_up
from penstock.metrics.tally import Tallies, decode, encode, merged, pack, unpack
from penstock.metrics.totals import Totals
from penstock.metrics.windows import KEPT, LONG, MARK, MINUTES, OPEN, SERVICE, SHORT, TOTALS, closed, parts_of
from penstock.redis.connection import AsyncRedis
from penstock_services.metrics.publish import add_window

_REVISION = "revision"
_MANY_PARTS = 32
_log = structlog.get_logger("penstock.metrics")


class Closer:
    """Closes what is due. Any number may run side by side."""

    def __init__(self, client: AsyncRedis, keys: Keys, *, lateness_ms: int, most_series: int) -> None:
        self._client = client
        self._keys = keys
        self._lateness_ms = lateness_ms
        self._most_series = most_series
        self._overflowed = False

    async def is_due(self) -> bool:
        """Return whether any window is open.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        return bool(await self._client.exists(self._key(OPEN), self._key(MINUTES)))

    async def tick(self, watermark: int | None, now: int) -> None:
        """Close every window that ended long enough before `watermark`; both times in ms.

        Everything published before the watermark has been counted. A window whose end is `lateness` before
        it can thus get no more events: what is published later is late by definition. While there is no
        watermark nothing is closed.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        with contextlib.suppress(WatchError):  # another replica was first: there is a next tick
            for start in await self._starts(OPEN):
                if watermark is not None and self._is_over(start + SHORT, watermark):
                    await self._close_short(start, now)
                else:
                    await self._join_parts(start)
            for start in await self._starts(MINUTES):
                if watermark is not None and self._is_over(start + LONG, watermark):
                    await self._close_long(start)

    def _is_over(self, end: int, watermark: int) -> bool:
        return end * 1000 + self._lateness_ms <= watermark

    async def _starts(self, name: str) -> list[int]:
        return [int(start) for start in await self._client.zrange(self._key(name), 0, -1)]

    async def _close_short(self, start: int, now: int) -> None:
        parts = self._key(parts_of(start))
        async with self._transaction(parts) as pipeline:
            if not await self._is_listed(pipeline, OPEN, start):
                return
            tallies = self._joined(await pipeline.lrange(parts, 0, -1))
            if start <= await self._mark(pipeline):
                self._count_late(pipeline, tallies, now // 1000 // SHORT * SHORT)
            else:
                everything = totals.unpack(await pipeline.get(self._key(TOTALS)))
                everything.add(start, tallies, self._most_series)
                self._keep_short(pipeline, start, tallies, everything)
            pipeline.delete(parts)
            pipeline.zrem(self._key(OPEN), start)
            await self._commit(pipeline)

    def _count_late(self, pipeline: Any, tallies: Tallies, current: int) -> None:
        """Count in the current window, as late, what came to one that is closed: a dead letter that was replayed."""
        tallies.late = tallies.count
        pipeline.multi()
        pipeline.rpush(self._key(parts_of(current)), encode(tallies))
        pipeline.zadd(self._key(OPEN), {str(current): current})

    def _keep_short(self, pipeline: Any, start: int, tallies: Tallies, everything: Totals) -> None:
        minute = start // LONG * LONG
        pipeline.multi()
        pipeline.set(self._key(TOTALS), totals.pack(everything))
        pipeline.set(self._key(closed(SHORT, start)), pack(tallies))  # expires once its minute is closed
        pipeline.set(self._key(MARK), start)
        pipeline.zadd(self._key(MINUTES), {str(minute): minute})
        self._publish(pipeline, SHORT, start, tallies)

    async def _close_long(self, start: int) -> None:
        shorts = range(start, start + LONG, SHORT)
        async with self._transaction() as pipeline:
            if not await self._is_listed(pipeline, MINUTES, start):
                return
            if await pipeline.zrange(self._key(OPEN), start, start + LONG - 1, byscore=True):
                return  # a race: one of its parts is not closed yet
            packed = await pipeline.mget([self._key(closed(SHORT, short)) for short in shorts])
            tallies = merged(unpack(value) for value in packed if value)
            tallies.bound(self._most_series)
            mark = max(await self._mark(pipeline), shorts[-1])
            pipeline.multi()
            for short in shorts:
                pipeline.expire(self._key(closed(SHORT, short)), KEPT[SHORT])
            pipeline.set(self._key(closed(LONG, start)), pack(tallies), ex=KEPT[LONG])
            pipeline.set(self._key(MARK), mark)
            pipeline.zrem(self._key(MINUTES), start)
            self._publish(pipeline, LONG, start, tallies)
            await self._commit(pipeline)

    async def _join_parts(self, start: int) -> None:
        """Replace many parts by their sum: what is open stays small however many commits there are."""
        parts = self._key(parts_of(start))
        if await self._client.llen(parts) < _MANY_PARTS:
            return
        async with self._transaction() as pipeline:
            read = await pipeline.lrange(parts, 0, -1)
            pipeline.multi()
            pipeline.ltrim(parts, len(read), -1)
            pipeline.lpush(parts, encode(self._joined(read)))
            await self._commit(pipeline)

    def _joined(self, parts: Sequence[bytes]) -> Tallies:
        tallies = merged(map(decode, parts))
        if tallies.bound(self._most_series) and not self._overflowed:
            self._overflowed = True
            _log.warning(
                "more series than are kept: what did not fail and is rare is counted as (other); look for event "
                "types or tenants made of ids, or raise PENSTOCK_METRICS_SERIES",
                most=self._most_series,
            )
        return tallies

    def _publish(self, pipeline: Any, seconds: int, start: int, tallies: Tallies) -> None:
        series = roll_up(tallies, seconds)
        add_window(pipeline, self._keys, start=start, seconds=seconds, scope="events", series=series, late=tallies.late)

    async def _is_listed(self, pipeline: Any, name: str, start: int) -> bool:
        """Return whether it is still to be closed: a tick may last, and the next one's closer may have been here."""
        return await pipeline.zscore(self._key(name), str(start)) is not None

    async def _mark(self, pipeline: Any) -> int:
        return int(await pipeline.get(self._key(MARK)) or -1)

    @contextlib.asynccontextmanager
    async def _transaction(self, *watched: str) -> AsyncIterator[Any]:
        """Yield a pipeline to read with and, after `multi()`, to write with; `_commit` carries that out."""
        async with self._client.pipeline(transaction=True) as pipeline:
            await pipeline.watch(self._key(_REVISION), *watched)
            yield pipeline

    async def _commit(self, pipeline: Any) -> None:
        """Carry out what was written, all or nothing.

        Raises:
            WatchError: another replica changed windows meanwhile, or a watched key has changed: nothing happened.
        """
        pipeline.incr(self._key(_REVISION))
        await pipeline.execute()

    def _key(self, name: str) -> str:
        return self._keys.state(SERVICE, name)
