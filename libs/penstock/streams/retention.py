"""Retention: streams shrink to what their declaration keeps, and never by what is unread or in hand."""

from __future__ import annotations

import asyncio
import time

import structlog

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script
from penstock.topology import DEAD_LETTERS, Topology

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
        self._streams = [stream for stream in streams if stream != DEAD_LETTERS]
        self._held: dict[str, str] = {}

    async def run(self) -> None:
        """Trim every few seconds until cancelled."""
        while True:
            await asyncio.sleep(_TICK)
            try:
                for stream in self._streams:
                    if await self._client.set(
                        self._keys.lock(f"retention:{stream}"), "1", nx=True, px=round(_TICK * 900)
                    ):
                        await self.trim(stream)
            except Exception as error:
                if unavailable(error) is None:
                    raise

    async def trim(self, stream: str) -> int:
        """Trim one stream; return how many entries went."""
        kept = self._topology.streams[stream].retention
        oldest = f"{max(0, round((time.time() - kept.age) * 1000))}-0"
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
