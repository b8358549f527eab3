"""Grouping: which of the alerts that fire people are notified of, once, again, and when it is over.

What they are notified of is a group of alerts (`group_by`), by default each alone. A group they know of is resolved
when none of its alerts fires any more, whatever was suppressed meanwhile: a resolve always arrives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from penstock.mesh.alerts import Acknowledgement, AlertRecord, Notice
from penstock.schemas import Alert
from penstock.times import rfc3339
from penstock_services.alerts.notify.compose import alert_of, group_of, resolved
from penstock_services.alerts.notify.suppression import suppressed
from penstock_services.alerts.rules.model import Rule, Rules
from penstock_services.alerts.state.state import AlertState, of_notification

TRIGGERED, REPEATED, RESOLVED = "alert.triggered", "alert.repeated", "alert.resolved"
ACKNOWLEDGED, UNACKNOWLEDGED = "alert.acknowledged", "alert.unacknowledged"
_GROUP_INTERVAL = 300.0  # seconds until people are renotified because others joined
_Groups = Mapping[str, Sequence[AlertRecord]]


def notify(rules: Rules, state: AlertState, now: float) -> None:
    """Put into the outbox what people are to be notified of at `now`."""
    firing = [record for _, record in state.alerts.items() if record.state == "firing"]
    why = suppressed(firing, [silence for _, silence in state.silences.items()], rules.inhibit, now)
    groups = _grouped(rules, firing)
    said = _said(state, groups)
    notices = sorted(state.notices.items(), key=lambda row: (row[1].alert.rule, *row[1].alert.labels.values()))
    for key, notice in notices:
        if key not in groups:
            _end(state, key, notice, now)
    for key, members in groups.items():
        audible = [record for record in members if record.fingerprint not in why]
        _forget_members_that_ended(state, key, members)
        if audible:
            _notify_of(rules.rules[audible[0].rule], state, key, audible, acknowledged=key in said, now=now)
        if key in said:
            _acknowledge(state, key, said[key], now)
    _mark(state, groups, why)


def _grouped(rules: Rules, firing: Sequence[AlertRecord]) -> dict[str, list[AlertRecord]]:
    """Return the alerts that fire by the fingerprint of their group, the longest firing first."""
    groups: dict[str, list[AlertRecord]] = {}
    for record in sorted(firing, key=lambda one: (one.fired or 0.0, one.rule, *one.labels.values())):
        groups.setdefault(group_of(rules.rules[record.rule], record), []).append(record)
    return groups


def _said(state: AlertState, groups: _Groups) -> dict[str, Acknowledgement]:
    """Return who takes on which group, from now on; forget what is said of alerts that do not fire, or so no more."""
    found: dict[str, Acknowledgement] = {}
    for key, members in groups.items():
        notice = state.notices.get(key)
        if notice and notice.alert.severity != members[0].severity:
            continue  # what was taken on was something else
        for fingerprint in (key, *(record.fingerprint for record in members)):
            if said := state.acknowledgements.get(fingerprint):
                found.setdefault(key, said)
    kept = {said.fingerprint for said in found.values()}
    for fingerprint in state.acknowledgements:
        if fingerprint not in kept:
            state.acknowledgements.drop(fingerprint)
    return found


def _mark(state: AlertState, groups: _Groups, why: Mapping[str, str]) -> None:
    """Note on each alert why nobody is notified of it, and who has taken it on."""
    notices = {key: state.notices.get(key) for key in groups}
    by = {
        record.fingerprint: notice.alert.acknowledged_by
        for key, notice in notices.items()
        if notice is not None
        for record in groups[key]
    }
    for key, record in state.alerts.items():
        marked = msgspec.structs.replace(record, suppressed=why.get(key), acknowledged_by=by.get(key))
        state.alerts.put(key, marked)


def _forget_members_that_ended(state: AlertState, key: str, members: Sequence[AlertRecord]) -> None:
    """Who resolved and fires again has joined anew."""
    if notice := state.notices.get(key):
        firing = {record.fingerprint for record in members}
        known = tuple(fingerprint for fingerprint in notice.known if fingerprint in firing)
        state.notices.put(key, msgspec.structs.replace(notice, known=known))


def _notify_of(
    rule: Rule, state: AlertState, key: str, members: Sequence[AlertRecord], *, acknowledged: bool, now: float
) -> None:
    notice = state.notices.get(key)
    alert = alert_of(rule, key, members)
    names = {record.fingerprint for record in members}
    if notice is None:
        state.outbox.append((TRIGGERED, alert))
        state.record(of_notification("notified", alert, state.clock))
        known = ever = names
    elif _is_due(rule, notice, alert, names, acknowledged=acknowledged, now=now):
        before = notice.alert
        alert = msgspec.structs.replace(alert, since=before.since)  # it names the episode, with the fingerprint
        if before.severity == alert.severity:  # else it is not what somebody has taken on
            alert = msgspec.structs.replace(
                alert, acknowledged_by=before.acknowledged_by, acknowledged_at=before.acknowledged_at
            )
        state.outbox.append((REPEATED, alert))
        state.record(of_notification("renotified", alert, state.clock))
        known, ever = names.union(notice.known), names.union(notice.members)
    else:
        return
    state.notices.put(key, Notice(alert=alert, members=tuple(sorted(ever)), known=tuple(sorted(known)), sent=now))


def _is_due(rule: Rule, notice: Notice, alert: Alert, names: set[str], *, acknowledged: bool, now: float) -> bool:
    """Return whether people are to be renotified."""
    before = notice.alert
    if (before.severity, before.labels) != (alert.severity, alert.labels):
        return True  # others may have to know now
    if names.difference(notice.known):
        return now - notice.sent >= _GROUP_INTERVAL
    taken_on = acknowledged or before.acknowledged_by is not None
    return not taken_on and now - notice.sent >= rule.repeat


def _acknowledge(state: AlertState, key: str, said: Acknowledgement, now: float) -> None:
    notice = state.notices.get(key)
    if notice is None and not said.withdrawn:
        return  # nobody was notified of it yet
    state.acknowledgements.drop(said.fingerprint)
    by = None if said.withdrawn else said.by
    if notice is None or notice.alert.acknowledged_by == by:
        return
    at = None if said.withdrawn else rfc3339(said.at)
    alert = msgspec.structs.replace(notice.alert, acknowledged_by=by, acknowledged_at=at)
    entry = of_notification("unacknowledged" if said.withdrawn else "acknowledged", alert, said.at)
    state.record(msgspec.structs.replace(entry, why=f"by {said.by}" + (f": {said.comment}" if said.comment else "")))
    if said.withdrawn:
        state.outbox.append((UNACKNOWLEDGED, msgspec.structs.replace(alert, unacknowledged_by=said.by)))
        state.notices.put(key, msgspec.structs.replace(notice, alert=alert, sent=now))
    else:
        state.outbox.append((ACKNOWLEDGED, alert))
        state.notices.put(key, msgspec.structs.replace(notice, alert=alert))


def _end(state: AlertState, key: str, notice: Notice, now: float) -> None:
    alert = resolved(notice, [state.alerts.get(member) for member in notice.members], now)
    state.outbox.append((RESOLVED, alert))
    state.notices.drop(key)
    state.record(of_notification("notified resolved", alert, state.clock))
