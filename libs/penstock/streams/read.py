"""Reading: one connection of its own, blocking, and nothing stranded when a reply is lost."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any

from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from penstock.redis.connection import AsyncRedis, client
from penstock.streams.commit import Source

Row = tuple[Source, str, list[bytes] | None]
_MARGIN = 3.0  # seconds that a reply may take beyond BLOCK


class Reader:
    """Reads a group's entries for one consumer, over a connection that does nothing else.

    It talks to the connection itself: a blocked read must not be cut short by the client's own time-out,
    and must never be repeated behind the caller's back.
    """

    def __init__(self, url: str, *, group: str, consumer: str, sources: list[Source]) -> None:
        self._client: AsyncRedis = client(url, timeout=None, name=f"{consumer}:reader")
        self._group = group
        self._consumer = consumer
        self._by_key = {source.key.encode(): source for source in sources}
        self._keys = [source.key for source in sources]
        self._connection: Any = None

    async def new(self, sources: list[Source], *, count: int, block_ms: int) -> list[Row]:
        """Read entries of `sources` never delivered to this group, at most `count` of each.

        Raises:
            redis.exceptions.RedisError: the read failed; entries may now be pending that nobody saw, so
                `pending` must be read before the next call.
        """
        keys = [source.key for source in sources]
        return await self._read(["COUNT", count, "BLOCK", block_ms], keys, [">"] * len(keys), block_ms)

    async def pending(self, after: dict[str, str], *, count: int) -> list[Row]:
        """Read this consumer's own unsettled entries beyond the ids in `after` (by stream key).

        Fields are None where the entry was deleted or trimmed.

        Raises:
            redis.exceptions.RedisError: the read failed.
        """
        return await self._read(["COUNT", count], self._keys, [after.get(key, "0") for key in self._keys], 0)

    async def create_groups(self) -> list[str]:
        """Create the groups that do not exist, from the first entry on; return the streams concerned."""
        created = []
        for source in self._by_key.values():
            try:
                await self._call("XGROUP", "CREATE", source.key, self._group, "0", "MKSTREAM")
                created.append(source.key)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
        return created

    async def disconnect(self) -> None:
        """Drop the connection; the next read opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def aclose(self) -> None:
        """Close for good."""
        await self.disconnect()
        await self._client.aclose()

    async def _read(self, options: list[Any], keys: list[str], ids: list[str], block_ms: int) -> list[Row]:
        reply = await self._call(
            "XREADGROUP",
            "GROUP",
            self._group,
            self._consumer,
            *options,
            "STREAMS",
            *keys,
            *ids,
            timeout=block_ms / 1000 + _MARGIN,
        )
        by_key = self._by_key
        return [
            (by_key[key], entry_id.decode(), fields) for key, entries in reply or () for entry_id, fields in entries
        ]

    async def _call(self, *command: Any, timeout: float = _MARGIN) -> Any:
        if self._connection is None:
            self._connection = self._client.connection_pool.make_connection()
        connection = self._connection
        try:
            async with asyncio.timeout(timeout):
                await connection.send_command(*command)
                return await connection.read_response(timeout=math.inf)
        except ResponseError:
            raise
        except BaseException as error:  # a half-read reply: this connection cannot be trusted any more
            await self.disconnect()
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError("no reply in time") from None
            raise
