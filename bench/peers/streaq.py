"""streaq; many tasks go in one pipeline by enqueue_many."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from streaq import Worker

from bench.peers import work
from bench.peers.produce import Job

worker = Worker(redis_url=os.environ["REDIS_URL"], concurrency=100)


@worker.task(ttl=0)
async def handle(job: Job) -> None:
    await work.run(job)


class _Producer:
    async def one(self, job: Job) -> None:
        await handle.enqueue(job)

    async def many(self, jobs: Sequence[Job]) -> None:
        await worker.enqueue_many([handle.enqueue(job) for job in jobs])


@asynccontextmanager
async def producer() -> AsyncIterator[_Producer]:
    async with worker:
        yield _Producer()
