"""Jobs whose traces the tests look at, and a service that handles what they lead to without reporting."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock import Context, Retry, Service, Snooze

jobs = Service("trace")
shipping = Service("shipping")
_SOON = Retry(attempts=3, base=0.1, factor=2, jitter=0)


@jobs.on("ingest", type="order.placed")
async def place(order: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Take `seconds`, then ask for a parcel, `ship_in` seconds later."""
    await asyncio.sleep(order.get("seconds", 0))
    ctx.emit("parcels", "parcel.requested", {"order": order["order"]}, delay=order.get("ship_in", 0))
    return {"order": order["order"]}


@jobs.on("ingest", type="card.charged", retry=_SOON)
async def charge(card: dict[str, Any], ctx: Context) -> None:
    """Take `seconds` and fail until the key `bank` is there."""
    await asyncio.sleep(card.get("seconds", 0))
    if not await ctx.redis.exists("bank"):
        raise ConnectionError("the bank does not answer")
    ctx.emit("parcels", "parcel.requested", {})


@jobs.on("ingest", type="invoice.due")
async def remind(_: Any) -> None:
    """Not today."""
    raise Snooze(3_600)


@jobs.on("ingest", type="report.asked")
async def wait(_: Any, ctx: Context) -> None:
    """Run until something is pushed to `go`."""
    await ctx.redis.blpop("go", 4)


@shipping.on("parcels", type="parcel.requested", retry=_SOON)
async def ship(parcel: dict[str, Any], ctx: Context) -> None:
    """Send the parcel, unless it is `heavy`."""
    if parcel.get("heavy"):
        raise ValueError("too heavy to carry")
    ctx.emit("events", "parcel.sent", parcel)
