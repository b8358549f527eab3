"""The atomic commit: what handlers brought about is settled, in batches, by one script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import structlog

from penstock.event import own_fields
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.dedicated import DedicatedConnection
from penstock.redis.scripts import Script

DONE: Final = 0
RETRY: Final = 1
DEAD: Final = 2

_commit = Script("penstock.streams", "commit")
_MOST_UNITS = 500
_MOST_VALUES = 6_000  # as in commit.lua
_MOST_ENTRIES = 1_000
_MOST_BYTES = 1_000_000  # bounds how long one call holds Redis
_log = structlog.get_logger("penstock.commit")


class Source(msgspec.Struct, frozen=True):
    """A stream that a group reads: one that services publish to, or the group's own retry stream for it."""

    index: int
    stream: str
    key: str
    delayed: str
    is_retry: bool


class Entry(msgspec.Struct, gc=False):
    """One entry of a unit of work and its disposition.

    `fields` are added to it when it is parked for `delay_ms` (RETRY) or buried (DEAD); `size` is what the script
    then copies, in bytes. `in_hand` are the fields it was read with, for when it is gone from its stream.
    """

    source: int
    entry_id: str
    disposition: int = DONE
    fields: list[str] = []
    delay_ms: int = 0
    size: int = 0
    in_hand: list[bytes] = []


class Output(msgspec.Struct, gc=False):
    """An event to publish; with a delay, `key` is the sorted set it waits in."""

    key: str
    fields: list[str]
    delay_ms: int = 0


class UnitOfWork(msgspec.Struct, gc=False):
    """What one handler call took and brought about: settled whole or not at all."""

    entries: list[Entry]
    outputs: Sequence[Output] = ()
    operations: Sequence[list[Any]] = ()
    guards: Sequence[tuple[str, str, str | Literal[False]]] = ()


class Settled(msgspec.Struct, frozen=True):
    """What became of a unit of work: `refused` entries belong to others now; `invalid` says why effects cannot be.

    `stale`: a guard did not hold, so nothing happened; the handler is to run again on what is there now.
    """

    refused: frozenset[int] = frozenset()
    invalid: str | None = None
    stale: bool = False


_ALL_DONE = Settled()


class Waiter(Protocol):
    """A coroutine that waits for a commit."""

    def resume(self) -> None:
        """Go on: it is done."""


class Commit:
    """A unit of work on its way. Whoever steps the coroutine that awaits it sets `waiter`, which is then resumed.

    It is no asyncio future: a coroutine that waits for one holds a task and two turns of the loop, for each entry.
    """

    __slots__ = ("settled", "unit", "waiter")

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit
        self.settled: Settled | None = None
        self.waiter: Waiter | None = None

    def __await__(self) -> Generator[Commit, None, Settled]:
        if self.settled is None:
            yield self
        assert self.settled is not None
        return self.settled

    def settle(self, settled: Settled) -> None:
        """Say what became of it."""
        self.settled = settled
        if self.waiter is not None:
            self.waiter.resume()


class Commits(Protocol):
    """Where units of work are settled: a Committer."""

    @property
    def consumer(self) -> str:
        """Whose entries they are."""

    def submit(self, unit: UnitOfWork) -> Commit:
        """Settle `unit`; await the commit to learn what became of it."""


class Reply(NamedTuple):
    """What commit.lua returns; its head says what each part means."""

    refused: list[int]
    invalid: list[Any]
    gone: list[int]
    failed: list[bytes]
    stale: list[int]


class _Packed(NamedTuple):
    keys: list[str]
    units: bytes
    entries: int
    copied: int
    parks: bool


