"""What became of a job: an event on `events`, and a record for whoever asks by id."""

from __future__ import annotations

import time
from typing import Any

from penstock import Context, InvalidEvent
from penstock.event import encode_data, identity
from penstock.keys import EVENTS
from penstock.mesh.jobs import Job
from penstock.schemas import JobEvent
from penstock.service.outcome import Dead, Done, Outcome, Retried
from penstock.times import rfc3339

MOST_RESULT = 1_000_000  # characters of JSON: it travels in an event and lies in the job's record


def check_result(result: Any) -> None:
    """Refuse a result that cannot be kept.

    Raises:
        InvalidEvent: JSON has no form for it, or it is too large for an event and a record.
    """
    if result is None:
        return
    try:
        size = len(encode_data(result))
    except InvalidEvent as error:
        raise InvalidEvent(f"the job's result: {error}") from None
    if size > MOST_RESULT:
        raise InvalidEvent(
            f"the job's result: {size:,} characters of JSON, and at most {MOST_RESULT:,} are kept: "
            "put it where larger things belong (a file, a bucket, a table) and return where that is"
        )


async def started(context: Context) -> None:
    """Publish job.started, before the handler runs (PENSTOCK_JOB_STARTED)."""
    event = context.event
    data = JobEvent(job_id=event.id, job_type=event.type, attempt=context.attempt, queue_wait=_seconds(context.queued))
    await context.publish(EVENTS, "job.started", data)


def outcome(context: Context, outcome: Outcome, *, ttl: int) -> None:
    """Publish job.completed, job.failed or job.dead, and write the job's record."""
    event = context.event
    said: dict[str, Any] = {
        "job_id": event.id,
        "job_type": event.type,
        "attempt": context.attempt,
        "duration": _seconds(context.elapsed),
        "queue_wait": _seconds(context.queued),
    }
    more: dict[str, Any]
    if isinstance(outcome, Done):
        kind, more = "job.completed", {"result": outcome.result}
    elif isinstance(outcome, Retried):
        due = rfc3339(time.time() + outcome.delay)
        kind, more = "job.failed", {"error": outcome.error, "next_attempt_at": due}
        if outcome.snoozed:
            kind, more = "job.snoozed", {"next_attempt_at": due}
    else:
        kind, more = "job.dead", {"reason": outcome.reason, "error": outcome.error}
    context.report(EVENTS, kind, JobEvent(**said, **more))
    context.state.hset_own(
        f"job:{event.id}",
        event.source,
        encode_data(_record(context, outcome, said, more)),
        owner=identity(context.stream, event.entry_id),
        ttl=ttl,
    )


def _record(context: Context, outcome: Outcome, said: dict[str, Any], more: dict[str, Any]) -> Job:
    return Job(
        state="completed" if isinstance(outcome, Done) else "dead" if isinstance(outcome, Dead) else "retrying",
        type=context.event.type,
        attempts=context.attempt,
        duration=said["duration"],
        queue_wait=said["queue_wait"],
        finished_at=None if isinstance(outcome, Retried) else rfc3339(time.time()),
        trace_id=context.trace.trace_id,
        tenant=context.event.tenant,
        **more,
    )


def _seconds(duration: float) -> float:
    return round(duration, 6)
