"""Checkpoints: a step of a handler that is done stays done, through retries, crashes and replays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable


class Checkpoints(Protocol):
    """Where the results of steps are kept, as JSON, by group, event and step name."""

    async def load(self, event_id: str) -> dict[str, bytes]:
        """Return the results stored for an event, by step name."""

    async def store(self, event_id: str, step: str, result: bytes) -> bytes:
        """Store a result; return it, or the one that was stored before."""


class RedisCheckpoints:
    """Keeps a hash for each event that has steps; the commit removes it when the event is done.

    It stays when the event is dead-lettered, so that a replay does not repeat what was done already.
    """

    def __init__(self, client: AsyncRedis, keys: Keys, *, group: str, ttl: int) -> None:
        self._client = client
        self._keys = keys
        self._group = group
        self._ttl = ttl

    async def load(self, event_id: str) -> dict[str, bytes]:
        """Return the results stored for an event, by step name.

        Raises:
            Unavailable: Redis cannot tell now.
        """
        with _said_plainly():
            stored = await self._client.hgetall(self._keys.checkpoint(self._group, event_id))
        return {name.decode(): result for name, result in stored.items()}

    async def store(self, event_id: str, step: str, result: bytes) -> bytes:
        """Store a result; return it, or the one that was stored before.

        Two processes may run the same step when one of them has lost the event without knowing it yet:
        the first result is the one that counts for both.

        Raises:
            Unavailable: Redis cannot take it now; the step will run again.
        """
        key = self._keys.checkpoint(self._group, event_id)
        with _said_plainly():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.hsetnx(key, step, result)
                pipeline.hget(key, step)
                pipeline.expire(key, self._ttl)
                _, stored, _ = await pipeline.execute()
        return bytes(stored)


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Say of an error that waiting can mend that Redis is unavailable."""
    try:
        yield
    except Exception as error:
        away = unavailable(error)
        if away is None:
            raise
        raise away from error


class NoCheckpoints:
    """Keeps nothing: every run repeats every step (TASK_CHECKPOINT_ENABLED=false)."""

    async def load(self, event_id: str) -> dict[str, bytes]:
        """Return nothing."""
        return {}

    async def store(self, event_id: str, step: str, result: bytes) -> bytes:
        """Return the result."""
        return result
