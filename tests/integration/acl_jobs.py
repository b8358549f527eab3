"""Jobs, and a service of one's own, that use all that the core offers: each under a Redis user of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock import Context, Event, Retry, Service

jobs = Service("jobs")
shop = Service("shop")


async def use_state(ctx: Context) -> None:
    """Have the commit do every kind of state operation, and read as handlers do."""
    state = ctx.state
    state.hset("hash", {"a": 1})
    state.hincrby("hash", "n")
    state.hincrbyfloat("hash", "f", 0.5)
    state.hdel("hash", "a")
    state.zadd("sorted", {"a": 1.0})
    state.zrem("sorted", "a")
    state.sadd("set", "a")
    state.srem("set", "a")
    state.append("list", "a")
    state.push("recent", "a", most=2)
    state.set("string", "a", ttl=60)
    state.incrby("number")
    state.expire("number", 60)
    state.delete("string")
    assert ctx.redis is not None
    await ctx.redis.hgetall(state.key("hash"))
    await ctx.redis.lrange(state.key("list"), 0, -1)
    await ctx.redis.get(state.key("number"))


@jobs.on("ingest", type="busy")
async def busy(_: Any, ctx: Context) -> str:
    ctx.progress(0.5, "half of it")
    await ctx.step("step", asyncio.sleep, 0)
    await use_state(ctx)
    ctx.emit("events", "busy.now")
    ctx.emit("events", "busy.later", delay=0.05)
    return "done"


@jobs.on("ingest", type="hopeless", retry=Retry(attempts=2, base=0.05))
async def hopeless(_: Any, ctx: Context) -> None:
    await ctx.step("step", asyncio.sleep, 0)
    raise ValueError("no")


@jobs.on("ingest", type="fragile", needs=["crm"], retry=Retry(attempts=2, base=0.05))
async def fragile(_: Any, ctx: Context) -> None:
    async with ctx.breaker("crm"):
        if ctx.attempt == 1:
            raise ConnectionError("away")


@jobs.on("ingest", type="endless")
async def endless(_: Any) -> None:
    await asyncio.Event().wait()


@shop.on("events", type="busy.now")
async def sell(event: Event, ctx: Context) -> None:
    await ctx.step("step", asyncio.sleep, 0)
    await use_state(ctx)
    ctx.emit("sales", "sold", {"of": event.id})
    ctx.emit("sales", "sold.later", delay=0.05)


@shop.on("events", type="job.dead")
async def lose(event: Event) -> None:
    raise ValueError("nobody buys it")
