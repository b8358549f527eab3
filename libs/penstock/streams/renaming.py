"""A service that has another name now takes over what its former group has yet to do.

Nothing runs twice by that, and nothing is lost: what was in flight is handed back to the former group's retry stream;
that and what waits there is moved, and so are the results of steps; then, in one step, the new group is made where the
former one stood, and that one is removed. A process that dies in between leaves the rest to the next.
"""

from __future__ import annotations

import asyncio

import structlog

from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.connection import AsyncRedis, server_ms
from penstock.redis.scripts import Script
from penstock.streams.commit import Source
from penstock.streams.heartbeat import alive
from penstock.streams.rescue import Rescuer

_move = Script("penstock.streams", "take_over")
_PAGE, _BYTES = 50, 1_000_000  # moved in one call
_PAUSE = 0.5  # seconds between looks whether a process of the former name still runs
_log = structlog.get_logger("penstock.groups")


class FormerGroup:
    """The group of a service's former name, on the streams that the service consumes."""

    def __init__(self, client: AsyncRedis, keys: Keys, *, group: str, former: str, consumer: str) -> None:
        """`consumer` is this process."""
        self.name = former
        self._client = client
        self._keys = keys
        self._group = group
        self._consumer = consumer

    async def hand_over(self, stream: str) -> int:
        """Move all that it has in flight or tries again on `stream`; return how many events that were.

        Waits until no process of the former name runs.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        await self._until_nobody_runs()
        sources = sources_of(self._keys, self.name, [stream])
        rescuer = Rescuer(
            self._client,
            self._keys,
            group=self.name,
            consumer=self._consumer,
            sources=sources,
            dlq=self._keys.stream(DEAD_LETTERS),
            lease=0,
        )
        for source in sources:
            for consumer in await self._consumers(source.key):
                await rescuer.release(consumer)
        await self._keep_checkpoints()
        return await self.move(stream, is_gone=True)

    async def move(self, stream: str, *, is_gone: bool = False) -> int:
        """Move what waits for another try, such as a dead letter of the former group that was replayed.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        keys, former, group = self._keys, self.name, self._group
        names = [
            *(keys.retry(stream, former), keys.retry(stream, group)),
            *(keys.delayed(stream, former), keys.delayed(stream, group)),
        ]
        total = 0
        while moved := await _move(self._client, names, [_PAGE, int(is_gone), _BYTES]):
            total += moved
        return total

    async def _until_nobody_runs(self) -> None:
        said = False
        while alive(await self._client.hgetall(self._keys.beats(self.name)), await server_ms(self._client)):
            if not said:
                said = True
                _log.warning("waiting for processes of the former name to stop", service=self._group, former=self.name)
            await asyncio.sleep(_PAUSE)

    async def _consumers(self, key: str) -> list[str]:
        if not await self._client.exists(key):
            return []
        if not any(info["name"].decode() == self.name for info in await self._client.xinfo_groups(key)):
            return []
        return [row["name"].decode() for row in await self._client.xinfo_consumers(key, self.name)]

    async def _keep_checkpoints(self) -> None:
        former, now = self._keys.checkpoint(self.name, ""), self._keys.checkpoint(self._group, "")
        async for key in self._client.scan_iter(match=literal(former) + "*", count=1_000):
            await self._client.renamenx(key, now.encode() + key[len(former.encode()) :])


def sources_of(keys: Keys, group: str, streams: list[str]) -> list[Source]:
    """Return what a group reads: each stream, and before it the group's retry stream for it."""
    sources: list[Source] = []
    for stream in streams:
        delayed = keys.delayed(stream, group)
        sources.append(Source(len(sources), stream, keys.retry(stream, group), delayed, is_retry=True))
        sources.append(Source(len(sources), stream, keys.stream(stream), delayed, is_retry=False))
    return sources


def literal(text: str) -> str:
    """Escape what SCAN's patterns would take for wildcards."""
    return "".join(f"\\{character}" if character in "*?[]\\" else character for character in text)
