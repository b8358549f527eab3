"""Jobs for `penstock demo`: they fail on purpose, and soon.

The worker always has them, so that the demo, or whoever wants to see retries and dead letters on a mesh of
theirs, needs no set-up. They touch nothing outside and publish nothing but what every job does.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from penstock import Context, Retry, Service

jobs = Service("demo")


class Flaky(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often the job is to fail before it succeeds."""

    fail_times: Annotated[int, msgspec.Meta(ge=0, le=9)] = 2


@jobs.on("ingest", type=["demo.flaky", "demo.outage.*"], retry=Retry(attempts=10, base=0.5, factor=1))
async def flaky(job: Flaky, ctx: Context) -> dict[str, Any]:
    """Fail the first `fail_times` attempts, then succeed."""
    if ctx.attempt <= job.fail_times:
        raise RuntimeError(f"failing on purpose ({ctx.attempt} of {job.fail_times})")
    return {"attempts": ctx.attempt}


@jobs.on("ingest", type="demo.hopeless", retry=Retry(attempts=3, base=0.5, factor=1))
async def hopeless(_: Any) -> None:
    """Fail every attempt."""
    raise RuntimeError("failing on purpose, as always")
