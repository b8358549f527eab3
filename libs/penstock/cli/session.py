"""What the commands that look into a running mesh share: settings, topology and a client that answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import structlog

from penstock.errors import Unavailable
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, hide_password, unavailable
from penstock.redis.lanes import Lanes
from penstock.settings import Settings, redis_url
from penstock.streams.running_topology import stored
from penstock.telemetry import logs
from penstock.topology import Topology, is_given, load

T = TypeVar("T")
_log = structlog.get_logger("penstock.cli")


class Session:
    """One command's view of the mesh."""

    def __init__(self, settings: Settings, topology: Topology, redis: AsyncRedis) -> None:
        self.settings = settings
        self.topology = topology
        self.keys = Keys(settings.prefix)
        self.redis = redis


@contextlib.asynccontextmanager
async def session() -> AsyncIterator[Session]:
    """Connect to the mesh that the environment and streams.yaml describe.

    Where there is no streams.yaml, the topology is the one that the running services keep in Redis.

    Raises:
        ConfigurationError: the environment or streams.yaml is wrong.
        Unavailable: Redis does not answer; the message says where it was looked for.
    """
    settings = Settings.from_env()
    logs.configure(level=settings.log_level, form=settings.log_format)
    url = redis_url(settings)
    lanes = Lanes.of(settings, name="penstock-cli")
    try:
        await _greet(lanes.client(), url)
        yield Session(settings, await _topology(settings, lanes.client()), lanes.client())
    finally:
        await lanes.aclose()


async def _topology(settings: Settings, redis: AsyncRedis) -> Topology:
    if is_given(settings.topology):
        return load(settings.topology, include=settings.included)
    running = await stored(redis, Keys(settings.prefix))
    if running is None:
        _log.warning(
            "no streams.yaml here, and no service has kept its own in Redis: assuming the one that ships with "
            "Penstock; go to your project's folder, or set PENSTOCK_TOPOLOGY"
        )
    return running or load()


def run(command: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end."""
    return asyncio.run(command)


async def _greet(redis: AsyncRedis, url: str) -> None:
    try:
        await redis.ping()
    except Exception as error:
        away = unavailable(error)
        if away is None:
            raise
        raise Unavailable(
            f"{away.reason} ({hide_password(url)}); start the mesh with `penstock up`, or set REDIS_URL"
        ) from error
