"""The mesh at one moment, as Redis has it: how long each stream is and how far each group has come."""

from __future__ import annotations

from typing import Any

import msgspec
from redis.exceptions import ResponseError

from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.streams.groups import start_of
from penstock.streams.heartbeat import alive
from penstock.streams.lag import LagCounter
from penstock.times import entry_ms
from penstock.topology import OLDEST, Topology

_dead = Script("penstock.dlq", "count", read_only=True)
_PAGE, _BYTES = 1_000, 2_000_000  # entries, and bytes of them, looked at in one call of a script


class ServerState(msgspec.Struct, frozen=True):
    """The server: its name (Redis or Valkey), its version, seconds since its start and bytes of data."""

    name: str
    version: str
    uptime: int
    memory: int


class StreamState(msgspec.Struct, frozen=True):
    """A stream: `length` counts its entries, `scheduled` what will be published to it later."""

    name: str
    length: int
    scheduled: int
    declared: bool = True


class GroupState(msgspec.Struct, frozen=True, kw_only=True):
    """How a group stands with a stream. Every event that is not settled counts in one of the first four.

    `lag`: never delivered. `pending`: delivered and in flight, first tries and later ones. `delayed`: waiting
    for its next try. `retry`: due for it and not yet read. `dead`: its dead letters, less those replayed.
    `consumers`: processes alive. `declared`: streams.yaml knows the group. `exists`: Redis does; a service
    makes its group when it starts. `ids_ahead`: seconds that its last entry's id is ahead of the server's clock;
    somebody has chosen that id, or the clock has gone back, and no later id tells a time either. `position`: of a group
    that is gone, the id up to which it had settled all, as last noted; it will be made again there.
    """

    stream: str
    group: str
    lag: int
    pending: int
    delayed: int
    retry: int
    dead: int
    consumers: int
    declared: bool
    exists: bool
    ids_ahead: float = 0.0
    position: str | None = None

    @property
    def unsettled(self) -> int:
        """How many events it has yet to settle."""
        return self.lag + self.pending + self.delayed + self.retry


class MeshState(msgspec.Struct, frozen=True):
    """The whole mesh."""

    redis: ServerState
    streams: list[StreamState]
    groups: list[GroupState]


Undeclared = dict[str, set[str]]
"""Streams, and groups of each, that are in Redis and not in the topology; a group may be there by its retries alone."""


async def mesh_state(
    client: AsyncRedis,
    keys: Keys,
    topology: Topology,
    *,
    undeclared: Undeclared | None = None,
    lags: LagCounter | None = None,
) -> MeshState:
    """Read the state of every declared stream, and of those `undeclared`, with every group there is or should be on it.

    Who looks again and again keeps `lags`.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    dead = await _count_dead(client, keys)
    streams, groups = [], []
    beyond = undeclared or {}
    lags = lags or LagCounter(client)
    for name in [*topology.streams, *sorted(beyond.keys() - topology.streams.keys())]:
        state, infos = await _stream(client, keys, name, declared=name in topology.streams)
        streams.append(state)
        declared = topology.groups(name)
        noted = {}
        for group in dict.fromkeys([*declared, *infos, *sorted(beyond.get(name, ()))]):
            if group not in infos:
                subscription = topology.services[group].consumes[name] if group in declared else None
                start = subscription.start if subscription else OLDEST
                after, was_known = await start_of(client, keys, name, group, start)
                noted[group] = after if was_known else None
                infos[group] = {"last-delivered-id": after.encode(), "pending": 0}
        lag = await lags.count(keys.stream(name), [info["last-delivered-id"] for info in infos.values()])
        for group in dict.fromkeys([*declared, *infos]):
            counts = await _counts(client, keys, state, group, infos[group])
            groups.append(
                GroupState(
                    stream=name,
                    group=group,
                    dead=dead.get((name, group), 0),
                    declared=group in declared,
                    exists=group not in noted,
                    position=noted.get(group),
                    lag=lag[infos[group]["last-delivered-id"]],
                    **counts,
                )
            )
    return MeshState(await _server(client), streams, groups)


async def _server(client: AsyncRedis) -> ServerState:
    info = await client.info()
    valkey = info.get("valkey_version")
    return ServerState(
        name="Valkey" if valkey else "Redis",
        version=str(valkey or info["redis_version"]),
        uptime=max(0, int(info["uptime_in_seconds"])),
        memory=int(info["used_memory"]),
    )


async def _stream(client: AsyncRedis, keys: Keys, name: str, *, declared: bool) -> tuple[StreamState, dict[str, Any]]:
    """Return a stream's state and what the server says of its groups, by name."""
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.xlen(keys.stream(name))
        pipeline.zcard(keys.scheduled(name))
        pipeline.xinfo_groups(keys.stream(name))
        replies = await pipeline.execute(raise_on_error=False)
    length, scheduled, infos = (_unless_missing(reply) for reply in replies)
    return StreamState(name, length or 0, scheduled, declared), {info["name"].decode(): info for info in infos or ()}


async def _counts(
    client: AsyncRedis, keys: Keys, stream: StreamState, group: str, info: dict[str, Any]
) -> dict[str, Any]:
    """Return the counts of a group; `info` is what the server says of it, or where it will be made."""
    key, retry = keys.stream(stream.name), keys.retry(stream.name, group)
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.zcard(keys.delayed(stream.name, group))
        pipeline.xlen(retry)
        pipeline.xpending(retry, group)
        pipeline.xinfo_consumers(key, group)
        pipeline.hgetall(keys.beats(group))
        pipeline.time()
        replies = await pipeline.execute(raise_on_error=False)
    delayed, waiting, retried, consumers, beats, now = (_unless_missing(reply) for reply in replies)
    now_ms = now[0] * 1000 + now[1] // 1000
    living = alive(beats, now_ms)
    in_flight = retried["pending"] if retried else 0
    return {
        "pending": info["pending"] + in_flight,
        "delayed": delayed,
        "retry": max(0, waiting - in_flight),
        "consumers": sum(consumer["name"].decode() in living for consumer in consumers or ()),
        "ids_ahead": max(0, entry_ms(info["last-delivered-id"]) - now_ms) / 1000,
    }


async def _count_dead(client: AsyncRedis, keys: Keys) -> dict[tuple[str, str], int]:
    """Count the dead letters that were not replayed, by stream and group."""
    totals: dict[tuple[str, str], int] = {}
    last: str | bytes = "-"
    while True:
        is_all, last, counts = await _dead(client, [keys.stream(DEAD_LETTERS), keys.replayed], [last, _PAGE, _BYTES])
        for stream, group, count in counts:
            origin = stream.decode(errors="replace"), group.decode(errors="replace")
            totals[origin] = totals.get(origin, 0) + count
        if is_all:
            return totals


def _unless_missing(reply: Any) -> Any:
    """Return a reply of a pipeline, None where the key or the group does not exist yet."""
    if isinstance(reply, ResponseError) and ("no such key" in str(reply) or str(reply).startswith("NOGROUP")):
        return None
    if isinstance(reply, Exception):
        raise reply
    return reply
