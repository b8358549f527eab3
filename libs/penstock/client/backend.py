"""What a client asks of the mesh that it is the way into, and how Redis answers it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Protocol, Self

from penstock.client.feed import Feed
from penstock.dlq.dead_letter import DeadLetter
from penstock.dlq.queue import DeadLetters
from penstock.errors import ConfigurationError, Unavailable
from penstock.jobs.cancel import Canceller
from penstock.jobs.find import find_dead_letter, find_job, find_record
from penstock.jobs.identities import Identities
from penstock.jobs.record import Job
from penstock.jobs.watch import Watches
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, hide_password, telling_unavailable, unavailable
from penstock.redis.lanes import Lanes
from penstock.settings import Settings, redis_url
from penstock.spool.spooling import Spooling
from penstock.streams.durability import check_durability
from penstock.streams.publish import Deduplication, Published, Publisher
from penstock.streams.running_topology import stored
from penstock.topology import Topology


class Backend(Protocol):
    """What keeps a mesh: Redis, or the memory of this process (`penstock.memory`)."""

    @property
    def topology(self) -> Topology:
        """What is known of the mesh."""

    @property
    def spools(self) -> bool:
        """Whether what is accepted may be published later."""

    @property
    def identities(self) -> Identities:
        """What makes ids of jobs."""

    @property
    def watches(self) -> Watches:
        """The jobs that somebody waits for."""

    async def publish(
        self, stream: str, fields: list[str], *, delay: float = 0.0, dedupe: Sequence[Deduplication] = ()
    ) -> Published:
        """Publish one event; see `Publisher.publish`."""

    async def publish_all(self, stream: str, events: Sequence[list[str]]) -> list[Published]:
        """Publish events in their order; see `Publisher.publish_all`."""

    async def find_job(self, job_id: str, source: str | None) -> Job | None:
        """Return what became of a job; see `penstock.jobs.find`."""

    async def find_record(self, job_id: str, source: str | None) -> Job | None:
        """Return the record of a job, if there is one."""

    async def find_dead_letter(self, job_id: str, source: str | None) -> str | None:
        """Return the id of its newest dead letter, if it has one."""

    async def cancel(self, job_id: str, source: str | None) -> None:
        """Cancel a job; see `penstock.jobs.cancel`."""

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """Return the newest dead letters."""


class RedisBackend:
    """A mesh in Redis, for as long as it is open."""

    def __init__(self, settings: Settings, topology: Topology | None, *, source: str) -> None:
        """Without a topology it is the one that the running services go by; `source` is the name of the program."""
        self._settings = settings
        self._known = topology
        self._source = source
        self._keys = Keys(settings.prefix)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            Unavailable: Redis is away, and with it the topology, which is nowhere else.
            ConfigurationError: nobody has kept a topology there, or Redis does not give the durability asked for.
        """
        async with contextlib.AsyncExitStack() as stack:
            lanes = Lanes.of(self._settings, name=f"penstock-client-{self._source}")
            stack.push_async_callback(lanes.aclose)
            self.redis: AsyncRedis = lanes.client()
            topology = self.topology = self._known or await self._running_topology()
            self._publisher = await stack.enter_async_context(await self._make_publisher())
            spooling = self._publisher.spooling
            self.spools = spooling is not None
            self.identities = Identities(
                self.redis, self._keys, copy=None if spooling is None else spooling.secret_path
            )
            if spooling is not None:  # later may be too late
                with contextlib.suppress(Unavailable), telling_unavailable():
                    await self.identities.prepare()
            reports = {topology.reports(stream) for stream in topology.work}
            self.watches = Feed(self.redis, self._keys, sorted(filter(None, reports)))
            stack.push_async_callback(self.watches.aclose)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send what waits to be sent, and close it."""
        await self._stack.aclose()

    async def publish(
        self, stream: str, fields: list[str], *, delay: float = 0.0, dedupe: Sequence[Deduplication] = ()
    ) -> Published:
        """Publish one event; see `Publisher.publish`."""
        return await self._publisher.publish(stream, fields, delay=delay, dedupe=dedupe)

    async def publish_all(self, stream: str, events: Sequence[list[str]]) -> list[Published]:
        """Publish events in their order; see `Publisher.publish_all`."""
        return await self._publisher.publish_all(stream, events)

    async def find_job(self, job_id: str, source: str | None) -> Job | None:
        """Return what became of a job; see `penstock.jobs.find`."""
        return await find_job(self.redis, self._keys, self.topology, job_id, source=source)

    async def find_record(self, job_id: str, source: str | None) -> Job | None:
        """Return the record of a job, if there is one."""
        return await find_record(self.redis, self._keys, job_id, source)

    async def find_dead_letter(self, job_id: str, source: str | None) -> str | None:
        """Return the id of its newest dead letter, if it has one."""
        return await find_dead_letter(self.redis, self._keys, job_id, source=source)

    async def cancel(self, job_id: str, source: str | None) -> None:
        """Cancel a job; see `penstock.jobs.cancel`."""
        canceller = Canceller(self.redis, self._keys, self.topology, ttl=self._settings.job_ttl)
        await canceller.cancel(job_id, source=source)

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """Return the newest dead letters."""
        return [letter async for letter in DeadLetters(self.redis, self._keys).newest(limit=limit)]

    async def _make_publisher(self) -> Publisher:
        settings = self._settings
        durability = settings.durability
        try:
            durability = await check_durability(self.redis, settings.durability)
        except Exception as error:
            if unavailable(error) is None:  # else it is what it is: it is waited for in each call
                raise
        return Publisher(
            self.redis,
            self._keys,
            durability=durability,
            durability_timeout=settings.durability_timeout,
            retry_for=settings.redis_retry,
            spooling=Spooling.of(settings, self._source, hide_password(redis_url(settings))),
        )

    async def _running_topology(self) -> Topology:
        try:
            running = await stored(self.redis, self._keys)
        except Exception as error:
            away = unavailable(error)
            if away is None:
                raise
            raise Unavailable(f"{away.reason}, and there is no streams.yaml here to go by") from error
        if running is None:
            raise ConfigurationError(
                "there is no streams.yaml here, and no service has kept its own in Redis: go to your project's folder, "
                "set PENSTOCK_TOPOLOGY, give connect(topology=...), or start the mesh first"
            )
        return running
