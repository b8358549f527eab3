"""Retention: streams shrink to what their declaration keeps, and never by what is unread or in flight."""

from __future__ import annotations

import time

import structlog

from penstock.event import encode, encode_data
from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.schemas import EntriesDropped, TrimmingHeld
from penstock.streams.election import Election, every
from penstock.times import entry_id_at
from penstock.topology import Topology

_trim = Script("penstock.streams", "retention")
_TICK = 5.0
_REST = 3  # ticks for which a stream is left alone from which nothing went: an idle mesh asks little of Redis
_NEWEST = 1_000  # entries of a stream that never give way
_TELL_EVERY = 60.0  # seconds between two events that say the same
_UNDECLARED = "no service of this streams.yaml: name it under streams.{stream}.abandoned if nobody uses it any more"
_MOST_ENTRIES = 1_000  # looked at in one call, payloads and all: with more it would hold Redis for long
_log = structlog.get_logger("penstock.retention")


class Retention:
    """Trims the streams that a service reads or writes. For each tick one process does the work."""

    def __init__(
        self, client: AsyncRedis, keys: Keys, topology: Topology, streams: list[str], *, events: str | None = None
    ) -> None:
        """Tell on the stream of key `events`, if given, who holds trimming up and what was dropped unread."""
        self._client = client
        self._keys = keys
        self._topology = topology
        self._events = events
        self._streams = [stream for stream in streams if stream != DEAD_LETTERS]
        self._elections = {
            (chore, stream): Election(client, keys, f"{chore}:{stream}", tick=tick)
            for chore, tick in (("retention", _TICK), ("held", _TELL_EVERY))
            for stream in self._streams
        }
        self._held: dict[str, str] = {}
        self._rests: dict[str, int] = {}

    async def run(self) -> None:
        """Trim every few seconds until cancelled."""
        await every(_TICK, self._tick)

    async def _tick(self) -> None:
        for stream in self._streams:
            if self._rests.get(stream, 0) > 0:
                self._rests[stream] -= 1
            elif await self._elections["retention", stream].won() and not await self.trim(stream):
                self._rests[stream] = _REST

    async def trim(self, stream: str) -> int:
        """Trim one stream; return how many entries went."""
        declared = self._topology.streams[stream]
        kept, groups = declared.retention, self._topology.groups(stream)
        oldest = entry_id_at(time.time() - kept.age)
        limit = "" if kept.hard_limit is None else kept.hard_limit
        total = unread = 0
        more = 1
        while more:
            removed, more, holder, dropped = await _trim(
                self._client,
                [self._keys.stream(stream)],
                [oldest, kept.entries, _MOST_ENTRIES, limit, len(groups), *groups, *declared.abandoned],
            )
            total += removed
            unread += dropped
        group = holder.decode(errors="replace")
        await self._say_who_holds(stream, group)
        if unread:
            _log.error("unread entries dropped: beyond retention.hard_limit", stream=stream, group=group, count=unread)
            await self._tell("retention.dropped", EntriesDropped(stream=stream, group=group, count=unread))
        return total

    async def give_way(self, stream: str) -> int:
        """Trim some of the oldest entries that every group has settled, though retention would keep them.

        The newest stay, for whoever looks on. Returns how many went.
        """
        key, groups = self._keys.stream(stream), self._topology.groups(stream)
        kept = max(_NEWEST, await self._client.xlen(key) - _MOST_ENTRIES)
        abandoned = self._topology.streams[stream].abandoned
        reply = await _trim(self._client, [key], ["0-0", kept, _MOST_ENTRIES, "", len(groups), *groups, *abandoned])
        return int(reply[0])

    async def _say_who_holds(self, stream: str, group: str) -> None:
        if group and self._held.get(stream) != group:
            advice = {} if group in self._topology.groups(stream) else {"advice": _UNDECLARED.format(stream=stream)}
            _log.warning(
                "a group holds up trimming: it is behind what retention would keep",
                stream=stream,
                group=group,
                **advice,
            )
        self._held[stream] = group
        if group and await self._elections["held", stream].won():
            await self._tell("retention.held", TrimmingHeld(stream=stream, group=group))

    async def _tell(self, event_type: str, data: TrimmingHeld | EntriesDropped) -> None:
        if self._events is not None:
            fields = encode(event_type, encode_data(data), source="penstock", subject=data.stream)
            await self._client.execute_command("XADD", self._events, "*", *fields)
