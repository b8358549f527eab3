"""Adopting a state that follows from other rules: what no longer fits its rule ends, and says so."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from penstock.mesh.alerts import AlertRecord
from penstock_services.alerts.notify.grouping import notify
from penstock_services.alerts.rules.change import RuleChange, changes, fits, memory_fits
from penstock_services.alerts.rules.model import Rule, Rules, own_labels
from penstock_services.alerts.state.lifecycle import resolve
from penstock_services.alerts.state.state import AlertState, OfRule, of_rule_change, of_transition


def adopt(rules: Rules, state: AlertState, before: Rules | None, by: str) -> None:
    """Let the state follow from `rules` from now on; `before` is None if it is not known from which it does.

    Nothing is ever evaluated under labels that its rule does not make.
    """
    found = {change.rule.name: change for change in changes(before, rules)}
    for change in found.values():
        state.record(of_rule_change(change, by, state.clock))
    old = before.rules if before else {}
    ended = _end(rules, old, found, state)
    _relabel(rules, old, state)
    notify(rules, state, state.watermarks.now)
    for fingerprint in ended:
        state.alerts.drop(fingerprint)
    _forget(rules, old, state)


def _end(rules: Rules, old: Mapping[str, Rule], found: Mapping[str, RuleChange], state: AlertState) -> list[str]:
    """End the alerts that their rules would not make; return their fingerprints."""
    ended = []
    for key, record in state.alerts.items():
        if _fits(rules, old, record, record.labels):
            continue
        ended.append(key)
        if record.state in ("pending", "firing"):
            over, transition = resolve(record, state.watermarks.now, _why(record, found.get(record.rule)))
            state.record(of_transition(over, transition, state.watermarks.now))
            state.alerts.put(key, over)
    return ended


def _why(record: AlertRecord, change: RuleChange | None) -> str:
    if change is None:
        return f"the rule {record.rule} is not in alerts.yaml any more, or was changed"
    return f"the rule {record.rule} was changed: {change.why}" if change.what == "rule changed" else change.why


def _relabel(rules: Rules, old: Mapping[str, Rule], state: AlertState) -> None:
    """Give what goes on the severity and the labels that its rule adds now."""
    for key, record in state.alerts.items():
        if rule := rules.rules.get(record.rule):
            labels = {**own_labels(old.get(rule.name, rule), record.labels), **rule.labels}
            state.alerts.put(key, msgspec.structs.replace(record, severity=rule.severity, labels=labels))


def _forget(rules: Rules, old: Mapping[str, Rule], state: AlertState) -> None:
    for key, arrived in state.arrivals.items():
        if not _fits(rules, old, arrived, arrived.labels):
            state.arrivals.drop(key)
    for key, memory in state.memory.items():
        rule = rules.rules.get(memory.rule)
        if rule is None or not memory_fits(old.get(memory.rule), rule, memory.labels):
            state.memory.drop(key)


def _fits(rules: Rules, old: Mapping[str, Rule], row: OfRule, labels: Mapping[str, str]) -> bool:
    rule, before = rules.rules.get(row.rule), old.get(row.rule)
    if rule is None:
        return False
    if before is None:
        return fits(None, rule, {name: value for name, value in labels.items() if name not in rule.labels})
    return fits(before, rule, own_labels(before, labels))
