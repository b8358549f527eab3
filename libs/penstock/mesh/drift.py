"""Comparing streams.yaml with what is in Redis."""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock.keys import Keys
from penstock.mesh.state import mesh_state
from penstock.redis.connection import AsyncRedis
from penstock.topology import Topology

_SCAN_COUNT = 1_000


class Difference(msgspec.Struct, frozen=True):
    """One thing in which Redis is not as streams.yaml says. `message` says it in words, with what to do."""

    kind: Literal["missing-group", "undeclared-group", "undeclared-stream"]
    stream: str
    group: str | None
    message: str


async def drift(client: AsyncRedis, keys: Keys, topology: Topology) -> list[Difference]:
    """Compare the groups of every declared stream, and every stream under our prefix.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    found = await mesh_state(client, keys, topology)
    differences = []
    for state in found.groups:
        if not state.declared:
            differences.append(_undeclared_group(state.stream, state.group))
        elif not state.exists:
            differences.append(_missing_group(state.stream, state.group, state.lag))
    known = {keys.stream(name) for name in topology.streams}
    known |= {keys.retry(name, group) for name in topology.streams for group in topology.groups(name)}
    unknown = await _streams(client, keys) - known
    return differences + [_undeclared_stream(key) for key in sorted(unknown)]


async def _streams(client: AsyncRedis, keys: Keys) -> set[str]:
    ours = _literal(keys.prefix) + "*"
    found = client.scan_iter(match=ours, count=_SCAN_COUNT, _type="STREAM")
    return {key.decode(errors="replace") async for key in found}


def _literal(prefix: str) -> str:
    """Escape what SCAN's patterns would take for wildcards."""
    return "".join(f"\\{character}" if character in "*?[]\\" else character for character in prefix)


def _missing_group(stream: str, group: str, waiting: int) -> Difference:
    return Difference(
        "missing-group",
        stream,
        group,
        f"{stream}: service {group} has never read it ({waiting} entries wait): start the service",
    )


def _undeclared_group(stream: str, group: str) -> Difference:
    return Difference(
        "undeclared-group",
        stream,
        group,
        f"{stream}: group {group} is not in streams.yaml: declare a service {group} that consumes {stream}; "
        f"or if nobody uses it any more, name it under streams.{stream}.abandoned, or remove it (XGROUP DESTROY)",
    )


def _undeclared_stream(key: str) -> Difference:
    return Difference(
        "undeclared-stream",
        key,
        None,
        f"{key}: no stream of this key is in streams.yaml, so no service reads it: declare it, or delete it (DEL)",
    )
