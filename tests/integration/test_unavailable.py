"""Servers that cannot serve now: what the client makes of it, alone and in pipelines, and what handlers do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import RedisError

from penstock import Context, Retry, Service
from penstock.errors import trouble_of_redis
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.marking import MarkingClient
from tests.hands import Raw, add, connected, fields_of
from tests.mesh import eventually as until
from tests.mesh import running, settled
from tests.processes import eventually
from tests.servers import Server

MESH = """
streams: {ingest: {}, events: {}}
services: {worker: {consumes: {ingest: {}}, publishes: [events]}}
"""
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


@contextlib.contextmanager
def without_server(server: Server, _: Raw) -> Iterator[None]:
    server.stop()
    yield
    server.start()


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
    "cannot connect": without_server,
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
async def test_a_server_that_cannot_serve_is_known_by_its_answer(own_server: Server, reason: str) -> None:
    found = {}
    async with connected(own_server) as client:
        with own_server.client() as raw, TROUBLES[reason](own_server, raw):
            for way in WAYS:
                with pytest.raises(RedisError) as caught:
                    await write(client, way)
                found[way] = unavailable(caught.value)

    assert {way: away and away.reason for way, away in found.items()} == dict.fromkeys(WAYS, reason)


async def by_command(ctx: Context) -> None:
    await ctx.redis.incr("count")


async def by_pipeline(ctx: Context) -> None:
    async with ctx.redis.pipeline() as pipeline:
        await pipeline.incr("count").incr("other").execute()


async def by_script(ctx: Context) -> None:
    await ctx.redis.eval("return redis.call('INCR', KEYS[1])", 1, "count")


async def within_a_step(ctx: Context) -> None:
    await ctx.step("count", by_command, ctx)


async def behind_a_breaker(ctx: Context) -> None:
    async with ctx.breaker("crm"):
        await by_command(ctx)


async def a_breaker_not_yet_used(ctx: Context) -> None:
    async with ctx.breaker("bank"):
        pass


@pytest.mark.parametrize("reason", TROUBLES)
@pytest.mark.parametrize(
    "use", [by_command, by_pipeline, by_script, within_a_step, behind_a_breaker, a_breaker_not_yet_used]
)
async def test_a_handler_that_needs_redis_meanwhile_uses_up_no_attempt(
    own_server: Server, reason: str, use: Callable[[Context], Awaitable[None]]
) -> None:
    service = Service("worker")
    begun, go_on, tried = asyncio.Event(), asyncio.Event(), asyncio.Event()
    attempts: list[int] = []

    @service.on("ingest", retry=Retry(attempts=1))
    async def handle(_: Any, ctx: Context) -> None:
        attempts.append(ctx.attempt)
        async with ctx.breaker("crm"):
            begun.set()
        await go_on.wait()
        try:
            await use(ctx)
        finally:
            tried.set()

    with own_server.client() as raw:
        add(raw)
        async with running(service, MESH, own_server):
            await begun.wait()
            with TROUBLES[reason](own_server, raw):
                go_on.set()
                await tried.wait()
            await until(lambda: settled(raw, "ingest", "worker"), what="it is done")

        assert fields_of(raw, "dlq") == []
        assert set(attempts) == {1}


async def test_no_reply_to_a_command_that_waits_is_the_callers_own_affair(own_server: Server) -> None:
    pool = redis.asyncio.ConnectionPool.from_url(own_server.url, socket_timeout=0.2)
    async with pool, MarkingClient(connection_pool=pool) as client:
        with pytest.raises(redis.TimeoutError) as waited:
            await client.blpop(["nothing"], 60)
        with own_server.client() as raw:
            raw.execute_command("CLIENT PAUSE", 60_000, "WRITE")
        with pytest.raises(redis.TimeoutError) as paused:
            await client.set("key", "value")

    assert trouble_of_redis(waited.value) is None
    assert str(trouble_of_redis(paused.value)) == "Redis is unavailable: no reply in time"


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
