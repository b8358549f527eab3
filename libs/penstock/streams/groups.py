"""Consumer groups: made where a service is to begin, and, should one be lost, again where it stood.

How far a group has come lies in the group itself, and so is gone with it. It is noted outside of the stream every few
seconds, and when a process stops: the entry up to which everything was settled. A group that is made again begins
there; what it had settled since then, or beyond what it had not settled, it does again.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

import structlog
from redis.exceptions import ResponseError

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.streams.commit import Source
from penstock.streams.lag import LagCounter
from penstock.streams.renaming import FormerGroup
from penstock.topology import NEWEST, OLDEST, Start

_make = Script("penstock.streams", "groups")
_note = Script("penstock.streams", "note_position")
_log = structlog.get_logger("penstock.groups")


def consumer_prefix(service: str, pid: int) -> str:
    """Return how the name of the consumer begins that a process of this machine has."""
    return f"{service}-{socket.gethostname()}-{pid}-"


class Groups:
    """The groups of one service, on the streams that it consumes and on those of its retries."""

    def __init__(
        self,
        client: AsyncRedis,
        keys: Keys,
        *,
        group: str,
        sources: list[Source],
        starts: Mapping[str, Start],
        former: FormerGroup | None = None,
    ) -> None:
        """`starts` says for each stream where a group begins that is new, and does not take the place of `former`."""
        self._former = former
        self._client = client
        self._keys = keys
        self._group = group
        self._sources = sources
        self._starts = starts
        self._made = False

    async def make(self) -> None:
        """Make those that do not exist; wait while processes run under a former name of the service.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        for source in self._sources:
            await (self._make_retry(source) if source.is_retry else self._make(source))
        self._made = True

    async def note(self) -> None:
        """Note where they stand.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        for source in self._sources:
            if not source.is_retry:
                await _note(self._client, [source.key, self._keys.positions(self._group)], [self._group, source.stream])
                if self._former is not None:
                    await self._former.move(source.stream)

    async def _make(self, source: Source) -> None:
        # A group that this process has seen can only be gone without a trace if all was: what is there now is new.
        start = OLDEST if self._made else self._starts.get(source.stream, OLDEST)
        former = self._former
        keys = [source.key, self._keys.positions(self._group)]
        keys += [self._keys.positions(former.name)] if former else []
        moved, made = 0, -1
        while made < 0:
            if former is not None and await self._is_missing(source.key):
                moved += await former.hand_over(source.stream)
            arguments = [self._group, source.stream, begins_after(start), former.name if former else ""]
            made, after, known = await _make(self._client, keys, arguments)
        if made:
            await self._say(source, after, start, was_known=bool(known), moved=moved)

    async def _is_missing(self, key: str) -> bool:
        if not await self._client.exists(key):
            return True
        return all(info["name"].decode() != self._group for info in await self._client.xinfo_groups(key))

    async def _make_retry(self, source: Source) -> None:
        try:  # what is there is unsettled: from the first entry on
            await self._client.execute_command("XGROUP", "CREATE", source.key, self._group, "0", "MKSTREAM")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _say(self, source: Source, after: bytes, start: Start, *, was_known: bool, moved: int) -> None:
        entries = (await LagCounter(self._client).count(source.key, [after]))[after]
        about = {"stream": source.key, "group": self._group, "entries": entries}
        if was_known and self._former is not None and not self._made:
            _log.warning("took over from the former name", former=self._former.name, to_try_again=moved, **about)
        elif was_known:
            _log.warning(
                "the consumer group was gone: made again where it had settled all, as last noted; what it did beyond "
                "that, it does again",
                after=after.decode(),
                **about,
            )
        elif self._made:
            _log.warning("consumer groups were gone; made again from the first entry on", **about)
        elif await self._client.xlen(source.key):
            skipped = await self._client.xlen(source.key) - entries
            _log.info("a new consumer group on a stream with history", start=start, skipped=skipped, **about)


def begins_after(start: Start) -> str:
    """Return the id after which a new group begins, as groups.lua takes it."""
    if start == OLDEST:
        return "0-0"
    return "+" if start == NEWEST else f"{max(0, start.ms - 1)}-{2**64 - 1}"


async def start_of(client: AsyncRedis, keys: Keys, stream: str, group: str, start: Start) -> tuple[str, bool]:
    """Return the id after which `group` will begin on `stream`, on which it does not exist, and whether it stood there.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    known = await client.hget(keys.positions(group), stream)
    if known:
        return known.decode(), True
    if start != NEWEST:
        return begins_after(start), False
    last = await client.xrevrange(keys.stream(stream), count=1)
    return (last[0][0].decode() if last else "0-0"), False
