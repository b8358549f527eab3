"""How long Redis is waited for, as the environment says."""

from __future__ import annotations

import asyncio

import pytest

from penstock import ConfigurationError, Penstock, Unavailable
from penstock.redis.lanes import Lanes
from penstock.settings import Settings
from penstock.topology import parse

MESH = "streams: {orders: {kind: work}}"


async def test_connections_wait_as_long_as_the_environment_says() -> None:
    settings = Settings.from_env({"REDIS_CONNECT_TIMEOUT_SECONDS": "0.25", "REDIS_SOCKET_TIMEOUT_SECONDS": "0.5"})
    lanes = Lanes.of(settings, name="test")

    waits = lanes.client().connection_pool.connection_kwargs
    reads = lanes.reader(name="reader").connection_pool.connection_kwargs
    assert (waits["socket_connect_timeout"], waits["socket_timeout"]) == (0.25, 0.5)
    assert (reads["socket_connect_timeout"], reads["socket_timeout"]) == (0.25, None)
    await lanes.aclose()


async def test_there_are_no_lanes_where_there_is_no_redis() -> None:
    with pytest.raises(ConfigurationError, match="this needs Redis"):
        Lanes.of(Settings(backend="memory"), name="test")


@pytest.mark.parametrize("reply_timeout", [5.0, 0.05], ids=["hangs up", "says nothing"])
async def test_what_is_published_is_tried_again_for_as_long_as_the_environment_says(reply_timeout: float) -> None:
    """In so short a time there is one try, in the usual two seconds there are many."""
    settings = Settings(redis_retry=0.001, redis_reply_timeout=reply_timeout)
    calls = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        if reply_timeout < 1:  # it greets, and then says nothing
            while b"TIME" not in (commands := await reader.read(65_536)) and commands:
                writer.write(b"+OK\r\n" * commands.count(b"*"))
            await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
        async with Penstock.connect(url, topology=parse(MESH), settings=settings) as mesh:
            with pytest.raises(Unavailable):
                async with asyncio.timeout(reply_timeout + 3):
                    await mesh.submit("order.placed")
        assert calls == 1
