"""One service of a mesh in memory: what arrives on its streams goes to its handlers."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from penstock.errors import ConfigurationError, InvalidEvent
from penstock.event import Event, Origin, decode_retry
from penstock.memory.commit import MemoryCommitter
from penstock.memory.streams import Streams
from penstock.service.app import Service
from penstock.service.consumption import make_dispatcher, work_of
from penstock.service.effects import Scope
from penstock.service.runs import Runs
from penstock.settings import Settings
from penstock.streams.commit import Source
from penstock.streams.read import Row
from penstock.tasks import end
from penstock.topology import ServiceSpec, Topology

_LAST_WORDS = 1.0  # seconds for cancelled handlers to end


class Waiting(NamedTuple):
    """A job that waits; `due` is when its time comes, in seconds since the epoch, `forget` takes it away."""

    event: Event
    origin: Origin
    stream: str
    due: float | None
    forget: Callable[[], None]


def _is_meant(event: Event, event_id: str, source: str | None) -> bool:
    return event.id == event_id and source in (None, event.source)


class NoRedis:
    """What handlers have as `ctx.redis`."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ConfigurationError(
            f"ctx.redis.{name}: there is no Redis with PENSTOCK_BACKEND=memory; what ctx.state does is kept, and "
            "mesh.memory.state(service, name) shows it to a test; run a handler that reads Redis with Redis"
        )


class MemoryConsumption:
    """A service as it runs: `committer` settles what its handlers do, within `scope`."""

    def __init__(
        self,
        service: Service,
        spec: ServiceSpec,
        scope: Scope,
        *,
        settings: Settings,
        topology: Topology,
        committer: MemoryCommitter,
    ) -> None:
        self.name = service.name
        self._committer = committer
        self._taken = 0
        self._work = work_of(service.name, spec, topology)
        self._runs = Runs()
        self._dispatcher = make_dispatcher(
            service,
            spec,
            scope,
            settings=settings,
            topology=topology,
            consumer=committer.consumer,
            client=scope.redis,
            committer=committer,
            runs=self._runs,
        )
        self._arrived: deque[Row] = deque()
        self._wake = asyncio.Event()

    def follow(self, streams: Streams) -> None:
        """Read all that comes from now on."""
        self._streams = streams
        for source in self._committer.sources:
            streams.follow(source.key, functools.partial(self._take, source))

    @property
    def left(self) -> int:
        """How many entries have come and are not done."""
        return self._taken - self._committer.settled

    def find_running(self, job_id: str, source: str | None) -> Event | None:
        """Return a job that is in the hands of a handler, or about to be."""
        for work in self._dispatcher.in_flight.values():
            if work.source.stream in self._work and _is_meant(work.event, job_id, source):
                return work.event
        return None

    def find_waiting(self, job_id: str, source: str | None) -> Waiting | None:
        """Return a job that waits for its handler, in a stream or for its time."""
        for row in self._arrived:
            read, entry_id, fields = row
            found = self._job(read, entry_id, fields or [], job_id, source)
            if found is not None:
                return Waiting(*found, read.stream, None, functools.partial(self._forget, row))
        for read in self._committer.sources:
            for timer, fields, due in self._streams.later(read.key):
                found = self._job(read, "0-0", fields, job_id, source)
                if found is not None:
                    return Waiting(*found, read.stream, due, functools.partial(self._streams.cancel, timer))
        return None

    def _job(
        self, read: Source, entry_id: str, fields: list[bytes], job_id: str, source: str | None
    ) -> tuple[Event, Origin] | None:
        """Return the event of an entry, and where it first lay, if it is the job that is meant."""
        if read.stream not in self._work:
            return None
        try:
            event, origin = decode_retry(read.stream, entry_id, fields)
        except InvalidEvent:
            return None
        return (event, origin) if _is_meant(event, job_id, source) else None

    def _forget(self, row: Row) -> None:
        self._arrived.remove(row)
        self._taken -= 1

    async def run(self) -> None:
        """Start handlers until cancelled; raise what should not happen."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._runs.failure())
            tasks.create_task(self._feed())

    async def stop(self, running: asyncio.Task[None]) -> None:
        """Cancel what runs."""
        self._dispatcher.cancel()
        await self._runs.end(_LAST_WORDS)
        await end([running])

    def _take(self, source: Source, entry_id: str, fields: list[bytes]) -> None:
        self._taken += 1
        self._arrived.append((source, entry_id, fields))
        self._wake.set()

    async def _feed(self) -> None:
        while True:
            await self._wake.wait()
            room = await self._dispatcher.room()
            self._dispatcher.accept([self._arrived.popleft() for _ in range(min(room, len(self._arrived)))])
            if not self._arrived:
                self._wake.clear()
