"""How many entries of a stream a group has yet to be given: counted, not asked for.

Redis's own figure is wrong for good once a server of version 7.0 has been restarted from its AOF, and missing once an
entry has been deleted that nobody had read.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.times import entry_order

_count = Script("penstock.streams", "lag", read_only=True)
_PAGE = 500  # entries counted in one call
_BYTES = 2_000_000  # bounds how long one call holds Redis
_AGAIN = 20  # pages counted again by each look, in turn


class _Page(NamedTuple):
    """Entries up to and with `last` (an id), from the page before on."""

    last: str
    entries: int


class LagCounter:
    """Counts, and remembers what it has counted: each look at a stream counts what has come since the one before.

    A look is exact, but for what was deleted meanwhile from amid the unread: of that, a look notices what is among the
    10,000 entries that it counts again, the next look sees to the next 10,000. What was trimmed it notices at once.
    """

    def __init__(self, client: AsyncRedis, *, most: int | None = None) -> None:
        """With `most`, a look counts about as many entries, and says at least how many there are until it has all."""
        self._client = client
        self._most = most
        self._streams: dict[str, _Counted] = {}
        self._one_at_a_time = asyncio.Lock()

    async def count(self, key: str, positions: Iterable[bytes]) -> dict[bytes, int]:
        """Return how many entries of the stream come after each of these ids, the last that groups were given.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        order = sorted(set(positions), key=entry_order)
        if not order:
            return {}
        counted = self._streams.setdefault(key, _Counted(self._client, key))
        async with self._one_at_a_time:
            await counted.look(order[0].decode(), self._most)
            return {position: await counted.after(position.decode()) for position in order}


class _Counted:
    """One stream from a position on, in pages that follow each other."""

    def __init__(self, client: AsyncRedis, key: str) -> None:
        self._client = client
        self._key = key
        self._start = ""
        self._pages: list[_Page] = []
        self._turn = 0

    async def look(self, start: str, most: int | None) -> None:
        """Count what has come, some of what is known, and what is left of the beginning."""
        if not self._start or entry_order(start) < entry_order(self._start):
            self._pages.clear()  # somebody is further behind
        self._start = start
        if self._pages and self._pages[-1].entries < _PAGE:
            del self._pages[-1]  # it may be continued
        while self._pages and entry_order(self._pages[0].last) <= entry_order(start):
            del self._pages[0]
        while self._pages and not (left := await self._between(start, self._pages[0].last)):
            del self._pages[0]  # trimmed
        if self._pages:
            self._pages[0] = _Page(self._pages[0].last, left)
        await self._count_again()
        await self._go_on(most)

    async def after(self, position: str) -> int:
        """Return how much comes after a position that does not lie before the start."""
        at = bisect_right(self._pages, entry_order(position), key=lambda page: entry_order(page.last))
        if at == len(self._pages):
            return 0
        later = sum(page.entries for page in self._pages[at + 1 :])
        if position == self._start:  # then that page has just been counted from there
            return later + self._pages[at].entries
        return later + await self._between(position, self._pages[at].last)

    async def _count_again(self) -> None:
        for _ in range(min(_AGAIN, len(self._pages))):
            self._turn = (self._turn + 1) % len(self._pages)
            begin = self._pages[self._turn - 1].last if self._turn else self._start
            last = self._pages[self._turn].last
            self._pages[self._turn] = _Page(last, await self._between(begin, last))

    async def _go_on(self, most: int | None) -> None:
        counted, is_all = 0, False
        while not is_all and (most is None or counted < most):
            begin = self._pages[-1].last if self._pages else self._start
            entries, last, is_all = await self._page(begin, "+")
            if entries:
                self._pages.append(_Page(last, entries))
            counted += entries

    async def _between(self, begin: str, last: str) -> int:
        """Count the entries after `begin` up to `last`."""
        total, is_all = 0, False
        while not is_all:
            entries, begin, is_all = await self._page(begin, last)
            total += entries
        return total

    async def _page(self, begin: str, last: str) -> tuple[int, str, bool]:
        """Count a page after `begin`: return how many, the last of them, and whether there are none beyond."""
        entries, end, is_all = await _count(self._client, [self._key], [f"({begin}", last, _PAGE, _BYTES])
        return int(entries), end.decode(), bool(is_all)
