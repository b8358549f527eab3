"""The registry of live connections: which there are, in which process; and messages to one of them.

Each process writes its own into one hash, and beats: the hash lives for a few seconds from the last beat. So what a
killed process had is gone by itself, whoever else is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import structlog

from penstock.client.client import Penstock
from penstock.keys import Keys
from penstock.live.connection import Connection, Message
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script
from penstock.settings import Settings
from penstock.tasks import end
from penstock.times import rfc3339

_BEAT = 2.0  # seconds between beats
_LIFETIME_MS = 6_000  # from the last beat of a process until its connections are forgotten
_MOST_MESSAGES = 1_000  # that wait for a process, about
_MESSAGES_MS = 60_000  # that they wait at most
_MOST_TOPICS = 20  # of a connection, in the registry
_LAST_WORD = 1.0  # seconds that the end of the last connection may take to be written
_register = Script("penstock.live", "register")
_tell = Script("penstock.live", "tell")
_log = structlog.get_logger("penstock.live")


class LiveConnection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A connection as the registry has it. `topics` are the first 20 of what it follows, times are RFC 3339.

    `process` has it, and has last said so at `seen_at`.
    """

    id: str
    process: str
    kind: str
    since: str
    seen_at: str = ""
    client: str | None = None
    tenant: str | None = None
    subscriptions: int = 0
    topics: list[str] = []


class Connections:
    """The connections of all processes, for whoever looks, or has something to tell one of them."""

    def __init__(self, client: AsyncRedis, keys: Keys, *, name: str) -> None:
        """`name` is the registry's, as WS_REDIS_REGISTRY_KEY gives it."""
        self._client = client
        self._keys = keys
        self._name = name

    @classmethod
    def of(cls, mesh: Penstock, settings: Settings | None = None) -> Connections:
        """Return those of the mesh that a client speaks to; the environment says how the registry is named."""
        return cls(mesh.redis, mesh.keys, name=(settings or Settings.from_env()).registry_key)

    async def all(self, *, tenant: str | None = None) -> list[LiveConnection]:
        """Return the connections, the oldest first; `tenant` None is those of all.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        seconds, _ = await self._client.time()
        processes = await self._client.zrange(
            self._keys.connections(self._name),
            int(seconds) * 1_000 - _LIFETIME_MS,
            "+inf",
            byscore=True,
            withscores=True,
        )
        found: list[LiveConnection] = []
        for process, beat in processes:
            key = self._keys.connections_of(self._name, process.decode())
            rows = await self._client.hvals(key)
            seen_at = rfc3339(beat / 1_000)
            known = [msgspec.json.decode(row, type=LiveConnection) for row in rows]
            found += [msgspec.structs.replace(one, seen_at=seen_at) for one in known]
        return sorted((one for one in found if tenant in (None, one.tenant)), key=lambda one: (one.since, one.id))

    async def tell(self, connection: str, data: Any, *, tenant: str | None = None) -> bool:
        """Hand a message to a connection: anything that is JSON. Return whether there is such a connection.

        It is passed on within moments, once at most: what its process does not come to pass on is lost.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        process, _, _ = connection.rpartition(".")
        key = self._keys.connections_of(self._name, process)
        if tenant is not None:
            row: bytes | None = await self._client.hget(key, connection)
            if row is None or msgspec.json.decode(row, type=LiveConnection).tenant != tenant:
                return False
        messages = self._keys.messages_to(self._name, process)
        arguments = (connection, msgspec.json.encode(data), _MOST_MESSAGES, _MESSAGES_MS)
        return bool(await _tell(self._client, [key, messages], arguments))


class Registry:
    """What this process has, kept known for as long as there is any."""

    def __init__(self, client: AsyncRedis, keys: Keys, *, name: str) -> None:
        self.process = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self.messages = keys.messages_to(name, self.process)
        """The stream of messages to these connections."""
        self._client = client
        self._processes = keys.connections(name)
        self._key = keys.connections_of(name, self.process)
        self._number = 0
        self._connections: dict[str, Connection] = {}
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, connection: Connection) -> None:
        """Give a connection its name, and have it known."""
        self._number += 1
        connection.id = name = f"{self.process}.{self._number}"
        connection.on_change = functools.partial(self._change, name)
        self._connections[name] = connection
        self._change(name)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="live connections")

    def discard(self, connection: Connection) -> None:
        """Forget a connection."""
        if connection.id is not None and self._connections.pop(connection.id, None) is not None:
            self._change(connection.id)

    async def stop(self) -> None:
        """Take back that this process lives: it has no connections any more."""
        task, self._task = self._task, None
        if task is None:
            return
        await end([task])
        self._changed.clear()
        try:
            async with asyncio.timeout(_LAST_WORD), self._client.pipeline(transaction=False) as pipeline:
                pipeline.unlink(self._key, self.messages)
                pipeline.zrem(self._processes, self.process)
                await pipeline.execute()
        except Exception as error:  # noqa: BLE001 - it is forgotten soon
            _log.debug("the end of the live connections is not written", reason=str(error))

    def take(self, fields: Mapping[bytes, bytes]) -> None:
        """Pass on a message to the connection that it is for."""
        connection = self._connections.get(fields.get(b"connection", b"").decode(errors="replace"))
        if connection is not None:
            connection.put(Message("direct", fields.get(b"data", b"null")))

    def _change(self, connection_id: str) -> None:
        self._changed.add(connection_id)
        self._wake.set()

    async def _run(self) -> None:
        said = ""
        while True:
            self._wake.clear()
            changed, self._changed = self._changed, set()
            try:
                await self._write(changed)
                said = ""
            except Exception as error:  # noqa: BLE001 - what is told live does not depend on it
                away = unavailable(error)
                if away is None:
                    _log.error("which live connections there are cannot be written", exc_info=error)
                    return
                self._changed |= changed
                if away.reason != said:
                    said = away.reason
                    _log.warning("which live connections there are is not known for now", reason=said)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_BEAT):
                    await (asyncio.sleep(_BEAT) if said else self._wake.wait())

    async def _write(self, changed: Iterable[str]) -> None:
        known = len(self._connections)
        await self._put(changed)
        if await _register(self._client, [self._processes, self._key], [self.process, _LIFETIME_MS]) != known:
            await self._client.unlink(self._key)  # it was flushed, or this process paused for longer than it lives
            await self._put(list(self._connections))
            await _register(self._client, [self._processes, self._key], [self.process, _LIFETIME_MS])

    async def _put(self, changed: Iterable[str]) -> None:
        there = {one: msgspec.json.encode(self._described(one)) for one in changed if one in self._connections}
        gone = [one for one in changed if one not in self._connections]
        async with self._client.pipeline(transaction=False) as pipeline:
            if there:
                pipeline.hset(self._key, mapping=there)
            if gone:
                pipeline.hdel(self._key, *gone)
            await pipeline.execute()

    def _described(self, connection_id: str) -> LiveConnection:
        connection = self._connections[connection_id]
        viewer, topics = connection.viewer, [follower.filter for follower in connection.followers]
        return LiveConnection(
            id=connection_id,
            process=self.process,
            kind=connection.kind,
            since=rfc3339(connection.since),
            client=viewer.name or None,
            tenant=viewer.tenant,
            subscriptions=len(topics),
            topics=[str(topic) for topic in topics[:_MOST_TOPICS]],
        )
