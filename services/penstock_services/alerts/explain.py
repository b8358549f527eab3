"""Explaining a rule: what it sees now, and why it fires or not."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from penstock.errors import ConfigurationError
from penstock.keys import Keys
from penstock.matchers import all_match
from penstock.mesh.alerts import AlertRecord, LifecycleState
from penstock.redis.connection import AsyncRedis
from penstock.schemas import MetricsWindow, Severity
from penstock.times import duration, rfc3339, seconds_of
from penstock_services.alerts.evaluate import event as arrivals
from penstock_services.alerts.evaluate.evaluate import evaluate, known_label_sets
from penstock_services.alerts.evaluate.observation import Observation, observe
from penstock_services.alerts.input import entries, whole
from penstock_services.alerts.rules.model import (
    Absence,
    BurnRates,
    EventRule,
    Ratio,
    Rule,
    Rules,
    SeriesRule,
    own_labels,
    scope_of,
)
from penstock_services.alerts.state.evaluation import AnyMemory, Evaluation, EvaluationContext, Level
from penstock_services.alerts.state.lifecycle import AlertPolicy, policy_of
from penstock_services.alerts.state.state import AlertState, of_rule

_LOOK_BACK = 300.0  # seconds: the last window of 60 s is in it
_MOST_OTHERS = 10


class LabelSet(msgspec.Struct, frozen=True, kw_only=True):
    """One label set of the rule: what it looks like now (`level`, `reason`), its alert, and what comes `next`."""

    labels: dict[str, str]
    level: Level
    reason: str
    value: float | None
    threshold: float | None
    state: LifecycleState
    since: str | None
    next: str
    suppressed: str | None
    acknowledged_by: str | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A rule and all that it looks at. `window` is the start of the last one it sees, None if it sees none.

    `others` are labels of series of its name that it does not look at.
    """

    rule: str
    severity: Severity
    window: str | None
    label_sets: list[LabelSet]
    others: list[dict[str, str]]


async def explain(client: AsyncRedis, keys: Keys, rules: Rules, state: AlertState, name: str) -> Explanation:
    """Explain the rule called `name` by the state and the newest window.

    Raises:
        ConfigurationError: there is no such rule.
        redis.exceptions.RedisError: Redis is away.
    """
    rule = rules.rules.get(name)
    if rule is None:
        raise ConfigurationError(f"there is no rule {name}; there are {', '.join(rules.rules) or 'none'}")
    window = await _newest(client, keys, rule, state.clock) if isinstance(rule, SeriesRule) else None
    looks = _of_series(rule, state, window) if isinstance(rule, SeriesRule) else _of_events(rule, state)
    found = sorted(looks, key=lambda one: (one.level != "bad", one.state != "firing", *one.labels.values()))
    return Explanation(
        rule=name,
        severity=rule.severity,
        window=window.start if window else None,
        label_sets=found,
        others=_others(rule, window) if isinstance(rule, SeriesRule) and window else [],
    )


async def _newest(client: AsyncRedis, keys: Keys, rule: SeriesRule, now: float) -> MetricsWindow | None:
    found = None
    after = f"{max(0, round((now - _LOOK_BACK) * 1000))}-0"
    async for _, item in whole(entries(client, keys.stream("metrics"), after)):
        if (
            isinstance(item, MetricsWindow)
            and item.seconds == float(rule.window)
            and item.scope == scope_of(rule.series)
        ):
            found = item
    return found


def _of_series(rule: SeriesRule, state: AlertState, window: MetricsWindow | None) -> Iterator[LabelSet]:
    seen = observe(rule, window.series if window else ())
    for key, labels in known_label_sets(state, rule, seen).items():
        record = state.alerts.get(key)
        context = EvaluationContext(
            labels=own_labels(rule, labels),
            start=seconds_of(window.start) if window else state.watermarks.now,
            at=state.watermarks.now,
            firing=record.fired if record and record.state == "firing" else None,
        )
        found = _evaluated(rule, state.memory.get(key), seen.get(key), context)
        yield _label_set(rule, labels, found, record, state.clock)


def _evaluated(
    rule: SeriesRule, memory: AnyMemory | None, seen: Observation | None, context: EvaluationContext
) -> Evaluation:
    if isinstance(rule, Absence | Ratio | BurnRates):  # what it remembers has this window in it, and may be newer
        context, seen = msgspec.structs.replace(context, start=context.at), None
    return evaluate(rule, memory, seen, context)[1]


def _of_events(rule: Rule, state: AlertState) -> Iterator[LabelSet]:
    assert isinstance(rule, EventRule)
    for key, arrived in of_rule(state.arrivals, rule.name):
        record = state.alerts.get(key)
        yield _label_set(rule, arrived.labels, arrivals.standing(rule, arrived, state.clock), record, state.clock)


def _label_set(
    rule: Rule, labels: dict[str, str], found: Evaluation, record: AlertRecord | None, now: float
) -> LabelSet:
    return LabelSet(
        labels=labels,
        level=found.level,
        reason=found.reason,
        value=found.value,
        threshold=found.threshold,
        state=record.state if record else "inactive",
        since=rfc3339(record.since) if record and record.since else None,
        next=_next(found.level, record, policy_of(rule), now),
        suppressed=record.suppressed if record else None,
        acknowledged_by=record.acknowledged_by if record else None,
    )


def _next(level: Level, record: AlertRecord | None, policy: AlertPolicy, now: float) -> str:
    """Say what has to happen for the alert to begin or to end."""
    if record is not None and record.state == "firing":
        return _until_resolved(level, record, policy, now)
    if level != "bad":
        return "it does not fire"
    if record is not None and record.resolved is not None and now - record.resolved < policy.cooldown:
        return f"it fires again {duration(policy.cooldown)} after it resolved (cooldown)"
    if record is not None and record.state == "pending":
        return f"it fires once it has lasted for {duration(policy.hold)} (for)"
    return "it fires with the next window" if not policy.hold else f"it has to last for {duration(policy.hold)} (for)"


def _until_resolved(level: Level, record: AlertRecord, policy: AlertPolicy, now: float) -> str:
    if level == "bad":
        return "it fires"
    if level == "between":
        return "it fires until it is past the limit to clear"
    keep = max(policy.keep_firing, policy.flap_calm if record.flapping else 0.0)
    calm = f", and has been for {duration(now - record.clear_since)}" if record.clear_since else ""
    why = "flapping" if record.flapping else "keep_firing"
    return f"it fires until it has been well for {duration(keep)} ({why}){calm}"


def _others(rule: SeriesRule, window: MetricsWindow) -> list[dict[str, str]]:
    """Return labels of series that `where` excludes."""
    of_its_name = [one.labels for one in window.series if one.name == rule.series]
    return [labels for labels in of_its_name if not all_match(rule.where, labels)][:_MOST_OTHERS]
