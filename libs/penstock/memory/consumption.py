"""One service of a mesh in memory: what arrives on its streams goes to its handlers."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from typing import NoReturn

from penstock.errors import ConfigurationError, InvalidEvent
from penstock.event import Event, decode
from penstock.memory.commit import MemoryCommitter
from penstock.memory.streams import Streams
from penstock.service.app import Service
from penstock.service.consumption import make_dispatcher
from penstock.service.effects import Scope
from penstock.service.runs import Runs
from penstock.settings import Settings
from penstock.streams.commit import Source
from penstock.streams.read import Row
from penstock.tasks import end
from penstock.topology import ServiceSpec, Topology

_LAST_WORDS = 1.0  # seconds for cancelled handlers to end


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
        for source in self._committer.sources:
            streams.follow(source.key, functools.partial(self._take, source))

    @property
    def left(self) -> int:
        """How many entries have come and are not done."""
        return self._taken - self._committer.settled

    def find(self, event_id: str, source: str | None) -> tuple[Event, bool] | None:
        """Return an event that has come and is not done, and whether its handler runs."""
        for work in self._dispatcher.in_flight.values():
            if _is_meant(work.event, event_id, source):
                return work.event, work.run is not None and work.run.is_running
        for read, entry_id, fields in self._arrived:
            with contextlib.suppress(InvalidEvent):
                event = decode(read.stream, entry_id, fields or ())
                if _is_meant(event, event_id, source):
                    return event, False
        return None

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
