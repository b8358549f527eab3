"""saq. It has no call that sends several jobs at once: they go concurrently."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from saq import Queue

from bench.peers import work
from bench.peers.produce import Job

queue = Queue.from_url(os.environ["REDIS_URL"])


async def handle(_: Any, *, job: Job) -> None:
    await work.run(job)


settings = {"queue": queue, "functions": [handle], "concurrency": 100}


class _Producer:
    async def one(self, job: Job) -> None:
        await queue.enqueue("handle", job=job)

    async def many(self, jobs: Sequence[Job]) -> None:
        await asyncio.gather(*[queue.enqueue("handle", job=job) for job in jobs])


@asynccontextmanager
async def producer() -> AsyncIterator[_Producer]:
    await queue.connect()
    yield _Producer()
    await queue.disconnect()
