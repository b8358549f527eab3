"""What became of a job: an event on `events`, and a record for whoever asks by id."""

from __future__ import annotations

import time
from typing import Any

from penstock import Context, InvalidEvent
from penstock.event import encode_data, identity
from penstock.keys import EVENTS
from penstock.mesh.jobs import Job, JobState
from penstock.schemas import JobEvent
from penstock.service.outcome import Done, Outcome, Retried
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
    now, duration, queue_wait = time.time(), _seconds(context.elapsed), _seconds(context.queued)
    more: dict[str, Any]
    state: JobState
    if isinstance(outcome, Done):
        kind, state, more = "job.completed", "completed", {"result": outcome.result}
    elif isinstance(outcome, Retried):
        kind, state, more = "job.failed", "retrying", {"error": outcome.error}
        if outcome.snoozed:
            kind, more = "job.snoozed", {}
        more["next_attempt_at"] = rfc3339(now + outcome.delay)
    else:
        kind, state, more = "job.dead", "dead", {"reason": outcome.reason, "error": outcome.error}
    said = JobEvent(
        job_id=event.id,
        job_type=event.type,
        attempt=context.attempt,
        duration=duration,
        queue_wait=queue_wait,
        **more,
    )
    record = Job(
        state=state,
        type=event.type,
        attempts=context.attempt,
        duration=duration,
        queue_wait=queue_wait,
        finished_at=None if state == "retrying" else rfc3339(now),
        trace_id=context.trace.trace_id,
        tenant=event.tenant,
        **more,
    )
    context.report(EVENTS, kind, said)
    owner = identity(context.stream, event.entry_id)
    context.state.hset_own(f"job:{event.id}", event.source, encode_data(record), owner=owner, ttl=ttl)


def _seconds(duration: float) -> float:
    return round(duration, 6)
