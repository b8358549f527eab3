"""Dead letters are kept for a time, and up to a number; what is dropped is told."""

from __future__ import annotations

import time

import structlog

from penstock.dlq.queue import DeadLetters
from penstock.event import encode, encode_data
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.schemas import LettersDropped
from penstock.streams.election import Election, every
from penstock.times import entry_id_at

_TICK = 15.0
_BEFORE = 600.0  # seconds before its start that it looks back to: others have seen to what is older
_log = structlog.get_logger("penstock.dlq")


class DeadLetterRetention:
    """Keeps the dead letter queue within its bounds. For each tick one process of the mesh does the work."""

    def __init__(self, client: AsyncRedis, keys: Keys, *, days: float, entries: int, events: str | None = None) -> None:
        """Tell of dropped letters on the stream of key `events`, if given, so that a rule can raise an alert."""
        self._client = client
        self._events = events
        self._letters = DeadLetters(client, keys)
        self._election = Election(client, keys, "retention:dlq", tick=_TICK)
        self._days = days
        self._entries = entries
        self._seen = entry_id_at(time.time() - _BEFORE)

    async def run(self) -> None:
        """Trim every few seconds until cancelled."""
        await every(_TICK, self.tick)

    async def tick(self) -> None:
        """Trim, and see to checkpoints, unless another process does so just now."""
        if await self._election.won():
            self._seen = await self._letters.keep_checkpoints(self._seen, days=self._days)
            dropped = await self._letters.trim(days=self._days, entries=self._entries)
            if dropped:
                await self._tell(dropped)

    async def _tell(self, count: int) -> None:
        _log.warning("dead letters dropped: beyond DLQ_RETENTION_DAYS or DLQ_MAX_ENTRIES", count=count)
        if self._events is not None:
            fields = encode("dlq.dropped", encode_data(LettersDropped(count=count)), source="penstock")
            await self._client.execute_command("XADD", self._events, "*", *fields)
