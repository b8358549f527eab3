"""The raw loop that bench.jobs compares with: read, acknowledge, publish, in one unfenced pipeline."""

from __future__ import annotations

import os

import uvloop
from redis.exceptions import ResponseError

from penstock.redis.connection import client

BATCH = 500


async def main() -> None:
    redis = client(os.environ["REDIS_URL"])
    try:
        await redis.xgroup_create("ingest", "worker", "0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    while True:
        reply = await redis.xreadgroup("worker", "raw", {"ingest": ">"}, count=BATCH, block=1000)
        for _, entries in reply or []:
            pipeline = redis.pipeline(transaction=False)
            pipeline.xack("ingest", "worker", *[entry_id for entry_id, _ in entries])
            for entry_id, fields in entries:
                pipeline.xadd("events", {"type": "job.completed", "cause": entry_id, "data": fields[b"data"]})
            await pipeline.execute()


if __name__ == "__main__":
    uvloop.run(main())
