"""One look for many who ask: answers that cost Redis something serve everybody for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")
FRESH = 2.0  # seconds; no shorter than probes and people would notice


class SingleFlight(Generic[T]):
    """What `look` found, looked for again once it is `seconds` old, and never by two at a time.

    Who asks while a look is under way gets what it finds, its error too. Errors are not remembered.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[T]],
        *,
        seconds: float = FRESH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._seconds = seconds
        self._clock = clock
        self._latest: asyncio.Task[T] | None = None
        self._found_at = float("-inf")

    async def __call__(self) -> T:
        """Return what was found lately, or is found now; raise what the look raises."""
        if self._latest is None or (self._latest.done() and self._clock() - self._found_at >= self._seconds):
            self._latest = asyncio.create_task(self._find())
        return await asyncio.shield(self._latest)  # one who hangs up does not end it for the others

    async def _find(self) -> T:
        self._found_at = float("-inf")
        found = await self._look()
        self._found_at = self._clock()
        return found
