"""A job whose dependency is down until a key says that it is mended."""

from __future__ import annotations

from typing import Any

from penstock import Context, Reject, Service

jobs = Service("mend")


@jobs.on("ingest", type="mend")
async def mend(_: Any, ctx: Context) -> None:
    if not await ctx.redis.exists("mended"):
        raise Reject("still broken")
