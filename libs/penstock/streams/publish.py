"""Publishing events, in the batches that form by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import msgspec

from penstock.errors import ConfigurationError, InvalidEvent, Unavailable
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script

Durability = Literal["memory", "aof", "replica"]

_publish = Script("penstock.streams", "publish")
_TOKEN_SECONDS = 60  # a lost reply is asked for again within seconds
_MOST_EVENTS = 500
_MOST_BYTES = 1_000_000
_PUBLISHED, _SEEN, _CONFLICT = 0, 1, 2


class Deduplication(msgspec.Struct, frozen=True):
    """Publish only once under `key` within `scope`, for `lifetime` seconds.

    `digest` tells payloads under the same key apart; without one the fields' own is used.
    """

    scope: str
    key: str
    lifetime: int = 86_400
    digest: str = ""


class Published(msgspec.Struct, frozen=True):
    """Where an event lies. `duplicate`: the key was seen before, and `entry_id` is that first event's.

    `entry_id` is empty for an event that is scheduled for later.
    """

    entry_id: str
    duplicate: bool = False


class DuplicateConflict(InvalidEvent):
    """The deduplication key was used before, for another payload."""


class _Waiting(msgspec.Struct):
    row: list[Any]
    size: int
    done: asyncio.Future[Published]


class Publisher:
    """Publishes to streams: what gathers while one call is under way goes out with the next.

    Start it as an async context manager. Any number of tasks may call `publish` at once.
    A batch whose reply is lost is sent again under the same token, so it is never published twice.
    """

    def __init__(
        self,
        client: AsyncRedis,
        keys: Keys,
        *,
        durability: Durability = "memory",
        durability_timeout: float = 2.0,
        retry_for: float = 2.0,
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Resend for `retry_for` seconds at most; `observe` gets the seconds each batch takes."""
        self._observe = observe
        self._client = client
        self._keys = keys
        self._durability: Durability = durability
        self._durability_timeout = durability_timeout
        self._retry_for = retry_for
        self._waiting: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="publisher")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._wake.set()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def publish(
        self,
        stream: str,
        fields: list[str],
        *,
        delay: float = 0.0,
        dedupe: Sequence[Deduplication] = (),
    ) -> Published:
        """Publish one event, given as the field list of `event.encode`; return once Redis has it.

        `delay` in seconds schedules it for later. An event that any of `dedupe` has seen is not published
        again; those that had not seen it have now.

        Raises:
            Unavailable: Redis could not take it within the time allowed, or not at the durability asked for.
            InvalidEvent: the entry can never be published (too many fields, or the key is no stream).
            DuplicateConflict: the deduplication key was used for another payload.
        """
        if self._closing:
            raise Unavailable("shutting down")
        row: list[Any] = [
            self._keys.scheduled(stream) if delay > 0 else self._keys.stream(stream),
            _identified(fields) if delay > 0 else fields,
            max(1, round(delay * 1000)) if delay > 0 else 0,
            [[self._keys.dedupe(one.scope, one.key), one.lifetime, one.digest or _digest(fields)] for one in dedupe],
        ]
        waiting = _Waiting(row, sum(map(len, fields)), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._wake.set()
        return await waiting.done

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._send(self._next_batch())
            if self._closing:
                return

    def _next_batch(self) -> list[_Waiting]:
        size = count = 0
        for waiting in self._waiting[:_MOST_EVENTS]:
            size += waiting.size
            if count and size > _MOST_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return [waiting for waiting in batch if not waiting.done.done()]  # a caller may have given up

    async def _send(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        try:
            answers = await self._call([waiting.row for waiting in batch])
        except Exception as error:  # noqa: BLE001 - every caller of the batch gets it
            for waiting in batch:
                if not waiting.done.done():
                    waiting.done.set_exception(error)
            return
        for waiting, (entry_id, outcome) in zip(batch, answers, strict=True):
            if not waiting.done.done():
                _resolve(waiting.done, entry_id, outcome)

    async def _call(self, rows: list[list[Any]]) -> list[tuple[str, int | str]]:
        packed = msgspec.msgpack.encode(rows)
        token = self._keys.dedupe("batch", os.urandom(12).hex())
        deadline = asyncio.get_running_loop().time() + self._retry_for
        pause = 0.02
        while True:
            try:
                started = time.perf_counter()
                reply = await self._once(token, packed)
                self._observe(time.perf_counter() - started)
                return msgspec.msgpack.decode(reply, type=list[tuple[str, int | str]])
            except Exception as error:
                refused = error if isinstance(error, Unavailable) else unavailable(error)
                if refused is None:
                    raise
                lost = refused.reason in {"cannot connect", "no reply in time"}
                if not lost or self._closing or asyncio.get_running_loop().time() + pause > deadline:
                    raise refused from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _once(self, token: str, packed: bytes) -> bytes:
        if self._durability == "memory":
            reply: bytes = await _publish(self._client, [token], [_TOKEN_SECONDS, packed])
            return reply
        # WAITAOF and WAIT speak of what this very connection wrote.
        async with self._client.client() as single:
            reply = await _publish(single, [token], [_TOKEN_SECONDS, packed])
            await confirm(single, self._durability, self._durability_timeout)
            return reply


async def confirm(client: AsyncRedis, durability: Durability, timeout: float) -> None:
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


def _identified(fields: list[str]) -> list[str]:
    """Give an event an id if it has none: equal members of a sorted set would be one, and no entry names it yet."""
    return fields if "id" in fields[::2] else [*fields, "id", os.urandom(16).hex()]


def _digest(fields: list[str]) -> str:
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _resolve(done: asyncio.Future[Published], entry_id: str, outcome: int | str) -> None:
    if isinstance(outcome, str):
        done.set_exception(InvalidEvent(outcome))
    elif outcome == _CONFLICT:
        done.set_exception(DuplicateConflict("this key was used before, for another payload"))
    else:
        done.set_result(Published(entry_id, duplicate=outcome == _SEEN))
