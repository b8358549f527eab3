"""The dead letter queue: what no attempt could save, with its reason, until somebody decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import structlog

from penstock.event import encode, encode_data, identity, rfc3339
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script
from penstock.schemas import LettersDropped
from penstock.topology import DEAD_LETTERS
from penstock.trace_context import TraceContext

_replay = Script("penstock.resilience", "replay")
_PAGE = 500
_TICK = 5.0
_log = structlog.get_logger("penstock.dlq")


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: the event, which group gave up on it, and why.

    `letter` is its id in the queue. `entry` is the id it had in `stream`. `replayed` is when it was given
    back to its group, None if it was not. `traceparent` is the span of the run that failed.
    """

    letter: str
    event_id: str
    type: str
    stream: str
    group: str
    entry: str
    reason: str
    error: str
    attempts: int
    time: str
    fingerprint: str
    traceback: str = ""
    traceparent: str = ""
    replayed: str | None = None
    event: dict[str, str] = {}


class Replayed(msgspec.Struct, frozen=True):
    """Where a replayed event lies, in the retry stream of its group, and the trace it is in now."""

    entry_id: str
    trace_id: str


class DeadLetters:
    """Reads and works the dead letter queue of a mesh."""

    def __init__(self, client: AsyncRedis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._key = keys.stream(DEAD_LETTERS)

    async def newest(self, *, limit: int | None = None, replayed: bool = False) -> AsyncIterator[DeadLetter]:
        """Yield dead letters, the newest first; those that were replayed only if asked for."""
        marks = {
            letter.decode(): when.decode() for letter, when in (await self._client.hgetall(self._keys.replayed)).items()
        }
        last = "+"
        given = 0
        while rows := await self._client.xrevrange(self._key, last, "-", count=_PAGE):
            for letter, fields in rows:
                found = _decode(letter, fields, marks.get(letter.decode()))
                if found.replayed and not replayed:
                    continue
                yield found
                given += 1
                if limit is not None and given >= limit:
                    return
            last = f"({rows[-1][0].decode()}"

    async def get(self, letter: str) -> DeadLetter | None:
        """Return one dead letter, or None if there is none of that id."""
        rows = await self._client.xrange(self._key, letter, letter)
        if not rows:
            return None
        mark = await self._client.hget(self._keys.replayed, letter)
        return _decode(rows[0][0], rows[0][1], mark.decode() if mark else None)

    async def replay(self, letter: DeadLetter, *, data: str | None = None) -> Replayed | None:
        """Give the event back to the group that failed it, in a new trace that links to the old one.

        With `data`, JSON text, the event has that in place of its own. Returns where it lies now, or None if
        the letter was replayed before or is gone.
        """
        trace = TraceContext.new().child().keep()  # somebody wants to know how it goes this time
        queued = msgspec.json.encode({"state": "queued", "type": letter.type, "attempts": 0})
        entry = await _replay(
            self._client,
            [
                self._key,
                self._keys.replayed,
                self._keys.retry(letter.stream, letter.group),
                self._keys.job(letter.event_id),
            ],
            [
                *(letter.letter, rfc3339(time.time()), queued, trace.traceparent, letter.traceparent),
                *(() if data is None else (data,)),
            ],
        )
        return Replayed(entry.decode(), trace.trace_id) if entry else None

    async def purge(self, letters: list[DeadLetter]) -> int:
        """Delete dead letters and the checkpoints they kept; return how many were there."""
        removed = 0
        for at in range(0, len(letters), _PAGE):
            page = letters[at : at + _PAGE]
            ids = [letter.letter for letter in page]
            async with self._client.pipeline(transaction=False) as pipeline:
                pipeline.xdel(self._key, *ids)
                pipeline.hdel(self._keys.replayed, *ids)
                pipeline.delete(*(self._keys.checkpoint(letter.group, letter.event_id) for letter in page))
                removed += (await pipeline.execute())[0]
        return removed

    async def trim(self, *, days: float, entries: int) -> int:
        """Drop what is older than `days`, or beyond the newest `entries`; return how many went."""
        oldest = f"{max(0, round((time.time() - days * 86_400) * 1000))}-0"
        aged = await self._client.xtrim(self._key, minid=oldest, approximate=False)
        excess = await self._client.xtrim(self._key, maxlen=entries, approximate=False)
        if aged + excess:
            await self._forget_marks()
        return int(aged + excess)

    async def _forget_marks(self) -> None:
        first = await self._client.xrange(self._key, count=1)
        keep = _number(first[0][0]) if first else None
        marks = await self._client.hkeys(self._keys.replayed)
        stale = [mark for mark in marks if keep is None or _number(mark) < keep]
        if stale:
            await self._client.hdel(self._keys.replayed, *stale)


class DeadLetterRetention:
    """Keeps the dead letter queue within its bounds. For each tick one process of the mesh does the work."""

    def __init__(self, client: AsyncRedis, keys: Keys, *, days: float, entries: int, events: str | None = None) -> None:
        """Tell of dropped letters on the stream of key `events`, if given, so that a rule can raise an alert."""
        self._client = client
        self._events = events
        self._letters = DeadLetters(client, keys)
        self._lock = keys.lock("retention:dlq")
        self._days = days
        self._entries = entries

    async def run(self) -> None:
        """Trim every few seconds until cancelled."""
        while True:
            await asyncio.sleep(_TICK)
            try:
                await self.tick()
            except Exception as error:
                if unavailable(error) is None:
                    raise

    async def tick(self) -> None:
        """Trim, unless another process does so just now."""
        if await self._client.set(self._lock, "1", nx=True, px=round(_TICK * 900)):
            dropped = await self._letters.trim(days=self._days, entries=self._entries)
            if dropped:
                await self._tell(dropped)

    async def _tell(self, count: int) -> None:
        _log.warning("dead letters dropped: beyond DLQ_RETENTION_DAYS or DLQ_MAX_ENTRIES", count=count)
        if self._events is not None:
            fields = encode("dlq.dropped", encode_data(LettersDropped(count=count)), source="penstock")
            await self._client.execute_command("XADD", self._events, "*", *fields)


def _number(letter: bytes) -> tuple[int, int]:
    ms, _, sequence = letter.decode().partition("-")
    return int(ms), int(sequence)


def _decode(letter: bytes, fields: dict[bytes, bytes], replayed: str | None) -> DeadLetter:
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    stream, entry = text.get("dlq.stream", ""), text.get("dlq.entry", "")
    attempts = text.get("dlq.attempts", "")
    return DeadLetter(
        letter=letter.decode(),
        event_id=text.get("id") or identity(stream, entry),
        type=text.get("type", ""),
        stream=stream,
        group=text.get("dlq.group", ""),
        entry=entry,
        reason=text.get("dlq.reason", ""),
        error=text.get("dlq.error", ""),
        attempts=int(attempts) if attempts.isdecimal() else 0,
        time=text.get("dlq.time", ""),
        fingerprint=text.get("dlq.fingerprint", ""),
        traceback=text.get("dlq.traceback", ""),
        traceparent=text.get("dlq.traceparent", ""),
        replayed=replayed,
        event={
            name: value for name, value in text.items() if not name.startswith(("dlq.", "retry.")) and name != "attempt"
        },
    )
