"""What a mesh in memory does beside what Redis and its scripts do: they agree, also in what they refuse."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from penstock import Context, JobDead, Penstock, Service
from penstock.keys import Keys
from penstock.memory.breakers import MemoryBreakers
from penstock.redis.connection import client
from penstock.resilience.breaker import BreakerPolicy, Breakers, CircuitOpen
from penstock.schemas import BreakerChanged
from penstock.settings import Settings
from penstock.topology import parse
from tests.hands import Raw
from tests.mesh import DEADLINE, running
from tests.servers import Server

MESH = """
streams: {orders: {kind: work}, events: {}}
services: {shop: {consumes: {orders: {}}}}
"""
FIELDS, NAMES = ("a", "b", "c"), ("one", "two", "three")


# State


def operation(name: str, chance: random.Random) -> list[Any]:
    """Return a method of `ctx.state` and its arguments."""
    field, number = chance.choice(FIELDS), chance.randint(-5, 5)
    return [
        *chance.choice(
            (
                ("hincrby", name, field, number),
                ("hincrbyfloat", name, field, number / 4),
                ("hset", name, {field: number, "text": "x"}),
                ("hdel", name, field, "text"),
                ("hincrby", name, "text", number),
                ("zadd", name, {field: number / 4}),
                ("zrem", name, field),
                ("sadd", name, field, "z"),
                ("srem", name, field),
                ("append", name, field, str(number)),
                ("set", name, str(number)),
                ("set", name, "x"),
                ("incrby", name, number),
                ("delete", name),
                ("expire", name, 3_600),
            )
        )
    ]


def shop() -> Service:
    service = Service("shop")

    @service.on("orders", type="change")
    async def change(operations: list[list[Any]], ctx: Context) -> None:
        for method, *arguments in operations:
            getattr(ctx.state, method)(*arguments)

    @service.on("orders", type="push")
    async def push(texts: list[str], ctx: Context) -> None:
        ctx.state.push(NAMES[0], *texts, most=2)

    return service


async def ends(mesh: Penstock, units: list[tuple[str, Any]]) -> list[str | None]:
    """Hand over one unit of work after another; return why each could not be."""
    found: list[str | None] = []
    for kind, data in units:
        try:
            found.append(await (await mesh.submit(kind, data)).result(DEADLINE))
        except JobDead as dead:
            found.append(dead.reason)
    return found


def stored(raw: Raw, name: str) -> Any:
    """Read what the service keeps under a name, as `mesh.memory.state` shows it."""
    key = Keys().state("shop", name)
    match raw.type(key):
        case b"hash":
            return {field.decode(): text.decode() for field, text in raw.hgetall(key).items()}
        case b"zset":
            return {member.decode(): score for member, score in raw.zrange(key, 0, -1, withscores=True)}
        case b"set":
            return {member.decode() for member in raw.smembers(key)}
        case b"list":
            return [text.decode() for text in raw.lrange(key, 0, -1)]
        case b"string":
            return raw.get(key).decode()
    return None


@pytest.mark.parametrize("seed", range(4))
async def test_state_operations_come_to_the_same(seed: int, server: Server, raw: Raw) -> None:
    chance = random.Random(seed)
    units: list[tuple[str, Any]] = [
        ("push", [str(number)] * chance.randint(1, 3))
        if chance.random() < 0.1
        else ("change", [operation(name, chance) for name in chance.sample(NAMES, chance.randint(1, 3))])
        for number in range(150)
    ]
    topology = parse(MESH)
    async with Penstock.connect(topology=topology, settings=Settings(backend="memory"), services=[shop()]) as mesh:
        in_memory = await ends(mesh, units)
        state = {name: mesh.memory.state("shop", name) for name in NAMES}
    async with running(shop(), MESH, server), Penstock.connect(server.url, topology=topology) as mesh:
        in_redis = await ends(mesh, units)

    assert in_memory == in_redis
    assert {None, "invalid"} == set(in_memory)
    assert state == {name: stored(raw, name) for name in NAMES}


# Breakers

POLICY = BreakerPolicy(
    failure_threshold=3, failure_window=60, recovery_timeout=10, half_open_max_calls=2, minimum_calls=6
)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Caller:
    """Calls through a breaker; a call that is begun stays under way until it is ended."""

    def __init__(self, breakers: Breakers) -> None:
        self._breakers = breakers
        self._calls: list[Any] = []

    async def act(self, what: str, which: int) -> str:
        """Do one thing; return what came of it."""
        if what == "begin":
            guard = self._breakers.guard("crm")
            try:
                await guard.__aenter__()
            except CircuitOpen as error:
                return f"refused for {error.seconds:.3f}"
            self._calls.append(guard)
            return "passed"
        if what in ("succeed", "fail"):
            if self._calls:
                guard = self._calls.pop(which % len(self._calls))
                failure = ConnectionError("refused") if what == "fail" else None
                assert not await guard.__aexit__(type(failure) if failure else None, failure, None)
        elif what != "look":
            await self._breakers.force("crm", is_open=what == "open", reason="by hand")
        await self._breakers.look()
        return f"waits for {max(0.0, self._breakers.waiting(['crm'])):.3f}"


@pytest.mark.parametrize("seed", range(6))
async def test_breakers_come_to_the_same(seed: int, server: Server, raw: Raw) -> None:
    chance, clock = random.Random(seed), Clock()
    told: list[BreakerChanged] = []
    connection = client(server.url)
    of_redis = Breakers(connection, Keys(), service="shop", policies=lambda _: POLICY, events="events", clock=clock)
    in_memory = MemoryBreakers(
        {},
        Keys(),
        service="shop",
        policies=lambda _: POLICY,
        tell=lambda _, changed: told.append(changed),
        clock=clock,
    )
    one, other = Caller(of_redis), Caller(in_memory)
    for _ in range(400):
        clock.now += chance.choice((0.0, 0.0, 0.5, 1.0, 11.0))
        what = chance.choices(("begin", "succeed", "fail", "look", "open", "close"), (40, 18, 24, 10, 1, 2))[0]
        which = chance.randrange(100)
        assert await one.act(what, which) == await other.act(what, which), what
    await connection.aclose()

    changes = [json.loads(fields[b"data"]) for _, fields in raw.xrange("events")]
    assert changes == [
        {"name": one.name, "from": one.from_, "to": one.to, "reason": one.reason, "epoch": one.epoch} for one in told
    ]
    assert {"closed", "open", "half_open"} == {change["to"] for change in changes}
