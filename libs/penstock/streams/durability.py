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
    config = await client.config_get("appendfsync", "appendonly")
    values = {_text(name): _text(value) for name, value in config.items()}
    if values.get("appendonly") != "yes":
        raise ConfigurationError(
            "PENSTOCK_DURABILITY=aof needs the append-only file: set `appendonly yes` in redis.conf"
        )
    if values.get("appendfsync") == "always":
        return "memory"  # every reply then comes after the disk has it
    if not (await client.execute_command("COMMAND INFO", "WAITAOF"))[0]:
        raise ConfigurationError(
            "PENSTOCK_DURABILITY=aof needs WAITAOF (Redis 7.2, Valkey 8) or `appendfsync always` in redis.conf"
        )
    return durability


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
