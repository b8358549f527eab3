"""The rescue: the work of dead consumers comes back to the living, within seconds.

Silence proves nothing by itself: Redis may have answered nobody, a process may only pause. A consumer is dead if

- its beat has not changed for a whole LIFETIME, as seen by somebody whose own beats got through all that time, and
- no connection bears its name any more: they end with the process, also by SIGKILL.

What was in flight there is moved and charged with a death. A consumer that is silent and still connected only
pauses (it is stopped, or something keeps the interpreter's lock); after its lease its entries are moved too, and
nothing is charged. A beat that comes meanwhile makes all of it void: the script compares.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog
from redis.exceptions import ResponseError

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script
from penstock.streams.commit import Source
from penstock.streams.election import Election
from penstock.streams.heartbeat import GIVEN_UP, INTERVAL, LIFETIME, Beats
from penstock.times import rfc3339

MOST_DEATHS = 3  # processes that may die with an event in flight before it goes to the dead letters
_SWEEP = 15.0  # seconds between looks for what no beat speaks of
_MOST_ENTRIES = 200
_MOST_BYTES = 1_000_000  # bounds how long one call holds Redis
_STALE_MS = 60_000  # a living consumer beats every second for what it holds: such an entry nobody holds
_rescue = Script("penstock.streams", "rescue")
_log = structlog.get_logger("penstock.rescue")


class Watch:
    """How long each consumer has been silent, as one observer sees it."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[str, float]] = {}
        self._last = float("-inf")

    def see(self, beats: Beats, strangers: Iterable[str] = ()) -> dict[str, float]:
        """Take note of the last beats; return the seconds that each has been the same.

        `strangers` are consumers that no beat speaks of. After a gap in what is seen every silence begins anew.
        """
        known = self._since if beats.at - self._last <= 2 * INTERVAL else {}
        self._last = beats.at
        now = {**dict.fromkeys(strangers, ""), **beats.of}
        self._since = {
            name: known[name] if known.get(name, ("", 0.0))[0] == beat and name in known else (beat, beats.at)
            for name, beat in now.items()
        }
        return {name: beats.at - since for name, (_, since) in self._since.items()}


