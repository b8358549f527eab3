"""A job in the hands of whoever submitted it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import msgspec

from penstock.errors import InvalidEvent, JobCancelled, JobDead, NoRecord, Unavailable
from penstock.jobs.progress import Progress, advanced
from penstock.jobs.record import Job
from penstock.redis.connection import telling_unavailable

if TYPE_CHECKING:
    from penstock.client.client import Penstock
    from penstock.jobs.watch import Watch
    from penstock.streams.durability import Durability

T = TypeVar("T")
_LOOK_AGAIN = 30.0  # seconds after which the record is read whatever was told
_WITHOUT_REPORTS = 1.0  # the same where nothing is told of jobs
_PAUSE = 0.5  # seconds between tries while Redis is away
_STATES = ("queued", "running", "retrying", "completed", "dead", "cancelled", "settled")


class JobHandle:
    """One job; `id` names it everywhere: in `penstock job`, at the gateway, in traces and dead letters."""

    def __init__(
        self,
        mesh: Penstock,
        job_id: str,
        *,
        type: str = "",  # noqa: A002 - the attribute's name
        source: str | None = None,
        duplicate: bool = False,
        spooled: bool = False,
        watch: Watch | None = None,
        is_new: bool = False,
    ) -> None:
        self._mesh = mesh
        self._type = type
        self._source = source
        self._watch = watch
        self._is_new = is_new and not duplicate
        self.id = job_id
        self.duplicate = duplicate
        """Whether its idempotency key was used before: it is the job that was submitted then."""
        self.spooled = spooled
        """Whether it was kept on local disk as Redis was away; it is published once Redis is back."""

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    @property
    def durability(self) -> Durability | Literal["process", "spooled"]:
        """What has the job: Redis, as PENSTOCK_DURABILITY says; `spooled`: local disk, until Redis is back.

        `process`: there is no Redis; this process alone has it, and it ends with it.
        """
        return "spooled" if self.spooled else self._mesh.durability

    async def status(self) -> Job:
        """Return what has become of it so far.

        Raises:
            Unavailable: Redis is away.
            AmbiguousEvent: several sources have a job of this id.
        """
        mesh = self._mesh
        with telling_unavailable():
            found = await mesh.backend.find_job(self.id, self._source)
        return found or Job(state="queued", type=self._type)  # it is not due yet, or its record has expired

    @overload
    async def result(self, timeout: float | None = None) -> Any: ...

    @overload
    async def result(self, timeout: float | None = None, *, type: type[T]) -> T: ...

    async def result(self, timeout: float | None = None, *, type: Any = Any) -> Any:  # noqa: A002 - reads as msgspec's own
        """Wait until the job has ended; return what its handler returned, converted to `type`.

        A time out (seconds) ends the waiting, not the job. While Redis is away it waits on.

        Raises:
            Unavailable: its user of Redis may not look.
            JobDead: it was given up; with the reason, the error and its dead letter.
            JobCancelled: it was cancelled.
            NoRecord: it is over, and there is no record of how.
            TimeoutError: it has not ended yet.
            InvalidEvent: the result does not fit `type`.
            AmbiguousEvent: several sources have a job of this id.
        """
        try:
            async with asyncio.timeout(timeout):
                job = await self._end()
                letter = await self._letter() if job.state == "dead" else None
        except TimeoutError:
            raise TimeoutError(f"job {self.id} has not ended within {timeout:g} s; it goes on") from None
        if job.state == "dead":
            raise JobDead(self.id, reason=job.reason or "failed", error=job.error or "", letter=letter)
        if job.state == "cancelled":
            raise JobCancelled(f"job {self.id} was cancelled")
        if job.state == "settled":
            raise NoRecord(f"job {self.id} is over, and there is no record of how: it has expired, or none was made")
        try:
            return msgspec.convert(job.result, type)
        except msgspec.ValidationError as error:
            raise InvalidEvent(f"the result of job {self.id} does not fit {type!r}: {error}") from None

    async def watch(self) -> AsyncGenerator[Job]:
        """Yield what has become of it so far, then every change until its end, and what its handler says of progress.

        Raises:
            Unavailable: Redis was away at the beginning.
        """
        await self._mesh.follow_progress()
        watch = await self.watched()
        with watch.changes(self._source) as changes:
            last = await self._known()
            yield last
            while not last.is_over:
                try:
                    async with asyncio.timeout(self._patience):
                        told = await changes.get()
                except TimeoutError:
                    told = None
                job = advanced(last, told) if isinstance(told, Progress) else told or await self._known()
                if (
                    job.is_over
                    or _place(job) > _place(last)
                    or (job.progress is not None and _said(job) != _said(last))
                ):
                    last = job
                    yield last

    async def cancel(self) -> None:
        """Cancel it, unless it runs or is over: no handler sees it from now on. To cancel it again changes nothing.

        Raises:
            NotCancelled: it runs, it is over, or it is not in Redis (yet, if it was spooled).
            Unavailable: Redis is away, and it may be cancelled or not; or its user of Redis may not do that.
            AmbiguousEvent: several sources have a job of this id.
        """
        with telling_unavailable():
            await self._mesh.backend.cancel(self.id, self._source)

    async def watched(self) -> Watch:
        """Have what is told of it kept from now on.

        Raises:
            Unavailable: Redis is away.
        """
        if self._watch is None:
            self._watch = await self._mesh.watch(self.id)
        return self._watch

    def is_of(self, mesh: Penstock) -> bool:
        """Whether it is a handle of this client."""
        return self._mesh is mesh

    @property
    def is_watched(self) -> bool:
        """Whether what is told of it is kept."""
        return self._watch is not None

    @property
    def _patience(self) -> float:
        return _LOOK_AGAIN if self._mesh.is_told else _WITHOUT_REPORTS

    async def _end(self) -> Job:
        watch = await _patiently(self.watched)
        with watch.changes(self._source) as changes:
            while True:
                ended = watch.ended(self._source)
                if ended is not None:
                    return ended
                if not watch.is_complete:
                    watch.is_complete = True
                    job = await self._looked_up()
                    if job is not None and job.is_over:
                        watch.is_complete = False  # its end may have been told before: who asks again reads again
                        return job
                try:
                    async with asyncio.timeout(self._patience):
                        await changes.get()
                except TimeoutError:
                    watch.is_complete = False

    async def _looked_up(self) -> Job | None:
        """Return what is known of it: of a new job its record tells all there is, and looking further is dear."""
        if not self._is_new:
            return await self._known()
        self._is_new, mesh = False, self._mesh
        return await _patiently(lambda: mesh.backend.find_record(self.id, self._source))

    async def _known(self) -> Job:
        return await _patiently(self.status)

    async def _letter(self) -> str | None:
        mesh = self._mesh
        return await _patiently(lambda: mesh.backend.find_dead_letter(self.id, self._source))


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask, again and again while Redis is away; what this user may not do stays so."""
    while True:
        try:
            with telling_unavailable():
                return await ask()
        except Unavailable as away:
            if away.is_denial:
                raise
        await asyncio.sleep(_PAUSE)


def _said(job: Job) -> tuple[int, float | None, str | None]:
    return job.attempts, job.progress, job.note


def _place(job: Job) -> tuple[int, int]:
    """Return how far it has come, so that what is told late tells nothing."""
    return job.attempts, min(_STATES.index(job.state), 3)
