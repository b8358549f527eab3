"""Raw loops on redis-py: read and acknowledge, and nothing else; the most that a client in Python can do.

    python -m bench.raw_loop each   # a task for each message
    python -m bench.raw_loop batch  # a batch of 500 at once

No order, ownership check, validation, output, record or retry. bench.fenced_loop has the check and the output.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
import uvloop

from bench import journal

STREAM, GROUP, CONSUMER, BATCH = "ingest", "raw", "raw-1", 500
Entries = list[tuple[bytes, dict[bytes, bytes]]]


async def handle(fields: dict[bytes, bytes]) -> None:
    """Do nothing, or say when."""
    if fields[b"type"] == b"stamp":
        journal.stamp(json.loads(fields[b"data"])["at"])


async def each(client: Any, entries: Entries) -> None:
    await asyncio.gather(*[asyncio.create_task(handle(fields)) for _, fields in entries])
    await client.xack(STREAM, GROUP, *[entry_id for entry_id, _ in entries])


async def batch(client: Any, entries: Entries) -> None:
    await client.xack(STREAM, GROUP, *[entry_id for entry_id, _ in entries])


async def read(client: Any, finish: Callable[[Any, Entries], Awaitable[None]]) -> None:
    """Read batches and `finish` each before the next; the group is there already."""
    while True:
        reply = await client.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=BATCH, block=1000)
        for _, entries in reply or []:
            await finish(client, entries)


async def main() -> None:
    await read(redis.asyncio.from_url(os.environ["REDIS_URL"], protocol=2), {"each": each, "batch": batch}[sys.argv[1]])


if __name__ == "__main__":
    uvloop.run(main())
