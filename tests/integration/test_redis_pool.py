"""The pool of a client's connections: callers can be cancelled whatever they are at, and what they leave is no use."""

from __future__ import annotations

import asyncio
import itertools

from penstock.redis.connection import AsyncRedis
from tests.hands import connected
from tests.servers import Server

STEPS = 200  # of the event loop: several commands, and the connecting before them


async def asks_for_ever(client: AsyncRedis) -> None:
    for number in itertools.count():
        assert await client.echo(str(number)) == str(number).encode()


async def test_who_is_cancelled_once_ends_at_whatever_step_that_is(server: Server) -> None:
    for steps in range(STEPS):
        async with connected(server) as client:
            asking = asyncio.create_task(asks_for_ever(client))
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            done, _ = await asyncio.wait({asking}, timeout=5)
            assert done, f"cancelled after {steps} steps it goes on"
            assert asking.cancelled()
            assert await client.echo("whoever is next") == b"whoever is next"
