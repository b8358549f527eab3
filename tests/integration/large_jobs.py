"""A job that waits until there is something on the stream `gate`, and fails."""

from __future__ import annotations

from penstock import Context, Event, Retry, Service

jobs = Service("large")


@jobs.on("ingest", retry=Retry(attempts=2, base=0.05))
async def fail(_: Event, ctx: Context) -> None:
    await ctx.redis.xread({"gate": "0"}, block=0)
    raise RuntimeError("failing on purpose")
