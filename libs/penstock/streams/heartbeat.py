"""The heartbeat: a consumer says that it is alive and still holds its entries, and sees who else does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
import redis
import structlog

from penstock.keys import Keys
from penstock.redis.connection import unavailable
from penstock.redis.scripts import Script
from penstock.streams.commit import Source

INTERVAL = 1.0
LIFETIME = 3.0  # seconds of silence, as somebody sees it who beats himself, that are no accident
_LEAST_STEP = 2.0  # seconds
_LEAST_BLOCK = 2.0  # seconds; what is shorter nobody notices
GIVEN_UP = "0"
"""The beat of a process whose event loop has been blocked for longer than its lease: others may take over."""

Held = tuple[int, str]  # source index, entry id
_beat = Script("penstock.streams", "heartbeat")
_log = structlog.get_logger("penstock.heartbeat")


def alive(beats: Mapping[bytes, bytes], now_ms: int) -> frozenset[str]:
    """Return the consumers that have beaten lately, by the clock of the server: for showing, not for a rescue."""
    fresh = (name for name, beat in beats.items() if now_ms - _beaten_at(beat) < 2_000 * LIFETIME)
    return frozenset(name.decode() for name in fresh)


def _beaten_at(beat: bytes) -> int:
    ms = beat.partition(b":")[2]
    return int(ms) if ms.isdigit() else 0


class Beats(msgspec.Struct, frozen=True):
    """The last beat of every consumer of the group, as seen at `at` (`time.monotonic`). A beat that is new differs."""

    at: float
    of: dict[str, str]


class ServerClock:
    """Tells when the server's clock has stepped, from what it says at each beat."""

    def __init__(self) -> None:
        self._last: tuple[float, float, float] | None = None

    def step(self, sent: float, received: float, server: float) -> float:
        """Return by how many seconds it has stepped since the last call, 0 if that was less than `_LEAST_STEP`.

        The server said `server` between `sent` and `received`; those two are of `time.monotonic`.
        """
        last, self._last = self._last, (sent, received, server)
        if last is None:
            return 0.0
        passed = server - last[2]
        least, most = sent - last[1], received - last[0]
        step = passed - min(max(passed, least), most)
        return step if abs(step) >= _LEAST_STEP else 0.0


