"""Ending tasks of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: on Python 3.11 `asyncio.wait_for`, which redis-py uses, may swallow a cancel."""
    remaining = set(tasks)
    while remaining:
        for task in remaining:
            task.cancel()
        _, remaining = await asyncio.wait(remaining, timeout=0.5)
