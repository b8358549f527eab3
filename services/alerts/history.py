"""The history: every transition and everything that was told, with the reason in words."""

from __future__ import annotations

from typing import Literal

from penstock.schemas import Alert
from penstock.service.alerts import AlertRecord, HistoryEntry
from services.alerts.machine import Transition


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


def of_telling(what: Literal["told", "told again", "told resolved"], alert: Alert, at: float) -> HistoryEntry:
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
