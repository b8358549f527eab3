"""What stands in for Redis and a request where a target is a whole endpoint: nothing here ever waits."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec
from yarl import URL

from penstock.keys import Keys
from penstock.redis.lanes import Lanes
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.streams.publish import Published
from penstock.topology import load
from penstock.web.routes import HttpRoute, Request

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what has nothing to wait for to its end, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return cast(T, ended.value)
    finally:
        coroutine.close()
    raise AssertionError("it waits for something")


class Redis:
    """Holds hashes and one stream for reading; what is written goes nowhere."""

    def __init__(self, hashes: Mapping[str, Mapping[str, bytes]] | None = None) -> None:
        self._hashes = hashes or {}
        self.connection_pool = Lanes("redis://127.0.0.1:1/0", name="fuzz").client().connection_pool  # nobody connects
        self.rows: list[tuple[bytes, dict[bytes, bytes]]] = []

    async def hgetall(self, key: str) -> dict[bytes, bytes]:
        return {name.encode(): value for name, value in self._hashes.get(key, {}).items()}

    async def hget(self, key: str, name: str) -> bytes | None:
        name.encode()
        return self._hashes.get(key, {}).get(name)

    async def hset(self, _key: str, name: str, value: bytes) -> None:
        assert msgspec.json.decode(value)
        assert name.encode()

    async def hdel(self, _key: str, name: str) -> int:
        return len(name.encode()[:1])

    async def hlen(self, key: str) -> int:
        return len(self._hashes.get(key, {}))

    async def lrange(self, _key: str, first: int, last: int) -> list[bytes]:
        assert first >= 0
        assert last < 2**63
        return []

    async def execute_command(self, *words: str) -> None:
        assert all(word.encode() for word in words)

    async def xrange(self, _key: str, first: str, *_: str, **__: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return [] if first.startswith(f"({self.rows[-1][0].decode()}") else self.rows

    async def exists(self, _key: str) -> int:
        return 0

    @contextlib.asynccontextmanager
    async def pipeline(self, **_: bool) -> AsyncIterator[Pipeline]:
        yield Pipeline()


class Pipeline:
    """Finds every stream to be empty."""

    def __init__(self) -> None:
        self._asked = 0

    def xrange(self, *_: str, **__: int) -> None:
        self._asked += 1

    xrevrange = xrange

    async def execute(self) -> list[list[Any]]:
        return [[]] * self._asked


class Publisher:
    """Takes what Redis would take, and counts it."""

    def __init__(self) -> None:
        self.count = 0

    async def publish(self, _stream: str, fields: Sequence[str], **_: Any) -> Published:
        assert len(fields) % 2 == 0
        assert all(isinstance(field.encode(), bytes) for field in fields)
        self.count += 1
        return Published("1-0", duplicate=False)


class Asked:
    """A request as endpoints see it: with a body, or with a path and a query."""

    def __init__(self, *, body: bytes = b"", rest: str = "", query: str = "") -> None:
        self.rest = rest
        self.query = dict(URL("http://h/?" + query, encoded=True).query)
        self._body = body

    async def read_json(self) -> bytes:
        return self._body


def make_runtime(name: str, redis: Redis | None = None) -> Runtime:
    runtime = SimpleNamespace(
        name=name,
        redis=redis or Redis(),
        keys=Keys(),
        settings=Settings(),
        topology=load(),
        publisher=Publisher(),
    )
    return cast(Runtime, runtime)


def ask(route: HttpRoute, asked: Asked) -> bytes:
    """Return what an endpoint answers."""
    answer = cast(Any, drive(cast(Any, route.endpoint(cast(Request, asked)))))
    return bytes(answer.body or b"")
