"""Memory: how full Redis is, and making room before it is: what is settled by all gives way, the oldest first."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from penstock.errors import UNREADABLE
from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.streams.election import Election, every
from penstock.streams.retention import Retention
from penstock.times import entry_ms
from penstock.topology import Topology

_TICK = 5.0
_STEP = 0.05  # of the limit: so far below the mark is room made, so that it is not made at each tick
_PAGE = 1_000  # job records looked at in one step
_LEAST_AGE = 1.0  # seconds that the record of a job is kept in any case
_log = structlog.get_logger("penstock.memory")


class Memory(msgspec.Struct, frozen=True):
    """Bytes that Redis uses, as it counts them against maxmemory, and `limit`, 0 where there is none."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        """How full it is, from 0 to 1; 0 without a limit."""
        return self.used / self.limit if self.limit else 0.0


async def measure(client: AsyncRedis) -> Memory:
    """Ask how full Redis is.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    info = await client.info("memory")
    return Memory(info["used_memory"] - info.get("mem_not_counted_for_evict", 0), info["maxmemory"])


class MemoryRelief:
    """Makes room while Redis is fuller than it should be. In each tick one process of a service does the work.

    Entries that every group has settled go, of whichever of its streams has the oldest, and records of finished jobs.
    What somebody has yet to read or to settle stays: if that alone fills Redis, publishers have to wait.
    """

    def __init__(
        self,
        client: AsyncRedis,
        keys: Keys,
        topology: Topology,
        streams: Sequence[str],
        *,
        service: str,
        share: float,
        job_ttl: int | None = None,
    ) -> None:
        """Keep Redis below `share` (0 to 1) of its maxmemory, with what `streams` hold: those of `service`.

        `job_ttl` is the lifetime of a job record in seconds; None: records are none of its business.
        """
        self._client = client
        self._streams = [stream for stream in streams if stream != DEAD_LETTERS]
        self._keys = keys
        self._retention = Retention(client, keys, topology, self._streams)
        self._election = Election(client, keys, f"memory:{service}", tick=_TICK)
        self._share = share
        self._records = None if job_ttl is None else JobRecords(client, keys, ttl=job_ttl)
        self._short = False

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        await every(_TICK, self._tick)

    async def _tick(self) -> None:
        if await self._election.won():
            await self.relieve()

    async def relieve(self) -> None:
        """Make room if need be, until there is enough or nothing more may go."""
        memory = await measure(self._client)
        if memory.share <= self._share:
            self._short = False
            return
        entries = records = 0
        if self._records is not None:
            self._records.exhausted = False
        while memory.share > self._share - _STEP:
            trimmed = await self._trim_oldest()
            removed = 0 if self._records is None else await self._records.remove_some()
            entries, records = entries + trimmed, records + removed
            if not trimmed and not removed and (self._records is None or self._records.exhausted):
                break
            memory = await measure(self._client)
        self._say(memory, entries, records)

    async def _trim_oldest(self) -> int:
        """Trim some of the oldest settled entries; return how many went, 0 if there are no more."""
        ages = []
        for stream in self._streams:
            first = await self._client.xrange(self._keys.stream(stream), count=1)
            ages += [(entry_ms(first[0][0]), stream)] if first else []
        for _, stream in sorted(ages):
            removed = await self._retention.give_way(stream)
            if removed:
                return removed
        return 0

    def _say(self, memory: Memory, entries: int, records: int) -> None:
        about = {"share": round(memory.share, 3), "entries": entries, "job_records": records}
        if memory.share <= self._share:
            _log.info("made room: Redis was fuller than PENSTOCK_MEMORY_SHARE", **about)
        elif not self._short:
            _log.error("Redis fills with what nobody has done yet: there is nothing more that may go", **about)
        self._short = memory.share > self._share


class JobRecords:
    """The records of finished jobs: of each page that a scan brings, at random, the older half goes."""

    def __init__(self, client: AsyncRedis, keys: Keys, *, ttl: int) -> None:
        self._client = client
        self._pattern = keys.job("*")
        self._ttl = ttl
        self._cursor = 0
        self._removed = 0
        self.exhausted = False
        """Whether the last pass over all keys found nothing to remove."""

    async def remove_some(self) -> int:
        """Look at some keys; return how many records went."""
        self._cursor, names = await self._client.scan(self._cursor, match=self._pattern, count=_PAGE)
        removed = await self._remove(names) if names else 0
        self._removed += removed
        if self._cursor == 0:
            self.exhausted, self._removed = self._removed == 0, 0
        return removed

    async def _remove(self, names: list[bytes]) -> int:
        async with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.ttl(name)
                pipeline.hvals(name)
            replies = await pipeline.execute()
        ages = {
            name: self._ttl - ttl
            for name, ttl, records in zip(names, replies[::2], replies[1::2], strict=True)
            if ttl >= 0 and all(map(_is_finished, records))
        }
        least = max(_LEAST_AGE, max(ages.values(), default=0) / 2)
        old = [name for name, age in ages.items() if age > least]
        return int(await self._client.unlink(*old)) if old else 0


class _Record(msgspec.Struct):
    state: str = ""


def _is_finished(record: bytes) -> bool:
    try:
        return msgspec.json.decode(record.partition(b" ")[2], type=_Record).state in ("completed", "dead", "cancelled")
    except UNREADABLE:
        return False
