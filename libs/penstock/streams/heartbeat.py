"""Presence: the heartbeat that says a consumer is alive and still holds its entries."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection

import msgspec
import redis

from penstock.keys import Keys
from penstock.redis.connection import blocking_client
from penstock.redis.scripts import Script
from penstock.streams.commit import Source

LIFETIME = 3.0  # seconds a liveness key outlives the last beat
INTERVAL = 1.0

Held = tuple[int, str]  # source index, entry id
_beat = Script("penstock.streams", "heartbeat")


class Heartbeat:
    """Beats from a thread and a connection of its own.

    A handler that blocks the event loop is thus not taken for a dead process; a loop that has been blocked
    for longer than `lease` seconds is: the beat then stops, and others take over.
    """

    def __init__(
        self,
        url: str,
        keys: Keys,
        *,
        group: str,
        consumer: str,
        sources: list[Source],
        lease: float,
        in_hand: Callable[[], Collection[Held]],
        lost: Callable[[list[Held]], None],
    ) -> None:
        self._client = blocking_client(url, timeout=INTERVAL, name=f"{consumer}:presence")
        self._keys = keys
        self._live = keys.live(consumer)
        self._group = group
        self._consumer = consumer
        self._sources = sources
        self._lease = lease
        self._in_hand = in_hand
        self._lost = lost
        self._stop = threading.Event()
        self._asked: float | None = None  # when the loop was asked for a sign of life it has not given yet
        self.beaten = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=f"{consumer}:presence", daemon=True)

    def start(self) -> None:
        """Start beating; `beaten` is set once the first beat has reached Redis."""
        self._thread.start()

    async def stop(self) -> None:
        """Stop beating and take the liveness key away, so that others need not wait for it to expire."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while True:
            self._beat_once()
            if self._stop.wait(INTERVAL):
                break
        with contextlib.suppress(redis.RedisError):  # it expires by itself
            self._client.delete(self._live)
        self._client.close()

    def _beat_once(self) -> None:
        if self._asked is None:
            self._asked = time.monotonic()
            self._loop.call_soon_threadsafe(self._answer)
        elif time.monotonic() - self._asked > self._lease:
            return
        held: dict[int, list[str]] = defaultdict(list)
        for source, entry_id in tuple(self._in_hand()):
            held[source].append(entry_id)
        indexes = list(held)
        packed = msgspec.msgpack.encode([(self._sources[index].key, held[index]) for index in indexes])
        try:
            reply = _beat.run(
                self._client,
                [self._live, self._sources[0].key],
                [round(LIFETIME * 1000), self._group, self._consumer, packed],
            )
        except redis.RedisError:
            return  # the reader says so; the next beat tries again
        self._loop.call_soon_threadsafe(self.beaten.set)
        lost = [(indexes[index], entry_id.decode()) for index, entry_id in zip(reply[::2], reply[1::2], strict=True)]
        if lost:
            self._loop.call_soon_threadsafe(self._lost, lost)

    def _answer(self) -> None:
        self._asked = None
