"""The words of an alert: what is told of one alert, or of several that are told as one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.mesh.alerts import AlertRecord, Notice
from penstock.schemas import Alert
from penstock.times import rfc3339
from penstock_services.alerts.evaluate.observation import fingerprint
from penstock_services.alerts.rules import summary as templates
from penstock_services.alerts.rules.model import Absence, Anomaly, Ratio, Rule, Threshold
from penstock_services.alerts.rules.quantities import in_words, unit_of

_MOST_REASONS = 5
_MOST_EXEMPLARS = 5


def group_of(rule: Rule, record: AlertRecord) -> str:
    """Return the fingerprint of the group that an alert is told with."""
    if rule.group_by is None:
        return record.fingerprint
    return fingerprint(rule.name, _group_labels(rule, record))


def alert_of(rule: Rule, key: str, members: Sequence[AlertRecord]) -> Alert:
    """Return what is told of the alerts `members`, which fire together as group `key`."""
    first = members[0]
    labels = first.labels if rule.group_by is None else _group_labels(rule, first)
    exemplars = dict.fromkeys(trace for record in members for trace in record.exemplars)
    return Alert(
        fingerprint=key,
        rule=rule.name,
        severity=rule.severity,
        status="firing",
        labels={**labels, **rule.labels},
        summary=summary_of(rule, members),
        reason=_reason(members),
        value=first.value,
        threshold=first.threshold,
        since=rfc3339(min(record.fired or record.since for record in members)),
        exemplars=list(exemplars)[:_MOST_EXEMPLARS],
        runbook=rule.runbook,
        flapping=any(record.flapping for record in members),
    )


def resolved(notice: Notice, members: Sequence[AlertRecord | None], now: float) -> Alert:
    """Return what is told at the end of what was told."""
    known = [record for record in members if record is not None]
    over = [record for record in known if record.state != "firing" and record.resolved is not None]
    last = max(over, key=lambda record: record.resolved or 0.0, default=None)
    if len(over) < len(known):
        last = None
        reason = f"the rule {notice.alert.rule} groups its alerts otherwise now; what still fires is notified of anew"
    else:
        reason = last.reason if last else "nothing is known of it any more"
    return msgspec.structs.replace(
        notice.alert,
        status="resolved",
        reason=reason,
        value=last.value if last else None,
        resolved_at=rfc3339((last.resolved if last else None) or now),
    )


def summary_of(rule: Rule, members: Sequence[AlertRecord]) -> str:
    """Return the rule's summary, filled in for `members`."""
    first = members[0]
    unit = _unit(rule)
    values = {
        "rule": rule.name,
        "severity": rule.severity,
        "value": in_words(first.value, unit),
        "threshold": in_words(first.threshold, unit),
        "reason": _reason(members),
    }
    return templates.render(rule.summary, values, [record.labels for record in members])


def _reason(members: Sequence[AlertRecord]) -> str:
    if len(members) == 1:
        return members[0].reason
    more = len(members) - _MOST_REASONS
    reasons = "; ".join(record.reason for record in members[:_MOST_REASONS])
    return f"{len(members)} alerts: {reasons}" + (f"; and {more} more" if more > 0 else "")


def _group_labels(rule: Rule, record: AlertRecord) -> dict[str, str]:
    return {name: record.labels[name] for name in rule.group_by or () if name in record.labels}


def _unit(rule: Rule) -> str:
    match rule:
        case Threshold() | Anomaly():
            return unit_of(rule.series, rule.field)
        case Ratio():
            return "share"
        case Absence():
            return "s"
    return ""
