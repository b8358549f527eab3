"""Telling: which of the alerts that fire people are told of, once, again, and when it is over.

What is told is a group of alerts (`group_by`), by default each alone. A group that was told is told as resolved
when none of its alerts fires any more, whatever was silenced meanwhile: a resolve always arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from penstock.mesh.alerts import AlertRecord
from penstock_services.alerts.notify.compose import alert_of, group_of, resolved
from penstock_services.alerts.notify.suppression import held_back
from penstock_services.alerts.rules.model import Rule, Rules
from penstock_services.alerts.state.state import Book, Notice, of_telling

TRIGGERED, REPEATED, RESOLVED = "alert.triggered", "alert.repeated", "alert.resolved"
_GROUP_INTERVAL = 300.0  # seconds until people are told again because more joined


def announce(rules: Rules, book: Book, now: float) -> None:
    """Put into the outbox what people are to be told at `now`."""
    firing = [record for _, record in book.alerts.items() if record.state == "firing"]
    held = held_back(firing, [silence for _, silence in book.silences.items()], rules.inhibit, now)
    _mark(book, held)
    groups = _grouped(rules, firing)
    for key, notice in sorted(book.notices.items(), key=lambda row: (row[1].alert.rule, *row[1].alert.labels.values())):
        if key not in groups:
            _end(book, key, notice, now)
    for key, members in groups.items():
        told = [record for record in members if record.fingerprint not in held]
        if told:
            _tell(rules.rules[told[0].rule], book, key, told, now)


def _mark(book: Book, held: Mapping[str, str]) -> None:
    for key, record in book.alerts.items():
        if record.held != held.get(key):
            book.alerts.put(key, msgspec.structs.replace(record, held=held.get(key)))


def _grouped(rules: Rules, firing: Sequence[AlertRecord]) -> dict[str, list[AlertRecord]]:
    """Return the alerts that fire by the fingerprint of their group, the longest firing first."""
    groups: dict[str, list[AlertRecord]] = {}
    for record in sorted(firing, key=lambda one: (one.fired or 0.0, one.rule, *one.labels.values())):
        groups.setdefault(group_of(rules.rules[record.rule], record), []).append(record)
    return groups


def _tell(rule: Rule, book: Book, key: str, members: Sequence[AlertRecord], now: float) -> None:
    notice = book.notices.get(key)
    names = {record.fingerprint for record in members}
    if notice is not None:
        joined = bool(names.difference(notice.members))
        if now - notice.sent < (_GROUP_INTERVAL if joined else rule.repeat):
            return
        names.update(notice.members)
    alert = alert_of(rule, key, members)
    book.outbox.append((TRIGGERED if notice is None else REPEATED, alert))
    book.notices.put(key, Notice(alert=alert, members=tuple(sorted(names)), sent=now))
    book.history.append(of_telling("told" if notice is None else "told again", alert, now))


def _end(book: Book, key: str, notice: Notice, now: float) -> None:
    alert = resolved(notice, [book.alerts.get(member) for member in notice.members], now)
    book.outbox.append((RESOLVED, alert))
    book.notices.drop(key)
    book.history.append(of_telling("told resolved", alert, now))
