"""The state of the alert manager while an entry is worked on: what there was, and what of it has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from penstock.mesh.alerts import Acknowledgement, AlertRecord, HistoryEntry, Notice, Silence
from penstock.schemas import Alert, Watchdog
from penstock.times import rfc3339
from penstock_services.alerts.rules.change import RuleChange
from penstock_services.alerts.state.evaluation import AnyMemory, Arrivals
from penstock_services.alerts.state.lifecycle import Transition


class OfRule(Protocol):
    """What belongs to a rule."""

    @property
    def rule(self) -> str:
        """Name of the rule."""


_MINUTE = 60.0
_LONG_AFTER = 60.0  # seconds
T = TypeVar("T")
R = TypeVar("R", bound=OfRule)


class Table(Generic[T]):
    """A mapping that knows which of its keys have changed."""

    def __init__(self, rows: dict[str, T] | None = None) -> None:
        self._rows = dict(rows or {})
        self.changed: set[str] = set()

    def get(self, key: str) -> T | None:
        """Return a row, None if there is none."""
        return self._rows.get(key)

    def put(self, key: str, row: T) -> None:
        """Set a row."""
        if self._rows.get(key) != row:
            self._rows[key] = row
            self.changed.add(key)

    def drop(self, key: str) -> None:
        """Remove a row, if there is one."""
        if self._rows.pop(key, None) is not None:
            self.changed.add(key)

    def items(self) -> list[tuple[str, T]]:
        """Return all rows; they may be changed meanwhile."""
        return list(self._rows.items())

    def __iter__(self) -> Iterator[str]:
        """Yield all keys; rows may be changed meanwhile."""
        return iter(list(self._rows))

    def __len__(self) -> int:
        return len(self._rows)


def of_rule(table: Table[R], rule: str) -> Iterator[tuple[str, R]]:
    """Yield the rows of one rule."""
    return ((key, row) for key, row in table.items() if row.rule == rule)


class Watermarks(msgspec.Struct, frozen=True, kw_only=True):
    """How far time has come: `now` is the latest time seen, `windows` the end of the last one evaluated by kind.

    `alive` is when the last sign of life was given.
    """

    now: float = 0.0
    alive: float = 0.0
    windows: dict[str, float] = msgspec.field(default_factory=dict)


class AlertState:
    """Everything the alert manager knows, and what it has to say.

    `wall` is what a clock shows now, in seconds since the epoch; without it, it is as late as what is evaluated.
    """

    def __init__(self, wall: float | None = None) -> None:
        self.wall = wall
        self.watermarks = Watermarks()
        self.alerts: Table[AlertRecord] = Table()
        self.memory: Table[AnyMemory] = Table()
        self.arrivals: Table[Arrivals] = Table()
        self.notices: Table[Notice] = Table()
        self.silences: Table[Silence] = Table()
        self.acknowledgements: Table[Acknowledgement] = Table()
        self.history: list[HistoryEntry] = []
        self.outbox: list[tuple[str, Alert]] = []
        """Events to publish: type and data."""
        self.watchdog: Watchdog | None = None
        """The sign of life to publish, if one is due."""

    @property
    def clock(self) -> float:
        """What time it is: by the clock, or by what is evaluated."""
        return self.watermarks.now if self.wall is None else self.wall

    def record(self, entry: HistoryEntry) -> None:
        """Add to the history; what is found long after it happened says so."""
        late = self.clock - entry.time > _LONG_AFTER
        self.history.append(msgspec.structs.replace(entry, recorded=self.clock) if late else entry)

    def advance(self, now: float) -> float:
        """Let time come as far as `now`; it never goes back. Return how far it has come."""
        if now > self.watermarks.now:
            self.watermarks = msgspec.structs.replace(self.watermarks, now=now)
        return self.watermarks.now

    def is_alive(self) -> None:
        """Give a sign of life, once a minute at most."""
        now = self.watermarks.now
        if now // _MINUTE > self.watermarks.alive // _MINUTE:
            self.watermarks = msgspec.structs.replace(self.watermarks, alive=now)
            self.watchdog = Watchdog(time=rfc3339(now))

    def evaluated(self, window: str, end: float) -> None:
        """Note that the window of that scope and length that ends at `end` has been evaluated."""
        windows = {**self.watermarks.windows, window: end}
        self.watermarks = msgspec.structs.replace(self.watermarks, windows=windows)


def of_transition(record: AlertRecord, transition: Transition, at: float) -> HistoryEntry:
    """Return the entry for an alert that came into a state."""
    return HistoryEntry(
        time=at,
        what=transition.after,
        fingerprint=record.fingerprint,
        rule=record.rule,
        severity=record.severity,
        labels=record.labels,
        why=transition.why,
        value=record.value,
    )


def of_notification(
    what: Literal["notified", "renotified", "notified resolved", "acknowledged", "unacknowledged"],
    alert: Alert,
    at: float,
) -> HistoryEntry:
    """Return the entry for something that people were notified of."""
    return HistoryEntry(
        time=at,
        what=what,
        fingerprint=alert.fingerprint,
        rule=alert.rule,
        severity=alert.severity,
        labels=alert.labels,
        why=alert.reason,
        value=alert.value,
    )


def of_rule_change(change: RuleChange, by: str, at: float) -> HistoryEntry:
    """Return the entry for a rule that somebody changed."""
    rule = change.rule
    return HistoryEntry(
        time=at, what=change.what, fingerprint="", rule=rule.name, severity=rule.severity, why=f"{change.why}; by {by}"
    )
