"""taskiq with its stream broker. It has no call that sends several tasks at once: they go concurrently."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from taskiq_redis import RedisStreamBroker

from bench.peers import work
from bench.peers.produce import Job

broker = RedisStreamBroker(os.environ["REDIS_URL"])


@broker.task
async def handle(job: Job) -> None:
    await work.run(job)


class _Producer:
    async def one(self, job: Job) -> None:
        await handle.kiq(job)

    async def many(self, jobs: Sequence[Job]) -> None:
        await asyncio.gather(*[handle.kiq(job) for job in jobs])


@asynccontextmanager
async def producer() -> AsyncIterator[_Producer]:
    await broker.startup()
    yield _Producer()
    await broker.shutdown()
