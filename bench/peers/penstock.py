"""Penstock: a handler, and one that takes lists."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bench.peers import work
from bench.peers.produce import Job
from penstock import Service
from penstock.event import encode
from penstock.keys import Keys
from penstock.redis.connection import client
from penstock.streams.publish import Publisher

service = Service("bench-no-output")
batches = Service("bench-batch")


@service.on("ingest")
async def handle(job: dict[str, Any]) -> None:
    await work.run(job)


@batches.on("ingest", batch=500)
async def handle_list(jobs: list[dict[str, Any]]) -> None:
    await work.run_all(jobs)


class _Producer:
    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def one(self, job: Job) -> None:
        await self._publisher.publish("ingest", encode("job", json.dumps(job)))

    async def many(self, jobs: Sequence[Job]) -> None:
        await self._publisher.publish_all("ingest", [encode("job", json.dumps(job)) for job in jobs])


@asynccontextmanager
async def producer() -> AsyncIterator[_Producer]:
    redis = client(os.environ["REDIS_URL"])
    async with Publisher(redis, Keys("")) as publisher:
        yield _Producer(publisher)
    await redis.aclose()
