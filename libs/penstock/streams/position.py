"""How far a group has come in a stream, measured in time."""

from __future__ import annotations

import msgspec

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.times import entry_ms

_position = Script("penstock.streams", "position", read_only=True)


class Position(msgspec.Struct, frozen=True):
    """Where a group stood in a stream at `now`. All times are the server's, in ms since the epoch.

    `unread` is when the first event was published that was never delivered, `pending` when the oldest one
    was that is delivered and not settled, `retry` when the oldest one was handed back that is to be read
    again; each is None if there is none. `waiting` counts the events that wait for another try, or are in
    hand for it.
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
    now, unread, pending, retry, waiting = reply
    return Position(now, _time(unread), _time(pending), _time(retry), waiting)


def _time(entry_id: bytes) -> int | None:
    return entry_ms(entry_id) if entry_id else None


def _age(now: int, time: int | None) -> float:
    return 0.0 if time is None else max(0, now - time) / 1000
