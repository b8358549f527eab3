"""When configuration is to be read again while a service runs: its files were written, or SIGHUP came."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from penstock.redis.connection import unavailable

_LOOK_AGAIN = 3.0  # seconds
Reason = Literal["SIGHUP", "changed"]


class ReloadWatcher:
    """Watches files from its making on, so that no change between the first reading of them and `watch` is missed."""

    def __init__(self, files: Callable[[], Iterable[str]]) -> None:
        """`files` are asked for at each look; those that are not there are watched for coming."""
        self._files = files
        self._seen = self._stamp()

    async def watch(self, stopping: asyncio.Event, look: Callable[[Reason | None], Awaitable[None]]) -> None:
        """Await `look(reason)` now and every few seconds, at SIGHUP at once, until the service is asked to stop.

        The reason is None where nothing has happened to the files. While Redis is away `look` may raise what says so:
        the next one is given the same reason.
        """
        reason: Reason | None = None
        with _hangups() as hangup:
            while not stopping.is_set():
                reason = self._reason(hangup) or reason
                try:
                    await look(reason)
                    reason = None
                except Exception as error:  # the reader says so when Redis is away
                    if unavailable(error) is None:
                        raise
                await _either(hangup, stopping)

    def _reason(self, hangup: asyncio.Event) -> Reason | None:
        before, self._seen = self._seen, self._stamp()
        asked = hangup.is_set()
        hangup.clear()
        return "SIGHUP" if asked else "changed" if self._seen != before else None

    def _stamp(self) -> list[tuple[str, int, int, int]]:
        """Return what differs once one of the files was written, replaced, made or removed."""
        found = []
        for name in self._files():
            with contextlib.suppress(OSError):
                stat = Path(name).stat()
                found.append((name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found


@contextlib.contextmanager
def _hangups() -> Iterator[asyncio.Event]:
    """Give an event that is set at SIGHUP; once nobody listens any more the signal is ignored."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, event.set)
    try:
        yield event
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


async def _either(*events: asyncio.Event) -> None:
    """Wait for one of the events, or until it is time to look again."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=_LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await wait
