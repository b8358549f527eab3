"""The dead letter queue: what no attempt could save, with its reason, until somebody decides."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import msgspec

from penstock.dlq.dead_letter import DeadLetter, decode
from penstock.event import identity
from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.times import entry_id_at, entry_ms, entry_order, rfc3339
from penstock.trace_context import TraceContext

_replay = Script("penstock.dlq", "replay")
_PAGE = 500
_SMALL_PAGE = 50


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
                found = decode(letter, fields, marks.get(letter.decode()))
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
        return decode(rows[0][0], rows[0][1], mark.decode() if mark else None)

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
                *(letter.source, identity(letter.stream, letter.entry)),
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
                pipeline.delete(*(self._keys.checkpoint(letter.group, letter.unique_id) for letter in page))
                removed += (await pipeline.execute())[0]
        return removed

    async def trim(self, *, days: float, entries: int) -> int:
        """Drop what is older than `days`, or beyond the newest `entries`; return how many went."""
        oldest = entry_id_at(time.time() - days * 86_400)
        aged = await self._client.xtrim(self._key, minid=oldest, approximate=False)
        excess = await self._client.xtrim(self._key, maxlen=entries, approximate=False)
        if aged + excess:
            await self._forget_marks()
        return int(aged + excess)

    async def keep_checkpoints(self, since: str, *, days: float) -> str:
        """Have the checkpoints of the letters after `since` live as long as those; return the last one looked at.

        Whoever buried them: a commit, or the rescuer, which knows nothing of steps.
        """
        while rows := await self._client.xrange(self._key, f"({since}", count=_SMALL_PAGE):
            letters = [decode(letter, fields, None) for letter, fields in rows]
            async with self._client.pipeline(transaction=False) as pipeline:
                for letter in letters:
                    end = round(entry_ms(letter.letter) / 1000 + days * 86_400)
                    pipeline.expireat(self._keys.checkpoint(letter.group, letter.unique_id), end, gt=True)
                await pipeline.execute()
            since = letters[-1].letter
        return since

    async def _forget_marks(self) -> None:
        first = await self._client.xrange(self._key, count=1)
        keep = entry_order(first[0][0]) if first else None
        marks = await self._client.hkeys(self._keys.replayed)
        stale = [mark for mark in marks if keep is None or entry_order(mark) < keep]
        if stale:
            await self._client.hdel(self._keys.replayed, *stale)
