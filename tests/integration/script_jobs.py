"""Jobs that have the core run every script of its own: steps, publishing at once and later, state, failing, dying."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock import Context, Retry, Service

jobs = Service("scripts")


@jobs.on("ingest", type="busy")
async def busy(_: Any, ctx: Context) -> None:
    await ctx.step("step", asyncio.sleep, 0)
    ctx.state.incrby("runs")
    ctx.state.hset("last", {"id": ctx.event.id})
    ctx.emit("events", "busy.now")
    ctx.emit("events", "busy.later", delay=0.05)


@jobs.on("ingest", type="hopeless", retry=Retry(attempts=2, base=0.05))
async def hopeless(_: Any) -> None:
    raise ValueError("no")


@jobs.on("ingest", type="endless")
async def endless(_: Any) -> None:
    await asyncio.Event().wait()
