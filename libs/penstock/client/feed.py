"""The feed: what is told of jobs, read once for everybody in this process who waits for one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeAlias

import structlog

from penstock.jobs.progress import Progress, read_progress
from penstock.jobs.watch import Watches
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.dedicated import DedicatedConnection
from penstock.tasks import end
from penstock.times import entry_order

_BLOCK_MS = 1_000
_PATIENCE = 5.0  # seconds that a reply may take beyond that
_MOST = 500  # entries of one read
_PAUSE = 0.5  # seconds between tries while Redis is away
TakeAside = Callable[[str, Mapping[bytes, bytes]], None]
"""Takes an entry of a stream that is read beside the others: its id, and its fields."""
_Read: TypeAlias = list[tuple[str, list[tuple[bytes, list[bytes]]]]]
_log = structlog.get_logger("penstock.client")


class Listener(Protocol):
    """Takes all that is read, and not only what is told of jobs that somebody watches."""

    def take(self, key: str, entry_id: str, fields: list[bytes]) -> None:
        """Take an entry of one of the streams."""

    def take_progress(self, job_id: str, progress: Progress, fields: Mapping[bytes, bytes]) -> None:
        """Take what the handler of a job says, with the fields that say of which job."""

    def miss(self) -> None:
        """Take note that entries may have been missed, and that positions are others now."""


class Feed(Watches):
    """Reads the streams on which it is told what becomes of jobs, from where they end when it starts."""

    def __init__(
        self, client: AsyncRedis, keys: Keys, streams: Iterable[str], *, listener: Listener | None = None
    ) -> None:
        """With a listener it keeps an eye on the epoch too: after FLUSHALL there is another."""
        super().__init__()
        self._client = client
        self._listener = listener
        self._epoch_key = keys.epoch
        self.epoch = ""
        self._turn = asyncio.Event()
        self._connection = DedicatedConnection(client)
        self._progress = keys.progress
        self._asides: dict[str, TakeAside] = {}  # of these what is missed is of no use any more
        self._positions = dict.fromkeys(map(keys.stream, streams), "0-0")
        self._starting = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether all that is told from now on is seen."""
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Begin to read, unless that has begun.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        async with self._starting:
            if (self._task is None or self._task.done()) and self._positions:
                if self._listener is not None:
                    self.epoch = await self._current_epoch()
                await self._go_to_the_end()
                self._task = asyncio.create_task(self._run(), name="feed")

    async def follow_progress(self) -> None:
        """Read what handlers say of their progress too, from now on.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        await self.follow_aside(self._progress, self._take_progress)

    async def follow_aside(self, key: str, take: TakeAside) -> None:
        """Read one more stream from now on, whose entries are nothing once they were missed.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        async with self._starting:
            if key not in self._positions:
                self._positions[key] = await self._end_of(key)
                self._asides[key] = take

    def _told(self) -> list[str]:
        return [key for key in self._positions if key not in self._asides]

    def position(self, key: str) -> str:
        """Return up to which entry of a stream all has been taken."""
        return self._positions[key]

    async def catch_up(self) -> None:
        """Return once all is taken that is there now.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        ends = [(key, entry_order(await self._end_of(key))) for key in self._told()]
        epoch = self.epoch
        while self.epoch == epoch and any(entry_order(self._positions[key]) < last for key, last in ends):
            self._turn.clear()
            await self._turn.wait()

    async def failure(self) -> BaseException | None:
        """Return why it has stopped reading, once it has done so by itself."""
        assert self._task is not None
        await asyncio.wait([self._task])
        return None if self._task is None or self._task.cancelled() else self._task.exception()

    async def aclose(self) -> None:
        """Stop reading; it may be started again."""
        task, self._task = self._task, None
        if task is not None:
            await end([task])
        await self._connection.disconnect()

    async def _run(self) -> None:
        said = ""
        while True:
            try:
                if said and (await self._is_anew() or await self._is_gap()):
                    self._miss()
                said = ""
                read = await self._read()
                if await self._is_anew():
                    self._miss()
                    continue
                for key, entry_id, fields in _merged(read):
                    self._positions[key] = entry_id
                    self._take(key, entry_id, fields)
                if any(len(rows) == _MOST for _, rows in read) and await self._is_gap():
                    self._miss()
                self._turn.set()
            except Exception as error:
                away = unavailable(error)
                if away is None:
                    raise
                if away.reason != said:
                    said = away.reason
                    _log.warning("what becomes of jobs is not seen for now", reason=said)
                await asyncio.sleep(_PAUSE)

    async def _read(self) -> _Read:
        timeout = _BLOCK_MS / 1000 + _PATIENCE
        # Progress first: of what came in one ms, it is what was said before.
        positions = sorted(self._positions.items(), key=lambda position: position[0] not in self._asides)
        command = (
            "XREAD",
            "COUNT",
            _MOST,
            "BLOCK",
            _BLOCK_MS,
            "STREAMS",
            *(part for pair in zip(*positions, strict=True) for part in pair),
        )
        reply = await self._connection.execute_command(*command, timeout=timeout)
        return [(key.decode(), rows) for key, rows in reply or ()]

    async def _current_epoch(self) -> str:
        epoch: bytes | None = await self._client.get(self._epoch_key)
        while not epoch:
            await self._client.set(self._epoch_key, os.urandom(8).hex(), nx=True)
            epoch = await self._client.get(self._epoch_key)
        return epoch.decode(errors="replace")

    async def _is_anew(self) -> bool:
        """Whether all was flushed that had been there; then reading goes on from where the streams end now."""
        if self._listener is None or (epoch := await self._current_epoch()) == self.epoch:
            return False
        self.epoch = epoch
        await self._go_to_the_end()
        return True

    async def _go_to_the_end(self) -> None:
        for key in list(self._positions):
            self._positions[key] = await self._end_of(key)

    async def _end_of(self, key: str) -> str:
        last = await self._client.xrevrange(key, count=1)
        return last[0][0].decode() if last else "0-0"

    async def _is_gap(self) -> bool:
        """Whether entries may be gone that were not read: trimmed away meanwhile, or all that was there.

        What was there being gone, reading begins anew at the first entry.
        """
        gap = False
        for key, position in list(self._positions.items()):
            if position == "0-0":
                continue
            newest = await self._end_of(key)
            if key in self._asides:
                self._positions[key] = newest
                continue
            oldest = await self._client.xrange(key, count=1)
            if entry_order(newest) < entry_order(position):
                self._positions[key], gap = "0-0", True
            elif oldest and entry_order(oldest[0][0]) > entry_order(position):
                gap = True
        return gap

    def _take(self, key: str, entry_id: str, fields: list[bytes]) -> None:
        entry = dict(zip(fields[::2], fields[1::2], strict=True))
        if key in self._asides:
            self._asides[key](entry_id, entry)
            return
        if self._listener is not None:
            self._listener.take(key, entry_id, fields)
        self.tell_report(entry)

    def _take_progress(self, entry_id: str, entry: Mapping[bytes, bytes]) -> None:
        try:
            job_id, source, progress = read_progress(entry_id, entry)
        except ValueError:  # somebody else's words
            return
        if self._listener is not None:
            self._listener.take_progress(job_id, progress, entry)
        self.tell_progress(job_id, source, progress)

    def _miss(self) -> None:
        if self._listener is not None:
            self._listener.miss()
        self.miss_all()


def _merged(read: _Read) -> list[tuple[str, str, list[bytes]]]:
    """Return entries of several streams in the order in which they came to be; in one ms progress comes first."""
    entries = [(key, entry_id.decode(), fields) for key, rows in read for entry_id, fields in rows]
    if len(read) > 1:
        entries.sort(key=lambda entry: entry_order(entry[1])[0])
    return entries
