"""Jobs: what became of an event that somebody waits for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
from redis.exceptions import ResponseError

from penstock.errors import PenstockError
from penstock.event import UNKNOWN_SOURCE, parse_identity
from penstock.keys import INGEST, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script

JobState = Literal["queued", "running", "retrying", "completed", "dead"]
STREAM, GROUP = INGEST, "worker"
_entry = Script("penstock.mesh", "find_entry", read_only=True)
_SEARCHED = 3_000  # entries looked through for an id that does not say where its entry lies
_SKEW_MS = 2_000  # how far the clocks of a gateway and of Redis may be apart
_TIMED = re.compile(r"[0-9a-f]{32}")
_HALF_MS = 12  # hexadecimal digits of the time in ms


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
    tenant: str | None = None


def timed_id(now: float, randomness: bytes) -> str:
    """Return an event id that nobody can guess and that says when it was made (seconds since the epoch)."""
    return f"{round(now * 1000):012x}{randomness.hex()}"[:32]


class AmbiguousJob(PenstockError):
    """Several events have this id, each of another source."""

    def __init__(self, job_id: str, sources: Sequence[str]) -> None:
        self.sources = sources
        super().__init__(f"{len(sources)} sources have an event {job_id}: {', '.join(sources)}; say which one is meant")


async def find_job(
    client: AsyncRedis, keys: Keys, job_id: str, *, source: str | None = None, tenant: str | None = None
) -> Job | None:
    """Return what became of the job, or None if nothing is known of it (or nothing of this source, or tenant).

    The worker's commit writes a record once there is an outcome; before that the stream itself tells.

    Raises:
        AmbiguousJob: there are records of several sources, and none was given.
    """
    records = {name.decode(): _decode(record) for name, record in (await client.hgetall(keys.job(job_id))).items()}
    jobs = {
        name: job
        for name, job in records.items()
        if source in (None, name) and (tenant is None or job.tenant == tenant)
    }
    if len(jobs) > 1:
        raise AmbiguousJob(job_id, sorted(jobs))
    for job in jobs.values():
        return job
    found = await _find_entry(client, keys, job_id, source)
    if found is None or (tenant is not None and found[2] != tenant):
        return None
    entry_id, event_type, tenant = found
    return Job(state=await _progress(client, keys, entry_id), type=event_type, tenant=tenant or None)


def _decode(record: bytes) -> Job:
    """Read a record: the entry that it belongs to, a space, and JSON."""
    return msgspec.json.decode(record.partition(b" ")[2], type=Job)


async def _find_entry(client: AsyncRedis, keys: Keys, job_id: str, source: str | None) -> tuple[str, str, str] | None:
    """Return entry, type and tenant of the event of that id, searched for on the server: entries may be large."""
    for command, begin, end in _searches(job_id):
        arguments: list[str | int] = [STREAM, job_id, begin, end, _SEARCHED, command, UNKNOWN_SOURCE]
        found = await _entry(client, [keys.stream(STREAM)], [*arguments, *([] if source is None else [source])])
        if found:
            entry_id, event_type, tenant = (text.decode(errors="replace") for text in found)
            return entry_id, event_type, tenant
    return None


def _searches(job_id: str) -> Iterator[tuple[str, str, str]]:
    """Yield where to look, the likeliest first: where the id says, from when it was made on, among the newest."""
    place = parse_identity(job_id)
    if place is not None and place[0] == STREAM:
        yield "XREVRANGE", place[1], place[1]
        return
    if _TIMED.fullmatch(job_id):
        yield "XRANGE", str(max(0, int(job_id[:_HALF_MS], 16) - _SKEW_MS)), "+"
    yield "XREVRANGE", "+", "-"


async def _progress(client: AsyncRedis, keys: Keys, entry_id: str) -> JobState:
    stream = keys.stream(STREAM)
    try:
        pending = await client.xpending_range(stream, GROUP, entry_id, entry_id, 1)
    except ResponseError:  # the worker has never run
        return "queued"
    return "running" if pending else "queued"
