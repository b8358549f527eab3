"""FastStream: a stream with a consumer group, message by message or in lists of up to 500."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import redis
import redis.asyncio
from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub

from bench.peers import work
from bench.peers.produce import Job

STREAM, GROUP = "jobs", "bench"
LISTS = os.environ.get("BENCH_FASTSTREAM") == "list"

# What its documentation advises for speed: no validation of parameters that are plain JSON.
broker = RedisBroker(os.environ["REDIS_URL"], apply_types=False, logger=None)
app = FastStream(broker, logger=None)

if LISTS:

    @broker.subscriber(stream=StreamSub(STREAM, group=GROUP, consumer="one", batch=True, max_records=500))
    async def handle_list(jobs: list[dict[str, Any]]) -> None:
        await work.run_all(jobs)

else:

    @broker.subscriber(stream=StreamSub(STREAM, group=GROUP, consumer="one", max_records=500), max_workers=100)
    async def handle(job: dict[str, Any]) -> None:
        await work.run(job)


class _Producer:
    def __init__(self, client: Any) -> None:
        self._redis = client

    async def one(self, job: Job) -> None:
        await broker.publish(job, stream=STREAM)

    async def many(self, jobs: Sequence[Job]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job in jobs:
                await broker.publish(job, stream=STREAM, pipeline=pipeline)
            await pipeline.execute()


@asynccontextmanager
async def producer() -> AsyncIterator[_Producer]:
    async with broker, redis.asyncio.from_url(os.environ["REDIS_URL"]) as client:
        with contextlib.suppress(redis.ResponseError):  # the group is there; a worker would make it at the end
            await client.xgroup_create(STREAM, GROUP, "0", mkstream=True)
        yield _Producer(client)
