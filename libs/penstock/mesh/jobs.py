"""Jobs: what became of an event that somebody waits for."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from penstock.event import parse_identity
from penstock.keys import INGEST, Keys
from penstock.redis.connection import AsyncRedis, ResponseError
from penstock.redis.scripts import Script

JobState = Literal["queued", "running", "retrying", "completed", "dead"]
STREAM, GROUP = INGEST, "worker"
_entry = Script("penstock.mesh", "find_entry", read_only=True)
_SEARCHED = 1_000  # newest entries looked through for an id that its producer chose


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a job. Durations are in seconds, times RFC 3339."""

    state: JobState
    type: str = ""
    attempts: int = 0
    result: Any = None
    error: str | None = None
    reason: str | None = None
    next_attempt_at: str | None = None
    finished_at: str | None = None
    duration: float | None = None
    queue_wait: float | None = None
    trace_id: str | None = None


async def find_job(client: AsyncRedis, keys: Keys, job_id: str) -> Job | None:
    """Return what became of the job, or None if nothing is known of it.

    The worker's commit writes a record once there is an outcome; before that the stream itself tells.
    """
    record = await client.get(keys.job(job_id))
    if record is not None:
        return msgspec.json.decode(record, type=Job)
    found = await _find_entry(client, keys, job_id)
    if found is None:
        return None
    entry_id, event_type = found
    return Job(state=await _progress(client, keys, entry_id), type=event_type)


async def _find_entry(client: AsyncRedis, keys: Keys, job_id: str) -> tuple[str, str] | None:
    """Return the entry and type of the event of that id, searched for on the server: entries may be large."""
    place = parse_identity(job_id)
    newest, oldest = (place[1], place[1]) if place is not None and place[0] == STREAM else ("+", "-")
    found = await _entry(client, [keys.stream(STREAM)], [STREAM, job_id, newest, oldest, _SEARCHED])
    return (found[0].decode(), found[1].decode(errors="replace")) if found else None


async def _progress(client: AsyncRedis, keys: Keys, entry_id: str) -> JobState:
    stream = keys.stream(STREAM)
    try:
        pending = await client.xpending_range(stream, GROUP, entry_id, entry_id, 1)
    except ResponseError:  # the worker has never run
        return "queued"
    return "running" if pending else "queued"
