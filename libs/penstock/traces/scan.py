"""Scanning: what the newest entries of every stream say, without their data."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.text import number
from penstock.times import entry_order
from penstock.topology import Topology
from penstock.traces.records import (
    DEAD,
    EVENT,
    PARKED,
    DeadRecord,
    Parked,
    Record,
    read_dead,
    read_event,
    read_parked,
)

_scan = Script("penstock.traces", "scan", read_only=True)
_PAGE = 200  # bounds how long one call holds Redis, however large the entries are


class Findings(msgspec.Struct):
    """All that was found. `notes` say in words where there was more than was looked at.

    `last` holds, by key, the newest entry that was read of each stream.
    """

    events: list[Record] = msgspec.field(default_factory=list)
    parked: list[Parked] = msgspec.field(default_factory=list)
    dead: list[DeadRecord] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)
    last: dict[str, str] = msgspec.field(default_factory=dict)


class Scanner:
    """Reads the newest entries of every declared stream, of the groups' delayed and retried events, of the dead.

    Each place is read before those that its events move on to, so that none slips through.
    """

    def __init__(self, client: AsyncRedis, keys: Keys, topology: Topology) -> None:
        self._client = client
        self._keys = keys
        self._topology = topology
        self._streams = [stream for stream in topology.streams if stream != DEAD_LETTERS]

    async def scan(self, newest: int) -> Findings:
        """Read at most `newest` entries of each place.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        found = Findings()
        await self._read(newest, found)
        return found

    async def catch_up(self, newest: int, found: Findings) -> bool:
        """Add what has happened since `found` was read; return whether anything has.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        before = _fingerprint(found)
        now = Findings(last=found.last)
        await self._read(newest, now)
        found.events = [event for event in found.events if event.due is None] + now.events
        found.parked = now.parked
        found.dead = await self._marked([*now.dead, *found.dead])
        return _fingerprint(found) != before

    async def _read(self, newest: int, found: Findings) -> None:
        for stream in self._streams:
            await self._scheduled(stream, newest, found)
            for group in self._topology.groups(stream):
                await self._delayed(stream, group, newest, found)
                await self._retried(stream, group, newest, found)
        for stream in self._streams:
            await self._published(stream, newest, found)
        await self._dead(newest, found)

    async def entry(self, stream: str, entry_id: str) -> Record | None:
        """Return one event by its place, however old it is."""
        if stream not in self._streams:
            return None
        rows = await _scan(self._client, [self._keys.stream(stream)], [entry_id, entry_id, 1, *EVENT])
        return read_event(stream, _text(rows[0][0]), _texts(rows[0])) if rows else None

    async def _published(self, stream: str, newest: int, found: Findings) -> None:
        async for row in self._since_last(self._keys.stream(stream), newest, EVENT, found):
            found.events.append(read_event(stream, _text(row[0]), _texts(row)))

    async def _scheduled(self, stream: str, newest: int, found: Findings) -> None:
        async for row in self._soonest(self._keys.scheduled(stream), newest, EVENT, found):
            found.events.append(read_event(stream, "", _texts(row), due=number(_text(row[0]))))

    async def _delayed(self, stream: str, group: str, newest: int, found: Findings) -> None:
        async for row in self._soonest(self._keys.delayed(stream, group), newest, PARKED, found):
            found.parked.append(read_parked(stream, group, _texts(row), "", due=number(_text(row[0]))))

    async def _retried(self, stream: str, group: str, newest: int, found: Findings) -> None:
        async for row in self._newest(self._keys.retry(stream, group), newest, PARKED, found):
            retry_id = _text(row[0])
            found.parked.append(read_parked(stream, group, _texts(row), retry_id, retry_id=retry_id))

    async def _dead(self, newest: int, found: Findings) -> None:
        key = self._keys.stream(DEAD_LETTERS)
        rows = [row async for row in self._since_last(key, newest, DEAD, found)]
        found.dead = await self._marked([read_dead(_text(row[0]), _texts(row)) for row in rows])

    async def _marked(self, dead: list[DeadRecord]) -> list[DeadRecord]:
        """Return dead letters with when they were replayed."""
        if not dead:
            return []
        marks = await self._client.hmget(self._keys.replayed, [dead_letter.dead_letter for dead_letter in dead])
        return [
            msgspec.structs.replace(dead_letter, replayed=_text(mark)) if mark else dead_letter
            for dead_letter, mark in zip(dead, marks, strict=True)
        ]

    async def _since_last(
        self, key: str, most: int, names: tuple[str, ...], found: Findings
    ) -> AsyncIterator[list[bytes]]:
        """Read a stream back to where the last look at it began."""
        last = found.last.get(key)
        async for row in self._newest(key, most, names, found, oldest=f"({last}" if last else "-"):
            found.last[key] = max(found.last.get(key, ""), _text(row[0]), key=entry_order)
            yield row

    async def _newest(
        self, key: str, most: int, names: tuple[str, ...], found: Findings, *, oldest: str = "-"
    ) -> AsyncIterator[list[bytes]]:
        last, left = "+", most
        while left > 0:
            rows = await _scan(self._client, [key], [last, oldest, min(left, _PAGE), *names])
            for row in rows:
                yield row
            left -= len(rows)
            if len(rows) < _PAGE and left > 0:
                return
            if rows:
                last = f"({_text(rows[-1][0])}"
        length = await self._client.xlen(key)
        if length > most:
            found.notes.append(f"{key}: only the newest {most} of {length} entries were searched")

    async def _soonest(
        self, key: str, most: int, names: tuple[str, ...], found: Findings
    ) -> AsyncIterator[list[bytes]]:
        read = 0
        while read < most:
            rows = await _scan(self._client, [key], [read, "", min(most - read, _PAGE), *names])
            for row in rows:
                yield row
            read += len(rows)
            if len(rows) < _PAGE and read < most:
                return
        length = await self._client.zcard(key)
        if length > most:
            found.notes.append(f"{key}: only the {most} that are due first, of {length}, were searched")


def _fingerprint(found: Findings) -> tuple[object, ...]:
    return (
        len(found.events),
        [(parked.event.place, parked.group, parked.due, parked.retry_id) for parked in found.parked],
        [(dead_letter.dead_letter, dead_letter.replayed) for dead_letter in found.dead],
    )


def _texts(row: list[bytes]) -> list[str]:
    return [value.decode(errors="replace") for value in row[1:]]


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
