"""rq with its SimpleWorker, which runs jobs in the worker itself; many jobs go in one pipeline.

python -m bench.peers.rq  # the worker
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import redis
from rq import Queue, SimpleWorker

from bench.peers import work
from bench.peers.produce import Job

connection = redis.Redis.from_url(os.environ["REDIS_URL"])
queue = Queue(connection=connection)


class _Producer:
    async def one(self, job: Job) -> None:
        queue.enqueue(work.run_blocking, job, result_ttl=0)

    async def many(self, jobs: Sequence[Job]) -> None:
        queue.enqueue_many([Queue.prepare_data(work.run_blocking, (job,), result_ttl=0) for job in jobs])


@asynccontextmanager
async def producer() -> AsyncIterator[_Producer]:
    yield _Producer()


if __name__ == "__main__":
    SimpleWorker([queue], connection=connection).work(logging_level="ERROR")
