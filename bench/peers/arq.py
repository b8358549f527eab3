"""arq. It has no call that sends several jobs at once: they go concurrently."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from arq.connections import ArqRedis, RedisSettings, create_pool

from bench.peers import work
from bench.peers.produce import Job

SETTINGS = RedisSettings.from_dsn(os.environ["REDIS_URL"])


async def handle(_: Any, job: Job) -> None:
    await work.run(job)


class Worker:
    functions = (handle,)
    redis_settings = SETTINGS
    max_jobs = 100
    poll_delay = 0.01
    keep_result = 0


class _Producer:
    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis

    async def one(self, job: Job) -> None:
        await self._redis.enqueue_job("handle", job)

    async def many(self, jobs: Sequence[Job]) -> None:
        await asyncio.gather(*[self.one(job) for job in jobs])


@asynccontextmanager
async def producer() -> AsyncIterator[_Producer]:
    redis = await create_pool(SETTINGS)
    yield _Producer(redis)
    await redis.aclose()