class Heartbeat:
    """Beats from a thread and a connection of its own.

    A handler that blocks the event loop is thus not taken for a dead process; a loop that has been blocked for longer
    than `lease` seconds gives up what it holds. What keeps the interpreter's lock stops this thread too: whoever
    watches tells a pause from a death by the connections, which end with the process (see `rescue`).
    """

    def __init__(
        self,
        client: Any,
        keys: Keys,
        *,
        group: str,
        consumer: str,
        sources: list[Source],
        lease: float,
        in_flight: Callable[[], Collection[Held]],
        lost: Callable[[list[Held], bool], None],
        observe: Callable[[Beats], None] = lambda _: None,
    ) -> None:
        """Take a client for a thread, which it closes.

        Call `lost` with entries that are no longer ours, and whether others may have taken them over: this process was
        silent, or had given up, before this beat. Call `observe` with what each beat has seen of others.
        """
        self._client = client
        self._beats = keys.beats(group)
        self._group = group
        self._consumer = consumer
        self._sources = sources
        self._lease = lease
        self._in_flight = in_flight
        self._lost = lost
        self._observe = observe
        self._stop = threading.Event()
        self._count = 0
        self._gave_up = False
        self._asked: float | None = None  # when the loop was asked for a sign of life it has not given yet
        self._block = -INTERVAL, 0.0  # when the loop was last found to have been blocked, and for how long
        self._last = -LIFETIME  # when a beat got through
        self._trouble = ""
        self._clock = ServerClock()
        self.beaten = asyncio.Event()
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=f"{consumer}:heartbeat", daemon=True)

    def start(self) -> None:
        """Start beating; `beaten` is set once the first beat has reached Redis."""
        self._thread.start()

    @property
    def steady(self) -> bool:
        """Whether beats get through: with others watching in vain it is of no use to take more work."""
        return time.monotonic() - self._last < 2 * LIFETIME

    @property
    def blocked(self) -> float:
        """For how many seconds the loop was blocked, if that was just now; else 0."""
        ended, seconds = self._block
        return seconds if time.monotonic() - ended < INTERVAL else 0.0

    @property
    def trouble(self) -> str:
        """What is to be said while they do not get through; empty while they do."""
        if self.steady:
            return ""
        return f"heartbeats do not get through{self._trouble and ': '}{self._trouble}"

    async def stop(self) -> None:
        """Stop beating and take the last beat away, so that others need not wait for another."""
        self._stop.set()
        await self._ended.wait()

    def _run(self) -> None:
        while True:
            self._beat_once()
            if self._stop.wait(INTERVAL):
                break
        with contextlib.suppress(redis.RedisError):
            self._client.hdel(self._beats, self._consumer)
        self._client.close()
        self._tell(self._ended.set)

    def _beat_once(self) -> None:
        blocked = self._blocked_for()
        self._count += 1
        held: dict[int, list[str]] = defaultdict(list)
        if blocked <= self._lease:
            for source, entry_id in tuple(self._in_flight()):
                held[source].append(entry_id)
        indexes = list(held)
        packed = msgspec.msgpack.encode([held[index] for index in indexes])
        number = self._count if blocked <= self._lease else GIVEN_UP
        sent = time.monotonic()
        try:
            lost, beats = _beat.run(
                self._client,
                [self._beats, *(self._sources[index].key for index in indexes)],
                [self._group, self._consumer, number, packed],
            )
        except redis.RedisError as error:
            self._say(error)
            return
        was_silent = self._gave_up or time.monotonic() - self._last > LIFETIME
        self._gave_up = number == GIVEN_UP
        self._last = time.monotonic()
        self._recover()
        texts = [part.decode() for part in beats]
        of = dict(zip(texts[::2], texts[1::2], strict=True))
        self._tell(self._observe, Beats(self._last, of))
        self._watch_clock(sent, _beaten_at(of.get(self._consumer, "").encode()) / 1000)
        self._tell(self.beaten.set)
        gone = [(indexes[index], entry_id.decode()) for index, entry_id in zip(lost[::2], lost[1::2], strict=True)]
        if gone:
            self._tell(self._lost, gone, was_silent)

    def _watch_clock(self, sent: float, server: float) -> None:
        step = self._clock.step(sent, self._last, server) if server else 0.0
        if step:
            late = "what is put off to a time comes that much " + ("later" if step < 0 else "sooner")
            _log.warning("the clock of Redis has stepped", seconds=round(step, 1), effect=late)

    def _blocked_for(self) -> float:
        """Ask the loop for a sign of life; return how long it has owed one, in seconds."""
        asked = self._asked  # read once: the loop may answer meanwhile
        if asked is None:
            self._asked = time.monotonic()
            self._tell(self._answer)
            return 0.0
        return time.monotonic() - asked

    def _answer(self) -> None:
        now = time.monotonic()
        seconds = now - (self._asked or now)
        self._asked = None
        if seconds >= _LEAST_BLOCK:
            self._block = now, seconds
            _log.warning("a handler has blocked the event loop: nothing else could go on", seconds=round(seconds, 1))

    def _tell(self, function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *arguments)

    def _say(self, error: redis.RedisError) -> None:
        away = unavailable(error)
        reason = away.reason if away is not None else str(error)
        if self._stop.is_set() or reason == self._trouble or self.steady:  # a beat that is missed is made up for
            return
        self._trouble = reason
        _log.warning("heartbeats do not get through: others may take over", reason=reason)

    def _recover(self) -> None:
        if self._trouble:
            _log.info("heartbeats get through again", after=self._trouble)
            self._trouble = ""
