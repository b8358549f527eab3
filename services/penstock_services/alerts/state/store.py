"""The state in Redis: read before an entry is worked on, written in the commit that settles the entry.

Every commit changes `version`, and takes effect only if that is still the one that was read: of two replicas that
worked from the same state one is refused and works again from the new one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from penstock import BatchContext
from penstock.mesh.alerts import (
    ACKNOWLEDGEMENTS,
    ALERTS,
    HISTORY,
    MOST_HISTORY,
    NOTICES,
    SILENCES,
    Acknowledgement,
    AlertRecord,
    Notice,
    RulesGiven,
    Silence,
)
from penstock.redis.connection import AsyncRedis
from penstock_services.alerts.state.evaluation import AnyMemory, Arrivals
from penstock_services.alerts.state.state import AlertState, Table, Watermarks

T = TypeVar("T")
_META, _MEMORY, _ARRIVALS = "meta", "memory", "arrivals"
_RULES_IN_FORCE = "rules_in_force"
_FIRST_LOOK_BACK = 600.0  # seconds: what is usual is known at once, and old trouble is not told
_MOST_PAIRS = 1_000  # fields of one HSET


class StatePosition(msgspec.Struct, frozen=True):
    """What everything else must be read under: the version of the state and the place in `metrics`.

    `rules` names the rules that the state follows from; None before there was one.
    """

    version: str | None
    cursor: str
    rules: str | None


def name_of(rules: RulesGiven) -> str:
    """Return what tells these rules from others."""
    return hashlib.blake2b(rules.text.encode(), digest_size=8).hexdigest()


class StateReader:
    """Reads the state; `key` gives the full name of one of its keys."""

    def __init__(self, client: AsyncRedis, key: Callable[[str], str]) -> None:
        self._redis = client
        self._key = key

    async def position(self) -> StatePosition:
        """Read the position: before anything else, so that what changes later is noticed."""
        version, cursor, rules = await self._redis.hmget(self._key(_META), "version", "cursor", "rules")
        first = f"{max(0, round((time.time() - _FIRST_LOOK_BACK) * 1000))}-0"
        return StatePosition(
            version=version.decode() if version else None,
            cursor=cursor.decode() if cursor else first,
            rules=rules.decode() if rules else None,
        )

    async def load(self, *, memory: bool) -> AlertState:
        """Read the state; without `memory` leave out what only windows need."""
        state = AlertState(time.time())
        watermarks = await self._redis.hget(self._key(_META), "watermarks")
        state.watermarks = msgspec.json.decode(watermarks, type=Watermarks) if watermarks else Watermarks()
        state.alerts = await self._table(ALERTS, AlertRecord)
        state.arrivals = await self._table(_ARRIVALS, Arrivals)
        state.notices = await self._table(NOTICES, Notice)
        state.silences = await self._table(SILENCES, Silence)
        state.acknowledgements = await self._table(ACKNOWLEDGEMENTS, Acknowledgement)
        if memory:
            state.memory = await self._table(_MEMORY, AnyMemory)
        return state

    async def rules_in_force(self) -> RulesGiven | None:
        """Return the rules that the state follows from."""
        raw = await self._redis.get(self._key(_RULES_IN_FORCE))
        return msgspec.json.decode(raw, type=RulesGiven) if raw else None

    async def _table(self, name: str, kind: Any) -> Table[Any]:
        rows = await self._redis.hgetall(self._key(name))
        decoder = msgspec.json.Decoder(kind)
        return Table({key.decode(): decoder.decode(row) for key, row in rows.items()})


class StateStore(StateReader):
    """Reads and writes the state of one handler call."""

    def __init__(self, ctx: BatchContext) -> None:
        super().__init__(ctx.redis, ctx.state.key)
        self._state = ctx.state

    def save(
        self,
        state: AlertState,
        position: StatePosition,
        *,
        cursor: str | None = None,
        rules: RulesGiven | None = None,
    ) -> None:
        """Write what has changed, if nobody has changed anything since `position` was read.

        `rules` are those that the state follows from now, if others were given.
        """
        self._state.expect(_META, "version", position.version)
        self._write(ALERTS, state.alerts)
        self._write(_ARRIVALS, state.arrivals)
        self._write(NOTICES, state.notices)
        self._write(SILENCES, state.silences)
        self._write(ACKNOWLEDGEMENTS, state.acknowledgements)
        self._write(_MEMORY, state.memory)
        history = [msgspec.json.encode(entry).decode() for entry in state.history[-MOST_HISTORY:]]
        self._state.push(HISTORY, *history, most=MOST_HISTORY)
        watermarks = msgspec.json.encode(state.watermarks).decode()
        meta = {"version": os.urandom(8).hex(), "watermarks": watermarks, "cursor": cursor or position.cursor}
        if rules is not None:
            self._state.set(_RULES_IN_FORCE, msgspec.json.encode(rules).decode())
            meta["rules"] = name_of(rules)
        self._state.hset(_META, dict(meta))

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
