"""Watching jobs: what is told of them, for everybody in this process who waits for one."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec

from penstock.errors import UNREADABLE
from penstock.jobs.progress import Progress
from penstock.jobs.record import Job, JobState
from penstock.schemas import JobEvent

STATES: dict[str, JobState] = {
    "job.started": "running",
    "job.failed": "retrying",
    "job.snoozed": "retrying",
    "job.completed": "completed",
    "job.dead": "dead",
    "job.cancelled": "cancelled",
}
Told: TypeAlias = Job | Progress | None
_decoder = msgspec.json.Decoder(JobEvent)


class Watch:
    """The job of an id, or the jobs of that id of several sources, as those in this process who wait for one see it.

    Who waits says of which source; None is any.
    """

    def __init__(self) -> None:
        self.is_complete = True
        """Whether all that was told of it has come here; if not, its record may know more."""
        self._ended: dict[str, Job] = {}  # by source, which older releases do not tell
        self._queues: dict[asyncio.Queue[Told], str | None] = {}

    def ended(self, source: str | None) -> Job | None:
        """Return what has become of it, once that was told."""
        return next((job for told, job in self._ended.items() if _is_of(source, told)), None)

    @contextlib.contextmanager
    def changes(self, source: str | None) -> Iterator[asyncio.Queue[Told]]:
        """Yield a queue of what is told from here on; None stands for a gap, after which the record must be read."""
        queue: asyncio.Queue[Told] = asyncio.Queue()
        self._queues[queue] = source
        try:
            yield queue
        finally:
            del self._queues[queue]

    def tell(self, told: Job | Progress, source: str) -> None:
        """Take what is told of the job of a source, '' where that is not told."""
        if isinstance(told, Job) and told.is_over:
            self._ended[source] = told
        for queue, wanted in self._queues.items():
            if _is_of(wanted, source):
                queue.put_nowait(told)

    def miss(self) -> None:
        """Take note that something may have been missed."""
        self.is_complete = False
        for queue in self._queues:
            queue.put_nowait(None)


def _is_of(wanted: str | None, told: str) -> bool:
    return wanted is None or told in ("", wanted)


class Watches:
    """The jobs that somebody waits for. Whoever sees what is told of jobs hands it on."""

    def __init__(self) -> None:
        self._watches: weakref.WeakValueDictionary[str, Watch] = weakref.WeakValueDictionary()

    @property
    def is_running(self) -> bool:
        """Whether all that is told from now on is seen."""
        return True

    async def start(self) -> None:
        """Begin to see it, unless that has begun."""

    async def follow_progress(self) -> None:
        """See what handlers say of their progress too, from now on."""

    def watch(self, job_id: str) -> Watch:
        """Return the watch of an id; it lasts for as long as somebody has it."""
        watch = self._watches.get(job_id)
        if watch is None:
            watch = self._watches[job_id] = Watch()
        return watch

    def tell_report(self, entry: Mapping[bytes, bytes]) -> None:
        """Take what an entry tells, if it tells of a job that somebody waits for."""
        state = STATES.get(entry.get(b"type", b"").decode(errors="replace"))
        if state is None or not self._watches:
            return
        try:
            report = _decoder.decode(entry[b"data"])
        except (KeyError, *UNREADABLE):  # somebody else's words
            return
        watch = self._watches.get(report.job_id)
        if watch is not None:
            watch.tell(
                Job(
                    state=state,
                    type=report.job_type,
                    attempts=report.attempt,
                    result=report.result,
                    error=report.error,
                    reason=report.reason,
                    next_attempt_at=report.next_attempt_at,
                    duration=report.duration,
                    queue_wait=report.queue_wait,
                    tenant=entry[b"tenant"].decode(errors="replace") if b"tenant" in entry else None,
                ),
                entry.get(b"causesource", b"").decode(errors="replace"),
            )

    def tell_progress(self, job_id: str, source: str, progress: Progress) -> None:
        """Take what the handler of a job says."""
        watch = self._watches.get(job_id)
        if watch is not None:
            watch.tell(progress, source)

    def miss_all(self) -> None:
        """Take note that something may have been missed."""
        for watch in list(self._watches.values()):
            watch.miss()
