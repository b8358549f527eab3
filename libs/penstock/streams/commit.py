"""The hop commit: what a handler brought about takes effect together with its acknowledgement, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import msgspec
import structlog

from penstock.errors import InvalidEvent
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script

DONE: Final = 0
RETRY: Final = 1
DEAD: Final = 2

_commit = Script("penstock.streams", "commit")
_MOST_UNITS = 500
_MOST_ENTRIES = 1_000
_MOST_BYTES = 1_000_000  # bounds how long one call holds Redis
_log = structlog.get_logger("penstock.settle")


class Source(msgspec.Struct, frozen=True):
    """A stream that a group reads: one that services publish to, or the group's own retry stream for it."""

    index: int
    stream: str
    key: str
    delayed: str
    is_retry: bool


class Entry(msgspec.Struct, array_like=True):
    """One entry of a unit and its verdict, in the shape that commit.lua reads."""

    source: int
    entry_id: str
    verdict: int = DONE
    fields: list[str] = []
    delay_ms: int = 0


class Output(msgspec.Struct, array_like=True):
    """An event to publish; with a delay, `key` is the sorted set it waits in."""

    key: str
    fields: list[str]
    delay_ms: int = 0


class Unit(msgspec.Struct, array_like=True):
    """What one handler call took and brought about: settled whole or not at all."""

    entries: list[Entry]
    outputs: list[Output]
    operations: list[list[Any]]
    guards: list[tuple[str, str, str | Literal[False]]] = []

    @property
    def waits(self) -> bool:
        """Whether it parks an entry or publishes an event for later."""
        return any(entry.verdict == RETRY for entry in self.entries) or any(output.delay_ms for output in self.outputs)


class Settled(msgspec.Struct):
    """What became of a unit: `refused` entries belong to others now; `invalid` says why effects cannot be.

    `stale`: a guard did not hold, so nothing happened; the handler is to run again on what is there now.
    """

    unit: Unit
    refused: set[int] = msgspec.field(default_factory=set)
    invalid: str | None = None
    stale: bool = False


class Reply(NamedTuple):
    """What commit.lua returns; its head says what each part means."""

    refused: list[int]
    invalid: list[Any]
    gone: int
    failed: list[bytes]
    stale: list[int]


class _Packed(NamedTuple):
    unit: Unit
    packed: msgspec.Raw


class Committer:
    """Settles units in the batches that form by themselves: what finished during one call joins the next.

    While Redis is away units wait in memory and are sent again; the ownership check in the script makes
    that safe.
    """

    def __init__(
        self,
        client: AsyncRedis,
        *,
        group: str,
        consumer: str,
        sources: list[Source],
        dead_letters: str,
        report: Callable[[Settled], None],
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Report what becomes of each unit; `observe` gets the seconds each commit takes."""
        self._observe = observe
        self._client = client
        self._arguments = (group, consumer, dead_letters)
        self._route = sources[0].key
        self._streams = [[source.key, source.delayed, source.is_retry] for source in sources]
        self._report = report
        self._units: list[_Packed] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, unit: Unit) -> None:
        """Settle `unit` with the next batch; `report` is called once it is.

        Raises:
            InvalidEvent: its effects hold what cannot be written, such as half a surrogate pair.
        """
        try:
            self._units.append(_Packed(unit, msgspec.Raw(msgspec.msgpack.encode(unit))))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidEvent(str(error)) from None
        self._idle.clear()
        self._wake.set()

    async def drain(self) -> None:
        """Return once everything submitted has been settled."""
        await self._idle.wait()

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._units:
                batch, packed = self._next_batch()
                reply = await self._commit(packed)
                self._conclude(batch, reply)
            self._idle.set()

    def _next_batch(self) -> tuple[list[Unit], bytes]:
        count = entries = size = 0
        for unit, packed in self._units[:_MOST_UNITS]:
            entries += len(unit.entries)
            size += len(packed)
            if count and (entries > _MOST_ENTRIES or size > _MOST_BYTES):
                break
            count += 1
        batch, self._units = self._units[:count], self._units[count:]
        return [unit for unit, _ in batch], msgspec.msgpack.encode((self._streams, [packed for _, packed in batch]))

    async def _commit(self, packed: bytes) -> Reply:
        pause = 0.05
        while True:
            try:
                started = time.perf_counter()
                reply = await _commit(self._client, [self._route], [*self._arguments, packed])
                self._observe(time.perf_counter() - started)
                return Reply(*reply)
            except Exception as error:
                if unavailable(error) is None:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _conclude(self, batch: list[Unit], reply: Reply) -> None:
        refused, invalid, gone, failed, stale = reply
        verdicts = [Settled(unit) for unit in batch]
        for unit, entry in zip(refused[::2], refused[1::2], strict=True):
            verdicts[unit].refused.add(entry)
        for unit, why in zip(invalid[::2], invalid[1::2], strict=True):
            verdicts[unit].invalid = why.decode()
        for unit in stale:
            verdicts[unit].stale = True
        if gone:
            _log.warning("entries lost: deleted or trimmed while they were in hand", count=gone)
        for why in failed:
            _log.error("state operation failed", error=why.decode())
        for verdict in verdicts:
            self._report(verdict)
