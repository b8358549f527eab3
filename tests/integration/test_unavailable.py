"""Servers that take no writes now, as the client words what they answer, alone and in pipelines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import RedisError

from penstock.redis.connection import AsyncRedis, unavailable
from tests.hands import Raw, connected
from tests.processes import eventually
from tests.servers import Server

WAYS = ("alone", "pipeline", "transaction", "script")


@contextlib.contextmanager
def without_replicas(server: Server, raw: Raw) -> Iterator[None]:
    raw.config_set("min-replicas-to-write", 1)
    yield
    raw.config_set("min-replicas-to-write", 0)


@contextlib.contextmanager
def without_disk(server: Server, raw: Raw) -> Iterator[None]:
    (server.folder / "dump.rdb").mkdir()  # a snapshot cannot take its place
    raw.config_set("save", "3600 1")
    raw.bgsave()
    eventually(lambda: raw.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    raw.config_set("save", "")


@contextlib.contextmanager
def without_memory(server: Server, raw: Raw) -> Iterator[None]:
    raw.config_set("maxmemory", 1)
    yield
    raw.config_set("maxmemory", 0)


@contextlib.contextmanager
def within_a_script(server: Server, raw: Raw) -> Iterator[None]:
    raw.config_set("lua-time-limit", 1)
    with server.client() as other:
        other.connection_pool.connection_kwargs["socket_timeout"] = None
        connection = other.connection_pool.get_connection()
        connection.send_command("EVAL", "while true do end", 0)
        eventually(lambda: _is_busy(raw))
        yield
        raw.script_kill()
        with contextlib.suppress(RedisError):
            connection.read_response()
        other.connection_pool.release(connection)


def _is_busy(raw: Raw) -> bool:
    try:
        raw.ping()
    except RedisError as error:
        return "BUSY" in str(error)
    return False


TROUBLES: dict[str, Any] = {
    "too few replicas": without_replicas,
    "cannot persist to disk": without_disk,
    "out of memory": without_memory,
    "running a long script": within_a_script,
}


async def write(client: AsyncRedis, way: str) -> None:
    if way == "alone":
        await client.hset("key", "field", "value")
    elif way == "script":
        await client.eval("return redis.call('HSET', KEYS[1], 'field', 'value')", 1, "key")
    else:
        async with client.pipeline(transaction=way == "transaction") as pipeline:
            pipeline.hsetnx("other", "field", "it can't")
            pipeline.hset("key", "field", "value")
            await pipeline.execute()


@pytest.mark.parametrize("reason", TROUBLES)
async def test_a_server_that_takes_no_writes_is_known_by_its_answer(own_server: Server, reason: str) -> None:
    found = {}
    async with connected(own_server) as client:
        with own_server.client() as raw, TROUBLES[reason](own_server, raw):
            for way in WAYS:
                with pytest.raises(RedisError) as caught:
                    await write(client, way)
                found[way] = unavailable(caught.value)

    assert {way: away and away.reason for way, away in found.items()} == dict.fromkeys(WAYS, reason)


async def test_more_callers_than_connections_wait_for_their_turn(server: Server, raw: Raw) -> None:
    async with connected(server) as client:
        before = raw.info("clients")["connected_clients"]
        answers = await asyncio.gather(*(client.incr("count") for _ in range(1_000)))
        after = raw.info("clients")["connected_clients"]

    assert sorted(answers) == list(range(1, 1_001))
    assert after - before <= 64


async def test_callers_that_are_cancelled_keep_no_turn(server: Server) -> None:
    async with connected(server) as client:
        for _ in range(20):
            tasks = [asyncio.create_task(client.blpop(["nothing"], 60)) for _ in range(100)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        assert await asyncio.gather(*(client.ping() for _ in range(200))) == [True] * 200
