"""Rows: events as publish.lua takes them, and what it answers of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from penstock.redis.scripts import Script

publish: Final = Script("penstock.streams", "publish")
MOST_VALUES: Final = 6000
"""Names and values of fields that an entry may have at most."""
SEEN, CONFLICT, BEFORE, KEPT = 1, 2, 3, 4
"""Outcomes: its key was seen before; with another payload; its sequence number was passed before, and where it lies is
not known any more; and, which no script answers, it was kept in the spool."""


class Row(msgspec.Struct):
    """An event to publish: its key, fields and delay, and what it must not have been seen under.

    `due` is when it is due by our own clock, in ms since the epoch; 0: at once.
    """

    key: str
    fields: list[str]
    delay_ms: int
    guards: list[tuple[str, int, str]]
    due: int = 0


def pack(rows: Iterable[Row]) -> tuple[list[str], bytes]:
    """Return every key of a batch, and the batch as publish.lua reads it."""
    flat: list[Any] = []
    keys: dict[str, None] = {}
    for row in rows:
        keys[row.key] = None
        flat += (row.key, row.delay_ms, len(row.fields))
        flat += row.fields
        flat.append(len(row.guards))
        for guard in row.guards:
            keys[guard[0]] = None
            flat += guard
    return list(keys), msgspec.msgpack.encode(flat)
