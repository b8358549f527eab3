"""Jobs for the tests of tracing over OTLP."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace

from penstock import BatchContext, Context, Event, Reject, Retry, Service

jobs = Service("traced")


async def add(a: int, b: int) -> int:
    return a + b


@jobs.on("ingest", type="good")
async def good(_: Any, ctx: Context) -> int:
    with trace.get_tracer("theirs").start_as_current_span("their own span"):
        return await ctx.step("add", add, 1, 2)


@jobs.on("ingest", type="flaky", retry=Retry(base=0.05))
async def flaky(_: Any, ctx: Context) -> None:
    if ctx.attempt == 1:
        raise ConnectionError("not yet")


@jobs.on("ingest", type="hopeless")
async def hopeless(_: Any, ctx: Context) -> None:
    if not await ctx.redis.exists("mended"):
        raise Reject("never")


@jobs.on("ingest", type="batch", batch=10)
async def batch(events: list[Event], ctx: BatchContext) -> None:
    for event in events:
        ctx.emit(event, "events", "batched")


@jobs.on("ingest", type="unwritable")
async def unwritable(_: Any, ctx: Context) -> None:
    """Name, attributes, events and errors of spans that have no form in UTF-8, or in 64 bits."""
    with trace.get_tracer("theirs").start_as_current_span("their \ud800") as theirs:
        theirs.set_attributes({"half": "a\udfff", "list": ["\ud800", "b"]})
        theirs.add_event("met \ud800", {"half": "\ud800"})
        theirs.set_status(trace.Status(trace.StatusCode.ERROR, "why \ud800"))
    with ctx.span("ours \ud800", attributes={"half\ud800": "c\udcff", "large": 2**64}):
        raise ValueError("because \ud800")
