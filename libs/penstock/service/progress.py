"""Telling of progress: gathered from all handlers of a process, written a few times a second, lost if need be."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Collection, Sequence
from typing import Protocol

import structlog

from penstock.event import Event
from penstock.jobs.progress import Progress, commands
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable

_PAUSE = 1 / 3  # seconds: three times a second, and once more when the handler has ended
_LAST_WORD = 1.0  # seconds that the end of a handler waits for its last word to be written
_Name = tuple[str, str]
_log = structlog.get_logger("penstock.progress")


class ProgressSink(Protocol):
    """Where handlers say how far they are."""

    def tell(self, event: Event, stream: str, progress: Progress) -> None:
        """Take note of it; from any thread."""

    async def settle(self, event: Event) -> None:
        """Have the last that was told of a job written before its handler's run ends."""


class NoProgress:
    """Takes note of nothing."""

    def tell(self, event: Event, stream: str, progress: Progress) -> None:
        """Do nothing."""

    async def settle(self, event: Event) -> None:
        """Do nothing."""


class ProgressWriter:
    """Writes what handlers say, of each job the last, in one pipeline for all of them.

    Nothing waits for it but the end of a run that has told of progress. What cannot be written is dropped.
    """

    def __init__(self, client: AsyncRedis, keys: Keys, *, streams: Collection[str]) -> None:
        """`streams` are those whose entries are jobs: of others nobody asks how far they are."""
        self._client = client
        self._keys = keys
        self._streams = frozenset(streams)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._waiting: dict[_Name, tuple[Event, Progress]] = {}
        self._ending: list[tuple[_Name, asyncio.Future[None]]] = []
        self._next = 0.0  # on the loop's clock: when all that waits is written
        self._wake = asyncio.Event()
        self._said = ""

    def tell(self, event: Event, stream: str, progress: Progress) -> None:
        """Take note of how far a job is; from any thread."""
        if stream not in self._streams:
            return
        with self._lock:
            self._waiting[event.source, event.id] = event, progress
        if threading.get_ident() == self._thread:
            self._wake.set()
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake.set)

    async def settle(self, event: Event) -> None:
        """Return once the last that was told of a job is written, or has taken too long."""
        done: asyncio.Future[None] = self._loop.create_future()
        self._ending.append(((event.source, event.id), done))
        self._wake.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORD):
                await done

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            ending, self._ending = self._ending, []
            await self._write(self._take([name for name, _ in ending]))
            for _, done in ending:
                if not done.done():
                    done.set_result(None)

    def _take(self, ending: Sequence[_Name]) -> list[tuple[Event, Progress]]:
        """Return what is to be written now: all, if it is time again, else that of jobs whose handlers have ended."""
        now = self._loop.time()
        with self._lock:
            if now >= self._next:
                taken, self._waiting = self._waiting, {}
                self._next = now + _PAUSE
            else:
                taken = {name: self._waiting.pop(name) for name in ending if name in self._waiting}
                if self._waiting:
                    self._loop.call_at(self._next, self._wake.set)
        return list(taken.values())

    async def _write(self, told: Sequence[tuple[Event, Progress]]) -> None:
        if not told:
            return
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                for event, progress in told:
                    for command in commands(self._keys, event, progress):
                        pipeline.execute_command(*command)
                await pipeline.execute()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is worth no job
            away = unavailable(error)
            reason = away.reason if away else str(error)
            if reason != self._said:
                self._said = reason
                _log.warning("the progress of jobs is not written for now", reason=reason)
        else:
            self._said = ""