class Rescuer:
    """Looks after one group's streams. Every process runs one; for each tick one of them does the work."""

    def __init__(
        self,
        client: AsyncRedis,
        keys: Keys,
        *,
        group: str,
        consumer: str,
        sources: list[Source],
        dlq: str,
        lease: float,
        note: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`note`, if given, notes where the group stands, whenever this process looks for what no beat speaks of."""
        self._note = note
        self._client = client
        self._keys = keys
        self._group = group
        self._consumer = consumer
        self._sources = sources
        self._retries = {source.stream: source.key for source in sources if source.is_retry}
        self._dlq = dlq
        self._lease = lease
        self._rescuing = Election(client, keys, f"rescue:{group}", tick=INTERVAL)
        self._sweeping = Election(client, keys, f"sweep:{group}", tick=_SWEEP)
        self._watch = Watch()
        self._strangers: set[str] = set()
        self._beats = Beats(0.0, {})
        self._silent: dict[str, float] = {}
        self._seen = asyncio.Event()
        self._next_sweep = 0.0
        self._trouble = ""

    def observe(self, beats: Beats) -> None:
        """Take note of what a heartbeat of this process has seen."""
        self._beats = beats
        self._silent = self._watch.see(beats, self._strangers - beats.of.keys())
        self._seen.set()

    async def run(self) -> None:
        """Look after each heartbeat, until cancelled."""
        while True:
            await self._seen.wait()
            self._seen.clear()
            try:
                await self._tick()
                self._trouble = ""
            except Exception as error:
                away = unavailable(error)
                if away is None and not _no_group(error):
                    raise
                if away is not None and away.reason != self._trouble:
                    self._trouble = away.reason
                    _log.warning("no rescue is possible now", reason=away.reason)

    async def release(self, consumer: str) -> int:
        """Hand back everything `consumer` holds and remove it; return how many entries that were.

        Raises:
            redis.exceptions.RedisError: Redis is away; the others take it over later.
        """
        handed_back = 0
        for source in self._sources:
            removed = 0
            while not removed:
                try:
                    moved, dead, _, removed = await self._call(source, consumer, "release")
                except ResponseError as error:
                    if not _no_group(error):
                        raise
                    break  # flushed away, and all we held with it
                handed_back += moved + dead
        await self._acquit(consumer)
        return handed_back

    async def hand_back(self, source: Source, entry_ids: list[str]) -> None:
        """Give entries that this consumer holds, and has not begun, to whoever is free.

        Raises:
            redis.exceptions.RedisError: Redis is away; this consumer still holds them.
        """
        await self._call(source, self._consumer, "some", entry_ids=entry_ids)

    async def _tick(self) -> None:
        suspects = [
            name
            for name, silence in self._silent.items()
            if name != self._consumer and (silence >= LIFETIME or self._beats.of.get(name) == GIVEN_UP)
        ]
        if suspects and await self._rescuing.won():
            await self._rescue_all(suspects)
        if time.monotonic() >= self._next_sweep:
            self._next_sweep = time.monotonic() + _SWEEP
            if await self._sweeping.won():
                await self._sweep()

    async def _rescue_all(self, suspects: list[str]) -> None:
        connected = await self._connected()
        for name in suspects:
            if time.monotonic() - self._beats.at > 2 * INTERVAL:
                return  # what was seen is too old by now
            beat, silence = self._beats.of.get(name, ""), self._silent.get(name, 0.0)
            if beat != GIVEN_UP and silence < LIFETIME:
                continue  # it was heard of meanwhile, or has gone in order
            if beat != GIVEN_UP and connected is not _UNKNOWN and name not in connected:
                await self._rescue(name, "rescue", beat)
            elif beat == GIVEN_UP or silence >= self._lease:
                await self._rescue(name, "expired", beat)

    async def _connected(self) -> frozenset[str]:
        """Return the names that connections bear, less what each is for."""
        try:
            listed = await self._client.execute_command("CLIENT", "LIST")
        except ResponseError as error:
            if unavailable(error) is None or "permission" not in str(error).lower():
                raise
            return _UNKNOWN  # this user may not ask: a death is only told from a pause by the lease
        names = (field[5:] for field in _text(listed).split() if field.startswith("name="))
        return frozenset(name.partition(":")[0] for name in names)

    async def _rescue(self, consumer: str, mode: str, beat: str) -> None:
        for source in self._sources:
            removed = 0
            while not removed:
                reply = await self._call(source, consumer, mode, beat)
                if reply[0] < 0:
                    return  # it is alive after all
                what = "took over from a dead consumer" if mode == "rescue" else "took over from a silent consumer"
                self._report(what, source, consumer, reply)
                removed = reply[3]
        self._strangers.discard(consumer)
        await self._acquit(consumer)
        await self._client.hdel(self._keys.beats(self._group), consumer)

    async def _acquit(self, consumer: str) -> None:
        """Forget what a consumer that is gone ran alone: it may have settled that, and not have lived to say so."""
        await self._client.hdel(self._keys.quarantine(self._group), consumer)

    async def _sweep(self) -> None:
        """Look for consumers without a beat, and for entries that nobody holds."""
        strangers: set[str] = set()
        for source in self._sources:
            try:
                rows = await self._client.xinfo_consumers(source.key, self._group)
            except ResponseError as error:
                if not _no_group(error):
                    raise
                continue  # it is yet to be made: nobody holds anything of it
            strangers |= {row["name"].decode() for row in rows} - self._beats.of.keys()
            if any(row["pending"] for row in rows):
                reply = await self._call(source, "", "stale")
                self._report("entries that nobody held were handed back", source, "", reply)
        self._strangers = strangers
        if self._note is not None:
            await self._note()

    async def _call(
        self, source: Source, consumer: str, mode: str, beat: str = "", entry_ids: Sequence[str] = ()
    ) -> list[int]:
        reply: list[int] = await _rescue(
            self._client,
            [
                source.key,
                self._retries[source.stream],
                self._dlq,
                self._keys.beats(self._group),
                self._keys.quarantine(self._group),
            ],
            [
                self._group,
                consumer,
                mode,
                beat,
                _MOST_ENTRIES,
                _MOST_BYTES,
                MOST_DEATHS,
                _STALE_MS,
                source.stream,
                rfc3339(time.time()),
                *entry_ids,
            ],
        )
        return reply

    def _report(self, what: str, source: Source, consumer: str, reply: list[int]) -> None:
        moved, dead, gone, _ = reply
        if moved or dead or gone:
            _log.warning(what, stream=source.key, consumer=consumer, moved=moved, dead=dead, lost=gone)


_UNKNOWN: frozenset[str] = frozenset({""})


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _no_group(error: Exception) -> bool:
    return isinstance(error, ResponseError) and ("NOGROUP" in str(error) or "no such key" in str(error))
