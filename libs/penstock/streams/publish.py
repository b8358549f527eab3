"""Publishing events, in the batches that form by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec

from penstock.errors import InvalidEvent, Unavailable
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.dedicated import DedicatedConnection
from penstock.spool.spool import Accepted
from penstock.spool.spooling import Spooling
from penstock.streams.durability import Durability, confirm
from penstock.streams.kept import KeptEvents
from penstock.streams.rows import CONFLICT, KEPT, MOST_VALUES, SEEN, Row, pack, publish
from penstock.tasks import end
from penstock.times import check_delay

_TOKEN_SECONDS = 60  # a lost reply is asked for again within seconds
_MARGIN = 5  # seconds that clocks may go apart meanwhile
_SPOOL_AFTER = 0.5  # seconds of trying, where there is a spool to go to
_SPOOL_PATIENCE = 2.0  # seconds that a reply may take there
_MOST_EVENTS = 500
_MOST_BYTES = 1_000_000


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

    `entry_id` is empty for an event that is scheduled for later. `spooled`: it is kept on local disk, until Redis is
    back; where it will lie, and whether it is a duplicate, is not known yet.
    """

    entry_id: str
    duplicate: bool = False
    spooled: bool = False


class DuplicateConflict(InvalidEvent):
    """The deduplication key was used before, for another payload."""


class _Order(msgspec.Struct):
    """What one caller wants to have published, and waits for."""

    rows: list[Row]
    size: int
    done: asyncio.Future[list[Published]]


class _Batch(msgspec.Struct):
    """Orders that go out in one call, however often it has to be made."""

    orders: list[_Order]
    token: str
    numbers: list[int]  # of its events, if they are numbered
    keys: list[str]
    packed: bytes
    tried_at: float | None = None  # on the loop's clock


