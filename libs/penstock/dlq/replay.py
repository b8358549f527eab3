"""Replaying many dead letters with care: at a rate, and a few first to see whether the cause is mended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Literal

import msgspec

from penstock.dlq.dead_letter import DeadLetter
from penstock.dlq.queue import DeadLetters, Replayed
from penstock.errors import UNREADABLE
from penstock.event import RETRY_ENTRY
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis

Fate = Literal["replayed", "done", "failed", "already", "unsettled"]
_POLL = 0.1


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one letter. Only canaries are waited for: `done`, `failed` or `unsettled` in time."""

    letter: DeadLetter
    fate: Fate
    trace_id: str | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How to replay. `rate` is in letters per second, None for as fast as it goes.

    The first `canaries` are waited for, each at most `patience` seconds. If one of them fails, or is not
    settled by then, and `stop_on_failure` is set, nothing more is replayed.
    """

    rate: float | None = None
    canaries: int = 0
    stop_on_failure: bool = False
    patience: float = 60.0


class Replayer:
    """Replays dead letters after a plan."""

    def __init__(self, client: AsyncRedis, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._letters = DeadLetters(client, keys)

    async def run(self, letters: Iterable[DeadLetter], plan: Plan, *, data: str | None = None) -> AsyncIterator[Result]:
        """Replay letters in the order given, with other `data` if that is given; yield what became of each."""
        begun = time.monotonic()
        for number, letter in enumerate(letters):
            if plan.rate:
                await asyncio.sleep(max(0.0, begun + number / plan.rate - time.monotonic()))
            replayed = await self._letters.replay(letter, data=data)
            if replayed is None:
                yield Result(letter=letter, fate="already")
                continue
            fate: Fate = "replayed"
            if number < plan.canaries:
                fate = await self._fate(letter, replayed, plan.patience)
            yield Result(letter=letter, fate=fate, trace_id=replayed.trace_id)
            if plan.stop_on_failure and fate in ("failed", "unsettled"):
                return

    async def _fate(self, letter: DeadLetter, replayed: Replayed, patience: float) -> Fate:
        """Wait until the group has settled the event."""
        retry = self._keys.retry(letter.stream, letter.group)
        until = time.monotonic() + patience
        while await self._client.xrange(retry, replayed.entry_id, replayed.entry_id):
            if time.monotonic() > until:
                return "unsettled"
            await asyncio.sleep(_POLL)
        again = await self._died_again(letter) or await self._waits_again(letter)
        return "failed" if again else "done"

    async def _died_again(self, letter: DeadLetter) -> bool:
        """Whether a newer letter is of the same entry: the settling commit wrote it, if it did."""
        async for newer in self._letters.newest(replayed=True):
            if newer.letter == letter.letter:
                return False
            if (newer.stream, newer.entry, newer.group) == (letter.stream, letter.entry, letter.group):
                return True
        return False

    async def _waits_again(self, letter: DeadLetter) -> bool:
        """Whether the group has parked the event for another attempt."""
        delayed = self._keys.delayed(letter.stream, letter.group)
        async for packed, _ in self._client.zscan_iter(delayed):
            fields = msgspec.msgpack.decode(packed, type=list[msgspec.Raw])
            texts = [_text(part) for part in fields]
            if (RETRY_ENTRY, letter.entry) in zip(texts[::2], texts[1::2], strict=True):
                return True
        return False


def _text(packed: msgspec.Raw) -> str | None:
    """Read a string that Lua packed; payloads may be bytes that are no text."""
    try:
        return msgspec.msgpack.decode(packed, type=str)
    except UNREADABLE:
        return None
