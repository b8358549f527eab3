"""The state in Redis: read before an entry is worked on, written in the commit that settles the entry.

Every commit changes `version`, and takes effect only if that is still the one that was read: of two replicas that
worked from the same state one is refused and works again from the new one.
"""

from __future__ import annotations

import os
import time
from typing import Any, TypeVar

import msgspec

from penstock import BatchContext
from penstock.mesh.alerts import ALERTS, HISTORY, MOST_HISTORY, SILENCES, AlertRecord, Silence
from penstock_services.alerts.state.evaluation import AnyMemory, Arrivals
from penstock_services.alerts.state.state import AlertState, Notice, Table, Watermarks

T = TypeVar("T")
_META, _MEMORY, _ARRIVALS, _NOTICES = "meta", "memory", "arrivals", "notices"
_FIRST_LOOK_BACK = 600.0  # seconds: what is usual is known at once, and old trouble is not told
_MOST_PAIRS = 1_000  # fields of one HSET


class StatePosition(msgspec.Struct, frozen=True):
    """What everything else must be read under: the version of the state and the place in `metrics`."""

    version: str | None
    cursor: str


class StateStore:
    """Reads and writes the state of one handler call."""

    def __init__(self, ctx: BatchContext) -> None:
        self._redis = ctx.redis
        self._state = ctx.state

    async def position(self) -> StatePosition:
        """Read the position: before anything else, so that what changes later is noticed."""
        version, cursor = await self._redis.hmget(self._state.key(_META), "version", "cursor")
        first = f"{max(0, round((time.time() - _FIRST_LOOK_BACK) * 1000))}-0"
        return StatePosition(version.decode() if version else None, cursor.decode() if cursor else first)

    async def load(self, *, memory: bool) -> AlertState:
        """Read the state; without `memory` leave out what only windows need."""
        state = AlertState()
        watermarks = await self._redis.hget(self._state.key(_META), "watermarks")
        state.watermarks = msgspec.json.decode(watermarks, type=Watermarks) if watermarks else Watermarks()
        state.alerts = await self._table(ALERTS, AlertRecord)
        state.arrivals = await self._table(_ARRIVALS, Arrivals)
        state.notices = await self._table(_NOTICES, Notice)
        state.silences = await self._table(SILENCES, Silence)
        if memory:
            state.memory = await self._table(_MEMORY, AnyMemory)
        return state

    def save(self, state: AlertState, position: StatePosition, *, cursor: str | None = None) -> None:
        """Write what has changed, if nobody has changed anything since `position` was read."""
        self._state.expect(_META, "version", position.version)
        self._write(ALERTS, state.alerts)
        self._write(_ARRIVALS, state.arrivals)
        self._write(_NOTICES, state.notices)
        self._write(SILENCES, state.silences)
        self._write(_MEMORY, state.memory)
        history = [msgspec.json.encode(entry).decode() for entry in state.history[-MOST_HISTORY:]]
        self._state.push(HISTORY, *history, most=MOST_HISTORY)
        watermarks = msgspec.json.encode(state.watermarks).decode()
        self._state.hset(
            _META, {"version": os.urandom(8).hex(), "watermarks": watermarks, "cursor": cursor or position.cursor}
        )

    async def _table(self, name: str, kind: Any) -> Table[Any]:
        rows = await self._redis.hgetall(self._state.key(name))
        decoder = msgspec.json.Decoder(kind)
        return Table({key.decode(): decoder.decode(row) for key, row in rows.items()})

    def _write(self, name: str, table: Table[Any]) -> None:
        rows: dict[str, str | float] = {}
        gone = []
        for key in sorted(table.changed):
            row = table.get(key)
            if row is None:
                gone.append(key)
            else:
                rows[key] = msgspec.json.encode(row).decode()
        pairs = list(rows.items())
        for at in range(0, len(pairs), _MOST_PAIRS):
            self._state.hset(name, dict(pairs[at : at + _MOST_PAIRS]))
        for at in range(0, len(gone), _MOST_PAIRS):
            self._state.hdel(name, *gone[at : at + _MOST_PAIRS])
