"""Reading: one connection of its own, blocking, and nothing stranded when a reply is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.event import first_entry
from penstock.redis.connection import AsyncRedis
from penstock.redis.dedicated import DedicatedConnection
from penstock.streams.commit import Source

Row = tuple[Source, str, list[bytes] | None]
Cancelled = set[tuple[str, str]]
"""Streams and ids of entries that are cancelled."""
_MARGIN = 3.0  # seconds that a reply may take beyond BLOCK


class Reader:
    """Reads a group's entries for one consumer, over a connection that does nothing else."""

    def __init__(
        self,
        client: AsyncRedis,
        *,
        group: str,
        consumer: str,
        sources: list[Source],
        cancelled: Mapping[str, str] | None = None,
    ) -> None:
        """Read over a connection made as those of `client` are.

        `cancelled` has, by the name of a stream, the key under which entries of it are marked as cancelled.
        """
        self._cancelled = cancelled or {}
        self.cancelled: Cancelled = set()
        """What was read and is cancelled, by where it first lay, until somebody takes it out of here."""
        self._connection = DedicatedConnection(client)
        self._group = group
        self._consumer = consumer
        self._by_key = {source.key.encode(): source for source in sources}
        self._keys = [source.key for source in sources]

    async def new(self, sources: list[Source], *, count: int, block_ms: int | None) -> list[Row]:
        """Read entries of `sources` never delivered to this group, at most `count` of each.

        Waits for some for `block_ms`, or not at all.

        Raises:
            redis.exceptions.RedisError: the read failed; entries may now be pending that nobody saw, so
                `pending` must be read before the next call.
        """
        keys = [source.key for source in sources]
        options = ["COUNT", count] if block_ms is None else ["COUNT", count, "BLOCK", block_ms]
        return await self._read(options, keys, [">"] * len(keys), block_ms or 0)

    async def pending(self, after: dict[str, str], *, count: int) -> list[Row]:
        """Read this consumer's own unsettled entries beyond the ids in `after` (by stream key).

        Fields are None where the entry was deleted or trimmed.

        Raises:
            redis.exceptions.RedisError: the read failed.
        """
        return await self._read(["COUNT", count], self._keys, [after.get(key, "0") for key in self._keys], 0)

    async def aclose(self) -> None:
        """Drop the connection."""
        await self._connection.disconnect()

    async def _read(self, options: list[Any], keys: list[str], ids: list[str], block_ms: int) -> list[Row]:
        command = ["XREADGROUP", "GROUP", self._group, self._consumer, *options, "STREAMS", *keys, *ids]
        # What is read cannot be cancelled any more, so all that was is marked by then; mostly nothing is.
        marked = [("HLEN", key) for key in self._cancelled.values()]
        reply, *marks = await self._connection.execute_commands([command, *marked], timeout=block_ms / 1000 + _MARGIN)
        by_key = self._by_key
        rows: list[Row] = [
            (by_key[key], entry_id.decode(), fields) for key, entries in reply or () for entry_id, fields in entries
        ]
        if rows and any(marks):
            await self._note_cancelled(rows)
        return rows

    async def _note_cancelled(self, rows: list[Row]) -> None:
        """Take note of those that are cancelled, by where they first lay."""
        read: dict[str, list[str]] = {}
        for source, entry_id, fields in rows:
            if source.stream in self._cancelled and fields is not None:
                read.setdefault(source.stream, []).append(
                    first_entry(fields, entry_id) if source.is_retry else entry_id
                )
        for stream, entries in read.items():
            marks = await self._connection.execute_command("HMGET", self._cancelled[stream], *entries)
            self.cancelled.update((stream, entry) for entry, mark in zip(entries, marks, strict=True) if mark)
