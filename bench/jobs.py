"""Handlers that are measured. They do nothing, or pass on what they were given."""

from __future__ import annotations

import msgspec

from bench import journal
from penstock import BatchContext, Context, Event, Service


class Job(msgspec.Struct):
    """A job of 200 bytes as JSON; `at` is when it was sent, in seconds since the epoch."""

    at: float
    pad: str


jobs = Service("jobs")  # run by the shipped worker
no_output = Service("bench-no-output")
one_output = Service("bench-one-output")
batch = Service("bench-batch")
batch_output = Service("bench-batch-output")
two_streams = Service("bench-two-streams")


@jobs.on("ingest", type="noop")
@no_output.on("ingest", type="noop")
async def nothing(_: Job) -> None:
    pass


@one_output.on("ingest", type="noop")
@two_streams.on("ingest", type="noop")
async def pass_on(job: Job, ctx: Context) -> None:
    ctx.emit("events", "job.done", job)


@jobs.on("ingest", type="stamp")
@one_output.on("ingest", type="stamp")
@two_streams.on("other", type="stamp")
async def stamp(job: Job, ctx: Context) -> None:
    journal.stamp(job.at)
    if ctx.service != "worker":
        ctx.emit("events", "job.done", job)


@batch.on("ingest", batch=500)
async def nothing_of_many(_: list[Job]) -> None:
    pass


@batch_output.on("ingest", batch=500)
async def pass_on_many(events: list[Event], ctx: BatchContext) -> None:
    for event in events:
        ctx.emit(event, "events", "job.done", msgspec.Raw(event.data))
