"""dramatiq: one process of eight threads. It has no call that sends several messages at once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from dramatiq import actor, set_broker
from dramatiq.brokers.redis import RedisBroker

from bench.peers import work
from bench.peers.produce import Job

set_broker(RedisBroker(url=os.environ["REDIS_URL"]))


@actor
def handle(job: Job) -> None:
    work.run_blocking(job)


class _Producer:
    async def one(self, job: Job) -> None:
        handle.send(job)

    async def many(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            handle.send(job)


@asynccontextmanager
async def producer() -> AsyncIterator[_Producer]:
    yield _Producer()
