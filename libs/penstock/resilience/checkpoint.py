"""Checkpoints: a step of a handler that is done stays done, through retries, crashes and replays."""

from __future__ import annotations

from typing import Protocol

import msgspec

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, telling_unavailable
from penstock.redis.scripts import Script

_store = Script("penstock.resilience", "checkpoint")


class Pending(msgspec.Struct, frozen=True):
    """An entry in flight: the key of its stream, which may be the group's retry stream, its id there, and with whom."""

    stream: str
    entry_id: str
    consumer: str
    is_retry: bool = False


class TakenOver(Exception):
    """The entry is no longer this consumer's: nothing that its handler does now can count."""


class Checkpoints(Protocol):
    """Where the results of steps are kept, as JSON, by group, event (see `penstock.event.unique_id`) and step name."""

    @property
    def lifetime(self) -> float:
        """Seconds that a checkpoint lives beyond its event's next attempt; 0 if nothing is kept."""

    async def load(self, event: str) -> dict[str, bytes]:
        """Return the results stored for an event, by step name."""

    async def store(self, event: str, step: str, result: bytes, pending: Pending | None) -> bytes:
        """Store a result for the entry in flight; return it, or the one that was stored before."""


class RedisCheckpoints:
    """Keeps a hash for each event that has steps; the commit removes it when the event is done.

    It lives for `ttl` seconds after it was last used, or after the attempt that its event waits for. When the event
    is dead-lettered it stays as long as the letter does, so that a replay does not repeat what was done already.
    """

    def __init__(self, client: AsyncRedis, keys: Keys, *, group: str, ttl: int) -> None:
        self._client = client
        self._keys = keys
        self._group = group
        self.lifetime = float(ttl)

    async def load(self, event: str) -> dict[str, bytes]:
        """Return the results stored for an event, by step name.

        Raises:
            Unavailable: Redis cannot tell now.
        """
        key = self._keys.checkpoint(self._group, event)
        with telling_unavailable():
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.hgetall(key)
                pipeline.expire(key, round(self.lifetime), gt=True)
                stored, _ = await pipeline.execute()
        return {name.decode(): result for name, result in stored.items()}

    async def store(self, event: str, step: str, result: bytes, pending: Pending | None) -> bytes:
        """Store a result for the entry in flight; return it, or the one that was stored before.

        Raises:
            TakenOver: the entry is no longer pending for that consumer.
            Unavailable: Redis cannot take it now; the step will run again.
        """
        assert pending is not None, "only what is in flight has steps to keep"
        keys = [self._keys.checkpoint(self._group, event), pending.stream]
        life = round(self.lifetime * 1000)
        with telling_unavailable():
            arguments: list[str | bytes | int | float] = [
                self._group,
                pending.consumer,
                pending.entry_id,
                step,
                result,
                life,
            ]
            stored = await _store(self._client, keys, arguments)
        if stored is None:
            raise TakenOver(f"step {step}: another process has taken the event over meanwhile")
        return bytes(stored)


class NoCheckpoints:
    """Keeps nothing: every run repeats every step (TASK_CHECKPOINT_ENABLED=false)."""

    lifetime = 0.0

    async def load(self, event: str) -> dict[str, bytes]:
        """Return nothing."""
        return {}

    async def store(self, event: str, step: str, result: bytes, pending: Pending | None) -> bytes:
        """Return the result."""
        return result
