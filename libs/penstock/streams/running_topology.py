"""The topology that the running services go by, kept in Redis for whoever looks on without a streams.yaml."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.config import convert
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.topology import Topology


def _plain(value: object) -> float | str:
    return float(value) if isinstance(value, float) else str(value)


async def store(client: AsyncRedis, keys: Keys, topology: Topology) -> None:
    """Keep the topology that a service starts with; the service that started last has the word.

    While Redis takes no writes nothing is kept: that must not stop a service.
    """
    try:
        await client.set(keys.topology, msgspec.json.encode(topology, enc_hook=_plain))
    except Exception as error:
        if unavailable(error) is None:
            raise


async def stored(client: AsyncRedis, keys: Keys) -> Topology | None:
    """Return the topology that the running services go by, None if none has been kept.

    Raises:
        ConfigurationError: it was kept by a release whose streams.yaml had keys that this one does not know.
        redis.exceptions.RedisError: Redis is away.
    """
    raw: Any = await client.get(keys.topology)
    return None if raw is None else convert(msgspec.json.decode(raw), Topology, "the topology in Redis")
