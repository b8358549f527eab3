"""What becomes of a job: told on the stream that its stream reports to, and in a record for whoever asks by id."""

from __future__ import annotations

import time
from typing import Any

from penstock.errors import InvalidEvent
from penstock.event import encode_data, identity
from penstock.jobs.record import Job, JobState
from penstock.schemas import JobEvent
from penstock.service.context import Context, publish_now
from penstock.service.execute import Hooks
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


class Reports:
    """Tells what becomes of the jobs on one stream."""

    def __init__(self, stream: str | None, *, ttl: float) -> None:
        """`stream` is the one to tell it on; records live for `ttl` seconds."""
        self._stream = stream
        self._ttl = ttl

    def around(self, hooks: Hooks, *, starts: bool) -> Hooks:
        """Return `hooks` and what is done for jobs beside them; `starts` tells of their starts too."""
        on_start = (self.started, *hooks.on_start) if starts else hooks.on_start
        return Hooks(on_start, (*hooks.on_result, check_result), hooks.on_outcome)

    async def started(self, context: Context) -> None:
        """Publish job.started, before the handler runs (PENSTOCK_JOB_STARTED)."""
        if self._stream is None:
            return
        event = context.event
        wait = _seconds(context.queued)
        data = JobEvent(job_id=event.id, job_type=event.type, attempt=context.attempt, queue_wait=wait)
        await publish_now(context, self._stream, "job.started", data, index=f"job.started#{context.attempt}")

    def outcome(self, context: Context, outcome: Outcome) -> None:
        """Add to the commit job.completed, job.failed, job.snoozed or job.dead, and the job's record."""
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
        if self._stream is not None:
            said = JobEvent(
                job_id=event.id,
                job_type=event.type,
                attempt=context.attempt,
                duration=duration,
                queue_wait=queue_wait,
                **more,
            )
            index = f"{kind}#{context.attempt}"
            context.effects.emit(event, context.trace, self._stream, kind, said, index=index)
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
        owner = identity(context.stream, event.entry_id)
        context.effects.keep_record(event, encode_data(record), owner=owner, ttl=self._ttl)


def _seconds(duration: float) -> float:
    return round(duration * 1_000_000) / 1_000_000  # round(duration, 6) writes and reads a text for it
