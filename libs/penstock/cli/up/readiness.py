"""Readiness: which of the services that `penstock up` has started do their work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from redis.exceptions import ResponseError

from penstock.cli.http import address, is_ready
from penstock.cli.up.programs import Program
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.lanes import Lanes
from penstock.settings import Settings
from penstock.streams.groups import consumer_prefix
from penstock.topology import Topology

_POLL = 0.1


class Readiness:
    """Asks the services that ship over HTTP; one of somebody else's is ready when its process reads its streams.

    One that reads nothing, and of which nothing else can be known, is ready while it runs.
    """

    def __init__(
        self, settings: Settings, topology: Topology, programs: Sequence[Program], running: Mapping[str, int]
    ) -> None:
        """`running` has the process of each program that has one now."""
        self._settings = settings
        self._topology = topology
        self._programs = programs
        self._running = running
        self._keys = Keys(settings.prefix)

    async def wait(self, timeout: float | None = None) -> list[str]:
        """Wait until all are ready, for at most `timeout` seconds; return the names of those that are not."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        lanes = Lanes.of(self._settings, name="penstock-up")
        try:
            while late := [one.name for one in self._programs if not await self._is_ready(one, lanes.client())]:
                if deadline is not None and loop.time() > deadline:
                    break
                await asyncio.sleep(_POLL)
            return late
        finally:
            await lanes.aclose()

    async def _is_ready(self, program: Program, client: AsyncRedis) -> bool:
        pid = self._running.get(program.name)
        if pid is None:
            return False
        if program.ships and address(self._settings, program.name):
            return await asyncio.to_thread(is_ready, self._settings, program.name)
        streams = self._topology.service(program.name).consumes
        return not streams or await self._reads(client, next(iter(streams)), program.name, pid)

    async def _reads(self, client: AsyncRedis, stream: str, group: str, pid: int) -> bool:
        """Whether a process has a consumer: it gets one when it begins to read."""
        try:
            consumers = await client.xinfo_consumers(self._keys.stream(stream), group)
        except ResponseError:  # there is no such stream, or no such group, yet
            return False
        except Exception as error:
            if unavailable(error) is None:
                raise
            return False
        prefix = consumer_prefix(group, pid).encode()
        return any(consumer["name"].startswith(prefix) for consumer in consumers)
