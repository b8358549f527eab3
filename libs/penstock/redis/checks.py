"""Start-up checks: a server that would lose events is refused before the first one."""

from __future__ import annotations

import asyncio
import re

import structlog
from redis.exceptions import ResponseError

from penstock.errors import UnsuitableRedis
from penstock.redis.connection import AsyncRedis, hide_password, unavailable

OLDEST = (7, 0)
_log = structlog.get_logger("penstock.redis")


async def wait_until_ready(client: AsyncRedis, url: str, *, deadline: float | None = None) -> None:
    """Wait until the server answers, saying so once; at most `deadline` seconds if given.

    Raises:
        Unavailable: it did not answer in time.
    """
    loop = asyncio.get_running_loop()
    until = None if deadline is None else loop.time() + deadline
    pause = 0.05
    said = ""
    while True:
        try:
            await client.ping()
        except Exception as error:
            away = unavailable(error)
            if away is None:
                raise
            if until is not None and loop.time() + pause > until:
                raise away from error
            if away.reason != said:
                said = away.reason
                _log.warning("waiting for Redis", url=hide_password(url), reason=said)
        else:
            if said:
                _log.info("Redis is back", url=hide_password(url))
            return
        await asyncio.sleep(pause)
        pause = min(pause * 2, 1.0)


async def check_server(client: AsyncRedis) -> None:
    """Check version, eviction policy and persistence.

    Raises:
        UnsuitableRedis: too old, or it may evict keys; the message says what to set.
    """
    server = await client.info("server")
    version = str(server.get("redis_version", "0"))
    if numbers(version) < OLDEST:
        raise UnsuitableRedis(
            f"this server is Redis {version}; Penstock needs Redis 7.0 or Valkey 8: upgrade it, or unset "
            "REDIS_URL to use the embedded one"
        )
    memory = await client.info("memory")
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and int(memory.get("maxmemory", 0)) > 0:
        raise UnsuitableRedis(
            f"this server evicts whole keys when memory is full (maxmemory-policy {policy}), which would lose "
            "streams: run `redis-cli CONFIG SET maxmemory-policy noeviction` and set it in redis.conf"
        )
    if policy != "noeviction":
        _log.warning("set maxmemory-policy noeviction before you set maxmemory", policy=policy)
    await _check_persistence(client)


async def _check_persistence(client: AsyncRedis) -> None:
    persistence = await client.info("persistence")
    if int(persistence.get("aof_enabled", 0)):
        return
    try:
        snapshots = bool((await client.config_get("save")).get("save"))
    except ResponseError:  # CONFIG is closed on some hosted servers
        snapshots = True
    if snapshots:
        _log.warning("Redis keeps snapshots only: a crash loses minutes; set `appendonly yes`")
    else:
        _log.warning("Redis persists nothing: a restart loses every event; set `appendonly yes`")


def numbers(version: str) -> tuple[int, ...]:
    """Return major and minor of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
