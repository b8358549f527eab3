"""Streams: what is added goes to whoever reads it, at once or when its time has come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

Arrive = Callable[[str, list[bytes]], None]


class Streams:
    """All streams of a mesh, by key. An entry is kept by those who read it, and by nobody else."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._readers: dict[str, list[Arrive]] = {}
        self._later: dict[asyncio.TimerHandle, tuple[str, list[bytes], float]] = {}
        self._last = (0, 0)

    @property
    def waiting(self) -> int:
        """How many entries wait for their time."""
        return len(self._later)

    def follow(self, key: str, arrive: Arrive) -> None:
        """Call `arrive` with the id and the fields of each entry that is added from now on."""
        self._readers.setdefault(key, []).append(arrive)

    def add(self, key: str, fields: Sequence[bytes]) -> str:
        """Add an entry; return its id."""
        ms, number = self._last
        now = round(time.time() * 1000)
        self._last = (now, 0) if now > ms else (ms, number + 1)
        entry_id = f"{self._last[0]}-{self._last[1]}"
        for arrive in self._readers.get(key, ()):
            arrive(entry_id, list(fields))
        return entry_id

    def add_later(self, key: str, fields: Sequence[bytes], delay: float) -> None:
        """Add an entry after `delay` seconds."""

        def due() -> None:
            del self._later[timer]
            self.add(key, fields)

        timer = self._loop.call_later(delay, due)
        self._later[timer] = key, list(fields), time.time() + delay

    def later(self, key: str) -> Iterator[tuple[asyncio.TimerHandle, list[bytes], float]]:
        """Yield what is to be added to a stream: what it is cancelled by, its fields, and when it is due."""
        for timer, (of_key, fields, due) in list(self._later.items()):
            if of_key == key:
                yield timer, fields, due

    def cancel(self, timer: asyncio.TimerHandle) -> None:
        """Forget something that waits for its time."""
        timer.cancel()
        del self._later[timer]

    def close(self) -> None:
        """Forget what waits for its time."""
        for timer in list(self._later):
            self.cancel(timer)


def encoded(fields: Sequence[str]) -> list[bytes]:
    """Return fields as they lie in a stream.

    Raises:
        UnicodeEncodeError: UTF-8 has no form for one.
    """
    return [field.encode() for field in fields]
