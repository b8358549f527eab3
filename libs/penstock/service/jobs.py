"""Jobs: what became of an event that somebody waits for."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from penstock.event import parse_identity
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, ResponseError

JobState = Literal["queued", "running", "retrying", "completed", "dead"]
STREAM, GROUP = "ingest", "worker"
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
    entry_id, fields = found
    own_id = fields.get(b"id", b"").decode(errors="replace")
    if own_id and own_id != job_id:
        return None
    event_type = fields.get(b"type", b"").decode(errors="replace")
    return Job(state=await _progress(client, keys, entry_id), type=event_type)


async def _find_entry(client: AsyncRedis, keys: Keys, job_id: str) -> tuple[str, dict[bytes, bytes]] | None:
    stream = keys.stream(STREAM)
    parsed = parse_identity(job_id)
    if parsed is not None and parsed[0] == STREAM:
        rows = await client.xrange(stream, parsed[1], parsed[1])
    else:
        newest = await client.xrevrange(stream, count=_SEARCHED)
        rows = [row for row in newest if row[1].get(b"id") == job_id.encode()][:1]
    return (rows[0][0].decode(), rows[0][1]) if rows else None


async def _progress(client: AsyncRedis, keys: Keys, entry_id: str) -> JobState:
    stream = keys.stream(STREAM)
    try:
        pending = await client.xpending_range(stream, GROUP, entry_id, entry_id, 1)
    except ResponseError:  # the worker has never run
        return "queued"
    return "running" if pending else "queued"
