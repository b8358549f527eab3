"""Jobs for the breaker's tests: one that needs a dependency, which a key in Redis takes down, and one that does not."""

from __future__ import annotations

import os
from typing import Any

from penstock import Context, Retry, Service
from penstock.redis.connection import client

jobs = Service("breaker")


@jobs.on("ingest", type="crm.update", needs=["crm"], retry=Retry(attempts=4, base=0.05))
async def update(_: Any, ctx: Context) -> None:
    async with ctx.breaker("crm", failures=ConnectionError):
        crm = client(os.environ["REDIS_URL"])
        down = await crm.exists("crm:down")
        await crm.aclose()
        if down:
            raise ConnectionError("the CRM is down")


@jobs.on("ingest", type="plain")
async def plain(_: Any) -> None:
    pass
