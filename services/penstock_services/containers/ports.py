"""Host ports: which container has which, so that no two are given one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from penstock import Context
from penstock_services.containers.model import Declaration, Record

PORTS = "ports"  # hash: port of the host, and whose it is
BAD_PORTS = "bad-ports"  # hash: port of the host that something else has, and until when it is left alone
_BAD_FOR = 3_600.0  # seconds


class NoPort(Exception):
    """A port cannot be given; the message says which and why."""


def owner(service: str, generation: int, ordinal: int) -> str:
    """Return what begins the name under which the ports of a container are claimed."""
    return f"{service}/{generation}/{ordinal}/"


async def claim(
    ctx: Context, record: Record, ordinal: int, *, owners: Collection[str], allowed: range, now: float
) -> dict[str, int]:
    """Choose host ports for an ordinal and have the commit claim them; return them by name.

    What the service has claimed for others than `owners` is free.

    Raises:
        NoPort: the range is used up, or a port that the declaration fixes is another's.
    """
    claimed = await _all(ctx, PORTS)
    free = _left_over(claimed, record.declared.name, owners)
    taken = {port: whose for port, whose in claimed.items() if port not in free}
    bad = {port: float(until) > now for port, until in (await _all(ctx, BAD_PORTS)).items()}
    shunned = {port for port, still in bad.items() if still}
    mine = owner(record.declared.name, record.generation, ordinal)
    had = {whose.removeprefix(mine): port for port, whose in taken.items() if whose.startswith(mine)}
    chosen: dict[str, int] = {}
    for name, port in record.declared.ports.items():
        if port.host is not None:
            whose = taken.get(str(port.host), mine).split("/")[0]
            if whose != record.declared.name:
                raise NoPort(f"port {port.host} of the host is {whose}'s; name another, or none")
            chosen[name] = port.host
        elif name in had and had[name] not in shunned:
            chosen[name] = int(had[name])
        else:
            chosen[name] = _free(record.declared, allowed, {*taken, *shunned, *map(str, chosen.values())})
    for name, number in chosen.items():
        ctx.state.expect(PORTS, str(number), claimed.get(str(number)))
        ctx.state.hset(PORTS, {str(number): mine + name})
    ctx.state.hdel(PORTS, *(free - set(map(str, chosen.values()))))
    ctx.state.hdel(BAD_PORTS, *(bad.keys() - shunned))
    return chosen


def mark_bad(ctx: Context, ports: Mapping[str, int], now: float) -> None:
    """Leave ports alone for a while: something that is not ours has one of them."""
    for number in ports.values():
        ctx.state.hset(BAD_PORTS, {str(number): now + _BAD_FOR})
        ctx.state.hdel(PORTS, str(number))


async def release(ctx: Context, service: str, *, owners: Collection[str]) -> None:
    """Have the commit free what the service has claimed for others than `owners`."""
    ctx.state.hdel(PORTS, *_left_over(await _all(ctx, PORTS), service, owners))


def _left_over(claimed: Mapping[str, str], service: str, owners: Collection[str]) -> set[str]:
    """Return ports that a service has claimed for containers that there are no more."""
    return {
        port
        for port, whose in claimed.items()
        if whose.startswith(f"{service}/") and not whose.startswith(tuple(owners))
    }


def _free(declared: Declaration, allowed: range, taken: set[str]) -> int:
    """Return a free port; services begin to look at different places, so that two seldom want the same at once."""
    digest = hashlib.sha256(declared.name.encode()).digest()
    begin = int.from_bytes(digest[:4], "big") % len(allowed)
    for offset in range(len(allowed)):
        number = allowed[(begin + offset) % len(allowed)]
        if str(number) not in taken:
            return number
    raise NoPort(f"all ports from {allowed[0]} to {allowed[-1]} are taken; widen PENSTOCK_CONTAINERS_PORTS")


async def _all(ctx: Context, name: str) -> dict[str, str]:
    found = await ctx.redis.hgetall(ctx.state.key(name))
    return {port.decode(): whose.decode() for port, whose in found.items()}
