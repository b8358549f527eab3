"""celery. It has no call that sends several tasks at once: they share a connection."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from celery import Celery

from bench.peers import work
from bench.peers.produce import Job

app = Celery("bench", broker=os.environ["REDIS_URL"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=100, broker_connection_retry_on_startup=True)


@app.task
def handle(job: Job) -> None:
    work.run_blocking(job)


class _Producer:
    def __init__(self, producer: Any) -> None:
        self._producer = producer

    async def one(self, job: Job) -> None:
        handle.apply_async((job,), producer=self._producer)

    async def many(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            await self.one(job)


@asynccontextmanager
async def producer() -> AsyncIterator[_Producer]:
    with app.producer_pool.acquire(block=True) as kept:
        yield _Producer(kept)
