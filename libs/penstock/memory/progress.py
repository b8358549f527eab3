"""Progress in memory: what handlers say is seen at once by whoever asks for the job, or watches it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

from penstock.event import Event
from penstock.jobs.progress import Progress, commands
from penstock.jobs.watch import Watches
from penstock.keys import Keys
from penstock.memory.values import Values


class MemoryProgress:
    """Keeps what the handlers of one service say, of each job the last."""

    def __init__(self, values: Values, watches: Watches, keys: Keys, *, streams: Collection[str]) -> None:
        """`streams` are those whose entries are jobs."""
        self._values = values
        self._watches = watches
        self._keys = keys
        self._streams = frozenset(streams)
        self._loop = asyncio.get_running_loop()

    def tell(self, event: Event, stream: str, progress: Progress) -> None:
        """Take note of how far a job is; from any thread."""
        if stream in self._streams:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._keep, event, progress)

    async def settle(self, event: Event) -> None:
        """Return once the last that was told of a job is kept."""
        await asyncio.sleep(0)

    def _keep(self, event: Event, progress: Progress) -> None:
        told = commands(self._keys, event, progress)
        self._values.change([command for command in told if command[0] != "XADD"])
        self._watches.tell_progress(event.id, event.source, progress)
