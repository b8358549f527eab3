"""How far a group has come in a stream, measured in time."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, server_ms
from penstock.redis.scripts import Script
from penstock.times import entry_ms

_position = Script("penstock.streams", "position", read_only=True)


class Position(msgspec.Struct, frozen=True):
    """Where a group stood in a stream at `now`. All times are the server's, in ms since the epoch.

    `unread` is when the first event was published that was never delivered, `pending` when the oldest one
    was that is delivered and not settled, `retry` when the oldest one was handed back that is to be read
    again; each is None if there is none. `waiting` counts the events that wait for another try, or are in
    hand for it.

    An id of a time that has not come says nothing: somebody has chosen it, or the server's clock has gone back. Its
    time is then when this process first saw the entry in that place.
    """

    now: int
    unread: int | None
    pending: int | None
    retry: int | None
    waiting: int

    @property
    def lag_age(self) -> float:
        """Seconds that the first undelivered event has waited; 0 if there is none.

        It is right even where the server's own lag is unknown.
        """
        return _age(self.now, self.unread)

    @property
    def oldest_pending(self) -> float:
        """Seconds since the oldest event was published, or handed back, that is delivered and not settled."""
        return max(_age(self.now, self.pending), _age(self.now, self.retry))

    @property
    def watermark(self) -> int | None:
        """The time up to which everything published is settled; None if this cannot be told now.

        It cannot while events wait for another try: they keep their old ids and are not looked through.
        """
        if self.waiting:
            return None
        return min(time for time in (self.now, self.unread, self.pending) if time is not None)


async def position(client: AsyncRedis, keys: Keys, stream: str, group: str) -> Position:
    """Look where `group` stands in `stream`.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    reply = await _position(
        client, [keys.stream(stream), keys.retry(stream, group), keys.delayed(stream, group)], [group]
    )
    now, *places, waiting = reply
    unread, pending, retry = (
        _sightings.time((keys.stream(stream), group, place), entry_id, now)
        for place, entry_id in zip(("unread", "pending", "retry"), places, strict=True)
    )
    return Position(now, unread, pending, retry, waiting)


async def watermark_of(client: AsyncRedis, keys: Keys, streams: Iterable[str], group: str) -> tuple[int | None, int]:
    """Return up to when `group` has settled everything on all of these streams, and the server's time, in ms.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    watermark: int | None = await server_ms(client)
    now = watermark or 0
    for stream in streams:
        stood = await position(client, keys, stream, group)
        watermark = None if None in (watermark, stood.watermark) else min(watermark or 0, stood.watermark or 0)
    return watermark, now


class _Sightings:
    """When entries were first seen whose ids are of a time that has not come."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], tuple[bytes, int]] = {}

    def time(self, place: tuple[str, str, str], entry_id: bytes, now: int) -> int | None:
        """Return when the entry that is the first at its place came there, as far as can be told."""
        if not entry_id or entry_ms(entry_id) <= now:
            self._seen.pop(place, None)
            return entry_ms(entry_id) if entry_id else None
        known = self._seen.get(place)
        if known is None or known[0] != entry_id:
            known = self._seen[place] = entry_id, now
        return min(known[1], now)


_sightings = _Sightings()


def _age(now: int, time: int | None) -> float:
    return 0.0 if time is None else max(0, now - time) / 1000
