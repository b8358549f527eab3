"""Election: of all the processes that could do a chore, one does it in each tick, or for as long as it lives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from redis.exceptions import OutOfMemoryError

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script

_SUSPICIOUS = 5  # elections lost in a row before we look whether anybody can win one
_lease = Script("penstock.streams", "lease")


class Election:
    """Elects one process for each tick anew, so that nobody has to notice when it is gone.

    It saves work and guards nothing: two may win one tick, and what they do must bear that.
    """

    def __init__(self, client: AsyncRedis, keys: Keys, chore: str, *, tick: float) -> None:
        """`tick` is how often the chore is done, in seconds."""
        self._client = client
        self._key = keys.lock(chore)
        self._lifetime = round(tick * 900)  # ms; over before the next tick of whoever won
        self._lost = 0

    async def won(self) -> bool:
        """Return whether this process does the chore in this tick.

        Where Redis is too full for the lock everybody does it: the chore may be the one that makes room.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        try:
            won = await self._client.set(self._key, "1", nx=True, px=self._lifetime)
        except OutOfMemoryError:
            return True
        if won:
            self._lost = 0
            return True
        self._lost += 1
        if self._lost % _SUSPICIOUS or await self._client.pttl(self._key) <= self._lifetime:
            return False
        await self._client.set(self._key, "1", px=self._lifetime)  # the server's clock went back: it would live on
        return True


class Lease:
    """Lets one process do a chore for as long as it lives: for what is dear to begin, such as a connection.

    Like an election it guards nothing: who pauses may find later that somebody else has begun.
    """

    def __init__(self, client: AsyncRedis, keys: Keys, chore: str, *, lifetime: float) -> None:
        """It is over `lifetime` seconds after the last time that its holder asked for it."""
        self._client = client
        self._key = keys.lock(chore)
        self._lifetime = round(lifetime * 1000)
        self._name = os.urandom(8).hex()

    async def held(self) -> bool:
        """Return whether this process does the chore from now on; ask several times in a lifetime.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        return bool(await _lease(self._client, [self._key], [self._name, self._lifetime]))

    async def release(self) -> None:
        """Let somebody else do it at once.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        await _lease(self._client, [self._key], [self._name, 0])


async def every(tick: float, chore: Callable[[], Awaitable[object]]) -> None:
    """Do a chore every `tick` seconds until cancelled; while Redis is away it waits for the next tick."""
    while True:
        await asyncio.sleep(tick)
        try:
            await chore()
        except Exception as error:
            if unavailable(error) is None:
                raise
