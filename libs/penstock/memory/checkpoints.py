"""Checkpoints in memory: the results of steps, for as long as their events may come back."""

from __future__ import annotations

from penstock.keys import Keys
from penstock.memory.values import Values
from penstock.resilience.checkpoint import Pending


class MemoryCheckpoints:
    """Keeps a hash for each event that has steps; the commit removes it when the event is done."""

    def __init__(self, values: Values, keys: Keys, *, group: str, ttl: int) -> None:
        self._values = values
        self._keys = keys
        self._group = group
        self.lifetime = float(ttl)

    async def load(self, event: str) -> dict[str, bytes]:
        """Return the results stored for an event, by step name."""
        stored = self._values.get(self._keys.checkpoint(self._group, event)) or {}
        return {name: result.encode() for name, result in stored.items()}

    async def store(self, event: str, step: str, result: bytes, pending: Pending | None) -> bytes:
        """Store a result; return it, or the one that was stored before."""
        key = self._keys.checkpoint(self._group, event)
        stored = (self._values.get(key) or {}).get(step)
        if stored is not None:
            return bytes(stored.encode())
        self._values.change([["HSET", key, step, result.decode()], ["PEXPIRE", key, round(self.lifetime * 1000)]])
        return result
