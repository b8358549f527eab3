"""Delay: events that wait for their time in Redis, visible and safe, rather than in a process."""

from __future__ import annotations

import asyncio
import contextlib

from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script

_promote = Script("penstock.streams", "delay")
_MOST_EVENTS = 200
_MOST_BYTES = 1_000_000  # bounds how long one call holds Redis
_LONGEST_WAIT = 1.0  # others may schedule something sooner than what we know of
_NOTHING_WAITS = 3.5  # whoever schedules something looks again at once; this is for its death


class Promoter:
    """Moves due events from their sorted set to their stream. Any number may run side by side."""

    def __init__(self, client: AsyncRedis, routes: list[tuple[str, str]]) -> None:
        """Serve `routes`, pairs of a sorted set and the stream that its events go to."""
        self._client = client
        self._routes = routes
        self._sooner = asyncio.Event()

    def look_again(self) -> None:
        """Something was scheduled just now: it may be due before what is waited for."""
        self._sooner.set()

    async def run(self) -> None:
        """Move until cancelled."""
        while True:
            try:
                wait = await self._move_all()
            except Exception as error:
                if unavailable(error) is None:
                    raise
                wait = _LONGEST_WAIT
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._sooner.wait()
            self._sooner.clear()

    async def _move_all(self) -> float:
        """Move what is due on every route, unless nothing waits at all: that costs one command to know."""
        if not self._routes or not await self._client.exists(*(delayed for delayed, _ in self._routes)):
            return _NOTHING_WAITS
        return min([await self._move(*route) for route in self._routes])

    async def _move(self, delayed: str, stream: str) -> float:
        """Move what is due; return the seconds until more can be, as far as is known."""
        [next_ms] = await _promote(self._client, [delayed, stream], [_MOST_EVENTS, _MOST_BYTES])
        if next_ms == 0:
            return 0.0
        return _LONGEST_WAIT if next_ms < 0 else min(next_ms / 1000 + 0.001, _LONGEST_WAIT)
