"""What the commands that look into a running mesh share: settings, topology and a client that answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from penstock.errors import Unavailable
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, hide_password, unavailable
from penstock.redis.lanes import Lanes
from penstock.settings import Settings, redis_url
from penstock.telemetry import logs
from penstock.topology import Topology, load

T = TypeVar("T")


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

    Raises:
        ConfigurationError: the environment or streams.yaml is wrong.
        Unavailable: Redis does not answer; the message says where it was looked for.
    """
    settings = Settings.from_env()
    logs.configure(level=settings.log_level, form=settings.log_format)
    topology = load(settings.topology)
    url = redis_url(settings)
    lanes = Lanes(url, name="penstock-cli")
    try:
        await _greet(lanes.client(), url)
        yield Session(settings, topology, lanes.client())
    finally:
        await lanes.aclose()


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
