"""Grouping: which of the alerts that fire people are notified of, once, again, and when it is over.

What is told is a group of alerts (`group_by`), by default each alone. A group that was told is told as resolved
when none of its alerts fires any more, whatever was silenced meanwhile: a resolve always arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from penstock.mesh.alerts import AlertRecord
from penstock_services.alerts.notify.compose import alert_of, group_of, resolved
from penstock_services.alerts.notify.suppression import suppressed
from penstock_services.alerts.rules.model import Rule, Rules
from penstock_services.alerts.state.state import AlertState, Notice, of_notification

TRIGGERED, REPEATED, RESOLVED = "alert.triggered", "alert.repeated", "alert.resolved"
_GROUP_INTERVAL = 300.0  # seconds until people are renotified because others joined


def notify(rules: Rules, state: AlertState, now: float) -> None:
    """Put into the outbox what people are to be told at `now`."""
    firing = [record for _, record in state.alerts.items() if record.state == "firing"]
    why = suppressed(firing, [silence for _, silence in state.silences.items()], rules.inhibit, now)
    _mark(state, why)
    groups = _grouped(rules, firing)
    for key, notice in sorted(
        state.notices.items(), key=lambda row: (row[1].alert.rule, *row[1].alert.labels.values())
    ):
        if key not in groups:
            _end(state, key, notice, now)
    for key, members in groups.items():
        audible = [record for record in members if record.fingerprint not in why]
        if audible:
            _notify_of(rules.rules[audible[0].rule], state, key, audible, now)


def _mark(state: AlertState, why: Mapping[str, str]) -> None:
    for key, record in state.alerts.items():
        if record.suppressed != why.get(key):
            state.alerts.put(key, msgspec.structs.replace(record, suppressed=why.get(key)))


def _grouped(rules: Rules, firing: Sequence[AlertRecord]) -> dict[str, list[AlertRecord]]:
    """Return the alerts that fire by the fingerprint of their group, the longest firing first."""
    groups: dict[str, list[AlertRecord]] = {}
    for record in sorted(firing, key=lambda one: (one.fired or 0.0, one.rule, *one.labels.values())):
        groups.setdefault(group_of(rules.rules[record.rule], record), []).append(record)
    return groups


def _notify_of(rule: Rule, state: AlertState, key: str, members: Sequence[AlertRecord], now: float) -> None:
    notice = state.notices.get(key)
    names = {record.fingerprint for record in members}
    if notice is not None:
        joined = bool(names.difference(notice.members))
        if now - notice.sent < (_GROUP_INTERVAL if joined else rule.repeat):
            return
        names.update(notice.members)
    alert = alert_of(rule, key, members)
    state.outbox.append((TRIGGERED if notice is None else REPEATED, alert))
    state.notices.put(key, Notice(alert=alert, members=tuple(sorted(names)), sent=now))
    state.history.append(of_notification("notified" if notice is None else "renotified", alert, now))


def _end(state: AlertState, key: str, notice: Notice, now: float) -> None:
    alert = resolved(notice, [state.alerts.get(member) for member in notice.members], now)
    state.outbox.append((RESOLVED, alert))
    state.notices.drop(key)
    state.history.append(of_notification("notified resolved", alert, now))
