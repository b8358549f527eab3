"""The state of the alert manager while an entry is worked on: what there was, and what of it has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Literal, Protocol, TypeVar

import msgspec

from penstock.mesh.alerts import AlertRecord, HistoryEntry, Silence
from penstock.schemas import Alert
from penstock_services.alerts.state.evaluation import AnyMemory, Arrivals
from penstock_services.alerts.state.lifecycle import Transition


class _OfRule(Protocol):
    @property
    def rule(self) -> str: ...


T = TypeVar("T")
R = TypeVar("R", bound=_OfRule)


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

    def __len__(self) -> int:
        return len(self._rows)


def of_rule(table: Table[R], rule: str) -> Iterator[tuple[str, R]]:
    """Yield the rows of one rule."""
    return ((key, row) for key, row in table.items() if row.rule == rule)


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What people have been told and must be told the end of: the alert as last sent, and who belongs to it.

    `members` are the fingerprints of the alerts it stands for; `sent` is when they were last told.
    """

    alert: Alert
    members: tuple[str, ...]
    sent: float


class Watermarks(msgspec.Struct, frozen=True, kw_only=True):
    """How far time has come: `now` is the latest time seen, `windows` the end of the last one evaluated by kind."""

    now: float = 0.0
    windows: dict[str, float] = msgspec.field(default_factory=dict)


class AlertState:
    """Everything the alert manager knows, and what it has to say."""

    def __init__(self) -> None:
        self.watermarks = Watermarks()
        self.alerts: Table[AlertRecord] = Table()
        self.memory: Table[AnyMemory] = Table()
        self.arrivals: Table[Arrivals] = Table()
        self.notices: Table[Notice] = Table()
        self.silences: Table[Silence] = Table()
        self.history: list[HistoryEntry] = []
        self.outbox: list[tuple[str, Alert]] = []
        """Events to publish: type and data."""

    def advance(self, now: float) -> float:
        """Let time come as far as `now`; it never goes back. Return how far it has come."""
        if now > self.watermarks.now:
            self.watermarks = msgspec.structs.replace(self.watermarks, now=now)
        return self.watermarks.now

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
    what: Literal["notified", "renotified", "notified resolved"], alert: Alert, at: float
) -> HistoryEntry:
    """Return the entry for something that people were told."""
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
