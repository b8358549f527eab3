"""Comparing streams.yaml with what is in Redis."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from penstock.keys import Keys
from penstock.mesh.state import GroupState, StreamState, Undeclared, mesh_state
from penstock.redis.connection import AsyncRedis
from penstock.streams.renaming import literal
from penstock.topology import Topology

_SCAN_COUNT = 1_000
_STREAM = re.compile(r"(?P<stream>[^:]+)(?::(?P<group>[^:]+):retry)?")
_PUT_OFF = re.compile(r"(?!state:)(?P<stream>[^:]+):(?:(?P<group>[^:]+):delayed|scheduled)")


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
    found = await mesh_state(client, keys, topology, undeclared=await undeclared(client, keys, topology))
    differences = []
    for stream in found.streams:
        groups = [state for state in found.groups if state.stream == stream.name]
        if not stream.declared:
            differences.append(_undeclared_stream(stream, groups))
            continue
        for state in groups:
            if not state.declared and state.group not in topology.streams[state.stream].abandoned:
                differences.append(_undeclared_group(state, topology))
            elif state.declared and not state.exists:
                differences.append(_missing_group(state))
    return differences


async def undeclared(client: AsyncRedis, keys: Keys, topology: Topology) -> Undeclared:
    """Look through all keys for streams, and for groups with work put off, that the topology does not know.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    found: Undeclared = {}
    for kind, pattern in (("STREAM", _STREAM), ("ZSET", _PUT_OFF)):
        async for key in client.scan_iter(match=literal(keys.prefix) + "*", count=_SCAN_COUNT, _type=kind):
            parts = pattern.fullmatch(key.decode(errors="replace").removeprefix(keys.prefix))
            if parts is None:
                continue
            stream, group = parts["stream"], parts["group"]
            if stream not in topology.streams or (group and group not in topology.groups(stream)):
                found.setdefault(stream, set()).update([group] if group else [])
    return found


def _missing_group(state: GroupState) -> Difference:
    stream, group, waiting = state.stream, state.group, state.lag
    if state.position:
        what = f"the group of service {group} is gone; it goes on after {state.position} ({waiting} entries)"
    else:
        what = f"service {group} has never read it ({waiting} entries wait)"
    return Difference("missing-group", stream, group, f"{stream}: {what}: start the service")


def _undeclared_group(state: GroupState, topology: Topology) -> Difference:
    stream, group, work = state.stream, state.group, state.unsettled
    for name in topology.groups(stream):
        if topology.services[name].formerly == group:
            message = f"{stream}: service {name} takes over group {group} ({work} events to do): start the service"
            return Difference("undeclared-group", stream, group, message)
    return Difference(
        "undeclared-group",
        stream,
        group,
        f"{stream}: group {group} is not in streams.yaml and has {work} events to do: declare a service {group} that "
        f"consumes {stream}; if nobody uses it any more, name it under streams.{stream}.abandoned or remove it (XGROUP "
        f"DESTROY{', which loses them' if work else ''})",
    )


def _undeclared_stream(stream: StreamState, groups: list[GroupState]) -> Difference:
    work = [f"{state.group} has {state.unsettled} events of it to do" for state in groups if state.unsettled]
    work += [f"{stream.scheduled} more are scheduled"] if stream.scheduled else []
    keys = " and their keys" if groups or stream.scheduled else ""
    advice = f"declare it to have them done; deleting it{keys} loses them" if work else "declare it, or delete it (DEL)"
    holds = ", ".join([f"it holds {stream.length} entries", *work])
    return Difference(
        "undeclared-stream",
        stream.name,
        None,
        f"{stream.name}: no stream of this name is in streams.yaml, so no service reads it; {holds}: {advice}",
    )
