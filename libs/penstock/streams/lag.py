"""How many entries of a stream a group has yet to be given: counted, not asked for.

Redis's own figure is wrong for good once a server of version 7.0 has been restarted from its AOF, and once an entry has
been deleted from the middle of a stream.
"""

from __future__ import annotations

from typing import Any

from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.times import entry_ms

_count = Script("penstock.streams", "lag", read_only=True)
_PAGE = 500  # entries counted in one call
_COUNTED = 5_000


async def count_lag(client: AsyncRedis, key: str, group: dict[str, Any]) -> int:
    """Return how many entries come after the last that was delivered; `group` is its row of XINFO GROUPS.

    That is exact where fewer than 5,000 come after it or before it. In the midst of a longer stream it is the larger
    of what the server says and what the times of the entries suggest.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    last = group["last-delivered-id"].decode()
    after = await _entries(client, key, f"({last}", "+")
    if after < _COUNTED:
        return after
    before = await _entries(client, key, "-", last)
    stream = await client.xinfo_stream(key)
    length = int(stream["length"])
    if before < _COUNTED:
        return max(after, length - before)
    oldest, newest = (entry_ms(stream[end][0]) for end in ("first-entry", "last-entry"))
    share = (newest - entry_ms(last)) / max(1, newest - oldest)
    return min(max(group["lag"] or 0, round(length * share), after), length - before)


async def _entries(client: AsyncRedis, key: str, first: str, last: str) -> int:
    """Count the entries of a range, at most `_COUNTED` of them."""
    total = 0
    while total < _COUNTED:
        count, end = await _count(client, [key], [first, last, _PAGE])
        total += int(count)
        if count < _PAGE:
            break
        first = f"({end.decode()}"
    return total
