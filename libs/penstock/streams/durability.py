"""Durability: what Redis must have done with an event before it counts as accepted."""

from __future__ import annotations

from typing import Literal

from penstock.errors import ConfigurationError, Unavailable
from penstock.redis.connection import AsyncRedis
from penstock.redis.dedicated import DedicatedConnection

Durability = Literal["memory", "aof", "replica"]


async def confirm(client: AsyncRedis | DedicatedConnection, durability: Durability, timeout: float) -> None:
    """Wait until what `client`'s connection wrote is on disk (aof) or on a replica.

    Raises:
        Unavailable: it is not within `timeout` seconds; the write itself has happened.
    """
    milliseconds = round(timeout * 1000)
    if durability == "aof":
        local, _ = await client.execute_command("WAITAOF", 1, 0, milliseconds)
        if local < 1:
            raise Unavailable("not yet on disk")
    elif durability == "replica" and await client.execute_command("WAIT", 1, milliseconds) < 1:
        raise Unavailable("no replica has it yet")


async def check_durability(client: AsyncRedis, durability: Durability) -> Durability:
    """Return what has to be waited for to reach `durability` on this server.

    Raises:
        ConfigurationError: the server cannot give it; the message says what to set.
    """
    if durability != "aof":
        return durability
    if not int((await client.info("persistence")).get("aof_enabled", 0)):
        raise ConfigurationError(
            "PENSTOCK_DURABILITY=aof needs the append-only file: set `appendonly yes` in redis.conf"
        )
    if await _syncs_always(client):
        return "memory"  # every reply then comes after the disk has it
    if not (await client.execute_command("COMMAND INFO", "WAITAOF"))[0]:
        raise ConfigurationError(
            "PENSTOCK_DURABILITY=aof needs WAITAOF (Redis 7.2, Valkey 8) or `appendfsync always` in redis.conf"
        )
    return durability


async def _syncs_always(client: AsyncRedis) -> bool:
    """Return whether every write is on disk before it is answered; no if nobody tells: CONFIG shows passwords too."""
    from redis.exceptions import ResponseError  # noqa: PLC0415 - see penstock.redis.connection

    try:
        values = (await client.config_get("appendfsync")).values()
    except ResponseError:
        return False
    return [_text(value) for value in values] == ["always"]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