class Committer:
    """Settles units of work in the batches that form by themselves: what finished during one call joins the next.

    While Redis is away units wait in memory and are sent again; the ownership check in the script makes that safe.
    """

    def __init__(
        self,
        client: AsyncRedis,
        *,
        group: str,
        consumer: str,
        sources: list[Source],
        dead_letters: str,
        parked: Callable[[], None] = lambda: None,
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Settle over a connection made as those of `client` are.

        Call `parked` when something now waits for its time; `observe` gets the seconds each call takes.
        """
        self._connection = DedicatedConnection(client)
        self.consumer = consumer
        self._arguments = (group, consumer, dead_letters)
        self._sources = sources
        self._parked = parked
        self._observe = observe
        self._waiting: list[Commit] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.trouble = ""
        """Why nothing can be settled just now, if nothing can."""

    def submit(self, unit: UnitOfWork) -> Commit:
        """Settle `unit` with the next batch; await the commit to learn what became of it."""
        commit = Commit(unit)
        if not self._waiting:
            self._idle.clear()
            self._wake.set()
        self._waiting.append(commit)
        return commit

    async def drain(self) -> None:
        """Return once everything submitted has been settled."""
        await self._idle.wait()

    async def run(self) -> None:
        """Settle until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    batch, packed = self._next_batch()
                    if batch:
                        self._conclude(batch, await self._call(packed))
                    if packed.parks:
                        self._parked()
                self._idle.set()
        finally:
            await self._connection.disconnect()

    def _next_batch(self) -> tuple[list[Commit], _Packed]:
        """Take as much as one call may carry; what can never be sent is concluded here."""
        batch = self._waiting[:_MOST_UNITS]
        while True:
            try:
                packed = self._pack(batch)
            except (TypeError, ValueError, OverflowError) as error:
                if len(batch) == 1:  # such as half a surrogate pair
                    del self._waiting[:1]
                    batch[0].settle(Settled(invalid=str(error)))
                    return [], _Packed([], b"", 0, 0, parks=False)
            else:
                small = packed.entries <= _MOST_ENTRIES and len(packed.units) + packed.copied <= _MOST_BYTES
                if small or len(batch) == 1:
                    del self._waiting[: len(batch)]
                    return batch, packed
            batch = batch[: len(batch) // 2]

    def _pack(self, batch: list[Commit]) -> _Packed:
        """Return the batch as commit.lua reads it, every key that it touches, and what bounds the call."""
        flat: list[Any] = []
        keys: dict[str, None] = {}
        entries = copied = 0
        parks = False
        dead_letters = self._arguments[2]
        for source in self._sources:
            flat += (3, source.key, source.delayed, source.is_retry)
        flat.append(0)
        for commit in batch:
            unit = commit.unit
            entries += len(unit.entries)
            for entry in unit.entries:
                source = self._sources[entry.source]
                keys[source.key] = None
                copied += entry.size
                if entry.disposition == RETRY:
                    keys[source.delayed] = None
                    parks = True
                elif entry.disposition == DEAD and dead_letters:
                    keys[dead_letters] = None
                flat += (4 + len(entry.fields), entry.source + 1, entry.entry_id, entry.disposition, entry.delay_ms)
                flat += entry.fields
            flat.append(0)
            for guard in unit.guards:
                keys[guard[0]] = None
                flat.append(3)
                flat += guard
            flat.append(0)
            for output in unit.outputs:
                keys[output.key] = None
                parks = parks or output.delay_ms > 0
                flat += (2 + len(output.fields), output.key, output.delay_ms)
                flat += output.fields
            flat.append(0)
            for operation in unit.operations:
                keys[operation[1]] = None
                flat.append(len(operation))
                flat += operation
            flat.append(0)
        return _Packed(list(keys), msgspec.msgpack.encode(flat), entries, copied, parks)

    async def _call(self, packed: _Packed) -> Reply:
        pause = 0.05
        while True:
            try:
                started = time.perf_counter()
                reply = await _commit(self._connection, packed.keys, [*self._arguments, packed.units])
                self._observe(time.perf_counter() - started)
            except Exception as error:
                away = unavailable(error)
                if away is None:
                    raise
                if away.reason != self.trouble:
                    self.trouble = away.reason
                    waiting = len(self._waiting)
                    _log.warning("nothing can be settled: outcomes wait", reason=away.reason, waiting=waiting)
            else:
                if self.trouble:
                    _log.info("settling again", after=self.trouble)
                    self.trouble = ""
                return Reply(*reply)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _conclude(self, batch: list[Commit], reply: Reply) -> None:
        special: dict[int, Settled] = {unit: Settled(stale=True) for unit in reply.stale}
        for unit, why in zip(reply.invalid[::2], reply.invalid[1::2], strict=True):
            special[unit] = Settled(invalid=why.decode(errors="replace"))
        for unit, entry in zip(reply.refused[::2], reply.refused[1::2], strict=True):
            special[unit] = Settled(refused=special.get(unit, _ALL_DONE).refused | {entry})
        gone: dict[int, set[int]] = {}
        for unit, entry in zip(reply.gone[::2], reply.gone[1::2], strict=True):
            gone.setdefault(unit, set()).add(entry)
        for why in reply.failed:
            _log.error("state operation failed", error=why.decode(errors="replace"))
        for index, commit in enumerate(batch):
            if index in gone and index not in special:
                commit.unit = self._from_hand(commit.unit, gone[index])
                self._waiting.append(commit)
                continue
            commit.settle(special.get(index, _ALL_DONE) if special else _ALL_DONE)

    def _from_hand(self, unit: UnitOfWork, gone: set[int]) -> UnitOfWork:
        """Return the unit as one that parks or buries what is in hand of the entries that are gone."""
        _log.warning("deleted or trimmed while in flight: going on with what is in hand", count=len(gone))
        entries, outputs = list(unit.entries), list(unit.outputs)
        for index in gone:
            entry = entries[index]
            entries[index] = Entry(entry.source, entry.entry_id)
            source = self._sources[entry.source]
            own = own_fields(entry.in_hand, most=_MOST_VALUES, is_parked=source.is_retry)
            fields: list[Any] = [*map(_raw, own), *entry.fields]
            if entry.disposition == RETRY:
                outputs.append(Output(source.delayed, fields, max(1, entry.delay_ms)))
            else:
                outputs.append(Output(self._arguments[2], fields))
        return msgspec.structs.replace(unit, entries=entries, outputs=outputs)


def _raw(value: bytes) -> msgspec.Raw:
    """Return bytes as a MessagePack text of 32-bit length, UTF-8 or not: the server's Lua reads no other kind."""
    return msgspec.Raw(b"\xdb" + len(value).to_bytes(4, "big") + value)
