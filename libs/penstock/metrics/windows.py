"""Windows in Redis: where each lies, and how to read them.

A window is open, a list of encoded parts that commits append to, until it is closed: one packed value that
never changes. Only windows of 10 s are open in this sense; those of 60 s are made of six closed ones.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from penstock.keys import Keys
from penstock.metrics import totals
from penstock.metrics.tally import Tallies, decode, merged, unpack
from penstock.redis.connection import AsyncRedis
from penstock.schemas import Series
from penstock.topology import Topology

SERVICE: Final = "metrics"
SHORT: Final = 10
LONG: Final = 60
KEPT: Final = {SHORT: 3_600, LONG: 86_400}
"""How long closed windows are kept, by their length; both in seconds."""

OPEN: Final = "open"
"""Sorted set: the starts of the windows of 10 s that have parts."""
MINUTES: Final = "minutes"
"""Sorted set: the starts of the windows of 60 s that have closed windows of 10 s and are not closed yet."""
MARK: Final = "mark"
"""Start of the last window of 10 s that was closed: what is added to one up to there is late."""
TOTALS: Final = "totals"
"""Packed value: everything in closed windows, since the beginning."""

gauges_encoder = msgspec.json.Encoder()
_gauges_decoder = msgspec.json.Decoder(list[Series])


def counted_streams(topology: Topology) -> list[str]:
    """Return the streams whose events are counted: those that streams.yaml lets the metrics service read."""
    service = topology.services.get(SERVICE)
    return list(service.consumes) if service else []


def parts_of(start: int) -> str:
    """Return the name of the list of an open window's parts."""
    return f"{OPEN}:{start}"


def closed(seconds: int, start: int) -> str:
    """Return the name of a closed window."""
    return f"closed:{seconds}:{start}"


def mesh(seconds: int, start: int) -> str:
    """Return the name of the gauges of a window."""
    return f"mesh:{seconds}:{start}"


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A window as it stands: `start` in seconds since the epoch, what was counted, and gauges of the mesh."""

    start: int
    seconds: int
    is_open: bool
    tallies: Tallies
    gauges: list[Series]


class WindowReader:
    """Reads windows of the metrics service; any process may."""

    def __init__(self, client: AsyncRedis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def read(self, seconds: int, since: float, until: float) -> list[Window]:
        """Return the windows of `seconds` that begin in [since, until) and hold anything, in their order.

        No more are looked at than are kept: the newest then.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        since = max(since, until - KEPT[seconds])
        starts = range(math.ceil(since / seconds) * seconds, math.ceil(until), seconds)
        if not starts:
            return []
        short = await self._unfinished(seconds, starts[0], starts[-1])
        # One transaction, so that a window that is being closed meanwhile is seen once.
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.mget([self._key(closed(seconds, start)) for start in starts])
            pipeline.mget([self._key(mesh(seconds, start)) for start in starts])
            for start in short:
                pipeline.get(self._key(closed(SHORT, start)))
                pipeline.lrange(self._key(parts_of(start)), 0, -1)
            packed, gauges, *rest = await pipeline.execute()
        counted = {start: unpack(value) for start, value in zip(starts, packed, strict=True) if value}
        unfinished = _joined(seconds, zip(short, rest[::2], rest[1::2], strict=True), except_for=counted)
        meshes = {start: _gauges_decoder.decode(value) for start, value in zip(starts, gauges, strict=True) if value}
        counted |= unfinished
        return [
            Window(
                start=start,
                seconds=seconds,
                is_open=start in unfinished,
                tallies=counted.get(start) or Tallies(),
                gauges=meshes.get(start, []),
            )
            for start in sorted({*counted, *meshes})
        ]

    async def totals(self) -> Tallies:
        """Return everything that was ever counted, in closed windows and in open ones.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        open_starts = [int(start) for start in await self._client.zrange(self._key(OPEN), 0, -1)]
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.mget(self._key(TOTALS), self._key(MARK))
            for start in open_starts:
                pipeline.lrange(self._key(parts_of(start)), 0, -1)
            (packed, mark), *lists = await pipeline.execute()
        everything = totals.unpack(packed).tallies
        for start, parts in zip(open_starts, lists, strict=True):
            if mark is None or start > int(mark):
                everything.merge(merged(map(decode, parts)))
        return everything

    async def _unfinished(self, seconds: int, first: int, last: int) -> list[int]:
        """Return the starts of the windows of 10 s from which the unfinished ones between two starts are made."""
        starts = {*await self._starts(OPEN, first, last + seconds - 1)}
        if seconds == LONG:
            for minute in await self._starts(MINUTES, first, last):
                starts.update(range(minute, minute + LONG, SHORT))
        return sorted(starts)

    async def _starts(self, name: str, first: int, last: int) -> list[int]:
        return [int(start) for start in await self._client.zrange(self._key(name), first, last, byscore=True)]

    def _key(self, name: str) -> str:
        return self._keys.state(SERVICE, name)


def _joined(
    seconds: int, short: Iterable[tuple[int, bytes | None, list[bytes]]], *, except_for: Collection[int]
) -> dict[int, Tallies]:
    """Return windows of `seconds` made of windows of 10 s, each given with its closed value and its open parts."""
    joined: dict[int, Tallies] = {}
    for start, packed, parts in short:
        window = start // seconds * seconds
        if window not in except_for and (packed or parts):
            tallies = unpack(packed) if packed else merged(map(decode, parts))
            joined.setdefault(window, Tallies()).merge(tallies)
    return joined
