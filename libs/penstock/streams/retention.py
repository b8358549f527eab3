"""Retention: streams shrink to what their declaration keeps, and never by what is unread or in hand."""

from __future__ import annotations

import time

import structlog

from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.streams.election import Election, every
from penstock.times import entry_id_at
from penstock.topology import Topology

_trim = Script("penstock.streams", "retention")
_TICK = 5.0
_MOST_ENTRIES = 1_000  # looked at in one call, payloads and all: with more it would hold Redis for long
_log = structlog.get_logger("penstock.retention")


class Retention:
    """Trims the streams that a service reads or writes. For each tick one process does the work."""

    def __init__(self, client: AsyncRedis, keys: Keys, topology: Topology, streams: list[str]) -> None:
        self._client = client
        self._keys = keys
        self._topology = topology
        self._elections = {
            stream: Election(client, keys, f"retention:{stream}", tick=_TICK)
            for stream in streams
            if stream != DEAD_LETTERS
        }
        self._held: dict[str, str] = {}

    async def run(self) -> None:
        """Trim every few seconds until cancelled."""
        await every(_TICK, self._tick)

    async def _tick(self) -> None:
        for stream, election in self._elections.items():
            if await election.won():
                await self.trim(stream)

    async def trim(self, stream: str) -> int:
        """Trim one stream; return how many entries went."""
        kept = self._topology.streams[stream].retention
        oldest = entry_id_at(time.time() - kept.age)
        total = 0
        more = 1
        while more:
            removed, more, holder = await _trim(
                self._client,
                [self._keys.stream(stream)],
                [oldest, kept.entries, _MOST_ENTRIES, *self._topology.groups(stream)],
            )
            total += removed
            self._say_who_holds(stream, holder.decode())
        return total

    def _say_who_holds(self, stream: str, group: str) -> None:
        if group and self._held.get(stream) != group:
            _log.warning(
                "a group holds up trimming: it is behind what retention would keep",
                stream=stream,
                group=group,
            )
        self._held[stream] = group