class Publisher:
    """Publishes to streams: what gathers while one call is under way goes out with the next.

    Start it as an async context manager. Any number of tasks may publish at once.
    A batch whose reply is lost is sent again under the same token, so it is never published twice. With a spool, what
    Redis does not take is kept there: its events have numbers instead, and Redis knows the last one that it took.
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
        spooling: Spooling | None = None,
    ) -> None:
        """Resend for `retry_for` seconds at most; `observe` gets the seconds each batch takes.

        It has a connection of its own, made as those of `client` are.
        """
        self.spooling = spooling
        """Where events go while Redis is away, if anywhere."""
        self._outlet = KeptEvents(client, keys, durability, durability_timeout)
        self._replay: asyncio.Task[None] | None = None
        self._numbered = 0
        self._observe = observe
        self._connection = DedicatedConnection(client, **({} if spooling is None else {"patience": _SPOOL_PATIENCE}))
        self._keys = keys
        self.use(durability)
        self._durability_timeout = durability_timeout
        self._retry_for = retry_for if spooling is None else min(retry_for, _SPOOL_AFTER)
        self._waiting: list[_Order] = []
        self._name = os.urandom(12).hex()
        self._batches = 0
        self._unsent: _Batch | None = None
        self._sending = False
        self._leading = False
        self._clock: tuple[int, float] | None = None  # the server's, in ms, and the loop's when it said so
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def use(self, durability: Durability) -> None:
        """Wait for this from now on."""
        self._durability: Durability = durability
        self._outlet.durability = durability

    async def __aenter__(self) -> Self:
        if self.spooling is not None:
            await self.spooling.open()
            self._replay = asyncio.create_task(self.spooling.run(self._outlet), name="spool")
        self._task = asyncio.create_task(self._run(), name="publisher")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._wake.set()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._connection.disconnect()
        if self.spooling is not None and self._replay is not None:
            await end([self._replay])
            await self.spooling.close(self._outlet)
        await self._outlet.disconnect()

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
            InvalidEvent: the entry can never be published (too many fields, or the key is no stream), or `delay` is
                negative, NaN or more than a year.
            DuplicateConflict: the deduplication key was used for another payload.
        """
        return (await self._order([self._row(stream, fields, delay, dedupe)]))[0]

    async def publish_all(self, stream: str, events: Sequence[list[str]]) -> list[Published]:
        """Publish events in their order, as `publish` does one; return once Redis has them all.

        Raises:
            Unavailable: Redis could not take them all; the first ones may be there.
            InvalidEvent: one of them can never be published; the others are.
        """
        rows = [self._row(stream, fields, 0.0, ()) for fields in events]
        published: list[Published] = []
        for start in range(0, len(rows), _MOST_EVENTS):
            published += await self._order(rows[start : start + _MOST_EVENTS])
        return published

    def _row(self, stream: str, fields: list[str], delay: float, dedupe: Sequence[Deduplication]) -> Row:
        try:
            check_delay("delay", delay)
        except ValueError as error:
            raise InvalidEvent(str(error)) from None
        guards = [
            (self._keys.dedupe(one.scope, one.key), one.lifetime, one.digest or _digest(fields)) for one in dedupe
        ]
        if self.spooling is not None and len(fields) > MOST_VALUES:  # later would be too late to say so
            raise InvalidEvent(f"more than {MOST_VALUES // 2} fields")
        if delay > 0:
            due = round((time.time() + delay) * 1000)
            return Row(self._keys.scheduled(stream), _identified(fields), max(1, round(delay * 1000)), guards, due)
        return Row(self._keys.stream(stream), fields, 0, guards)

    async def _order(self, rows: list[Row]) -> list[Published]:
        if self._closing:
            raise Unavailable("shutting down")
        size = sum(sum(map(len, row.fields)) for row in rows)
        order = _Order(rows, size, asyncio.get_running_loop().create_future())
        self._waiting.append(order)
        if not self._sending:
            await self._lead()
        return await order.done

    async def _lead(self) -> None:
        """Send what waits: nobody else does. What gathers meanwhile is the background's."""
        self._sending = self._leading = True
        batch = self._next_batch()
        try:
            if batch is not None:
                await self._send(batch)
        except asyncio.CancelledError:
            self._unsent = batch  # others wait for it too
            raise
        finally:
            self._leading = False
            if self._waiting or self._unsent is not None or self._closing:
                self._wake.set()
            else:
                self._sending = False

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._leading:  # it wakes us when it is done
                continue
            while self._unsent is not None or self._waiting:
                batch, self._unsent = self._unsent or self._next_batch(), None
                if batch is not None:
                    await self._send(batch)
            self._sending = False
            if self._closing:
                return

    def _next_batch(self) -> _Batch | None:
        size = events = count = 0
        for order in self._waiting:
            size += order.size
            events += len(order.rows)
            if count and (events > _MOST_EVENTS or size > _MOST_BYTES):
                break
            count += 1
        orders, self._waiting = self._waiting[:count], self._waiting[count:]
        orders = [order for order in orders if not order.done.done()]  # a caller may have given up
        if not orders:
            return None
        try:
            return self._batch(orders)
        except (TypeError, ValueError, OverflowError) as error:
            if len(orders) > 1:  # one of them cannot be sent; the others are no worse for it
                self._waiting[:0] = orders[1:]
                return self._only(orders[0])
            orders[0].done.set_exception(InvalidEvent(str(error)))
            return None

    def _only(self, order: _Order) -> _Batch | None:
        try:
            return self._batch([order])
        except (TypeError, ValueError, OverflowError) as error:
            order.done.set_exception(InvalidEvent(str(error)))
            return None

    def _batch(self, orders: list[_Order]) -> _Batch:
        keys, packed = pack(row for order in orders for row in order.rows)
        if self.spooling is None:
            self._batches += 1
            return _Batch(orders, self._keys.dedupe("batch", f"{self._name}-{self._batches:x}"), [], keys, packed)
        first = self._numbered + 1
        self._numbered += sum(len(order.rows) for order in orders)
        numbers = list(range(first, self._numbered + 1))
        return _Batch(orders, self._keys.spool(self.spooling.id), numbers, keys, packed)

    async def _send(self, batch: _Batch) -> None:
        try:
            if self.spooling is not None and self.spooling.waiting:  # what came before it goes before it
                answers = await self._keep(batch, self.spooling)
            else:
                answers = await self._call(batch)
        except Exception as error:  # noqa: BLE001 - every caller of the batch gets it
            for order in batch.orders:
                if not order.done.done():
                    order.done.set_exception(error)
            return
        start = 0
        for order in batch.orders:
            end = start + 2 * len(order.rows)
            if not order.done.done():
                _resolve(order.done, answers[start:end])
            start = end

    async def _call(self, batch: _Batch) -> list[Any]:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._retry_for
        pause = 0.02
        while True:
            try:
                started = time.perf_counter()
                answers = await self._once(batch, clock())
                self._observe(time.perf_counter() - started)
                return answers
            except Exception as error:
                refused = error if isinstance(error, Unavailable) else unavailable(error)
                if refused is None and str(error).startswith("EXPIRED"):
                    refused = Unavailable("it is not known whether it took them")
                if refused is None:
                    raise
                lost = refused.reason in {"cannot connect", "no reply in time"}
                if not lost or self._closing or clock() + pause > deadline:
                    if self.spooling is not None and not refused.is_denial:
                        return await self._keep(batch, self.spooling)
                    raise refused from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _keep(self, batch: _Batch, spooling: Spooling) -> list[Any]:
        rows = [row for order in batch.orders for row in order.rows]
        await spooling.keep(
            [
                Accepted(number, row.key, row.due, row.fields, row.guards)
                for number, row in zip(batch.numbers, rows, strict=True)
            ]
        )
        return ["", KEPT] * len(rows)

    async def _once(self, batch: _Batch, now: float) -> list[Any]:
        if batch.numbers:
            return await self._numbered_once(batch)
        if self._clock is None:
            seconds, microseconds = await self._connection.execute_command("TIME")
            self._clock = int(seconds) * 1000 + int(microseconds) // 1000, now
        until = 0
        if batch.tried_at is None:
            batch.tried_at = now
        else:  # the token may have been set at the first try, and lives from then on
            server_ms, said_at = self._clock
            until = server_ms + round((batch.tried_at - said_at + _TOKEN_SECONDS - _MARGIN) * 1000)
        reply = await publish(self._connection, [batch.token, *batch.keys], [_TOKEN_SECONDS, until, batch.packed, ""])
        await confirm(self._connection, self._durability, self._durability_timeout)
        server_ms, answers = msgspec.msgpack.decode(reply)
        self._clock = server_ms, now
        found: list[Any] = answers
        return found

    async def _numbered_once(self, batch: _Batch) -> list[Any]:
        numbers = msgspec.msgpack.encode(batch.numbers)
        reply = await publish(self._connection, [batch.token, *batch.keys], [0, 0, batch.packed, numbers])
        await confirm(self._connection, self._durability, self._durability_timeout)
        _, answers = msgspec.msgpack.decode(reply)
        found: list[Any] = answers
        return found


def _identified(fields: list[str]) -> list[str]:
    """Give an event an id if it has none: equal members of a sorted set would be one, and no entry names it yet."""
    return fields if "id" in fields[::2] else [*fields, "id", os.urandom(16).hex()]


def _digest(fields: list[str]) -> str:
    return hashlib.sha256("\0".join(fields).encode()).hexdigest()


def _resolve(done: asyncio.Future[list[Published]], answers: list[Any]) -> None:
    published = []
    for entry_id, outcome in zip(answers[::2], answers[1::2], strict=True):
        if isinstance(outcome, str):
            done.set_exception(InvalidEvent(outcome))
            return
        if outcome == CONFLICT:
            done.set_exception(DuplicateConflict("this key was used before, for another payload"))
            return
        published.append(Published(entry_id, duplicate=outcome == SEEN, spooled=outcome == KEPT))
    done.set_result(published)
