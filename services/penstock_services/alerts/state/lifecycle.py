"""The life of one alert: inactive, pending, firing, resolved. Pure: state, evaluation and time in, state out.

```
            bad                 bad for as long as `for`
inactive ---------> pending ------------------------------> firing
   ^ ^                 |  ^                                   |
   | |     not bad     |  | bad                               | good for as long as keep_firing
   | +-----------------+  |                                   v
   +------------------ resolved <-----------------------------+
       after a while
```

Where `for` is 0, pending is passed over. `between` holds what is firing and is not enough for anything else.
`missing` ends what is firing or pending only when it has lasted: a hole in the data says nothing. An alert that
came to fire too often goes on firing until it has been calm (flapping): many alerts become one.
"""

from __future__ import annotations

import msgspec

from penstock.mesh.alerts import AlertRecord, LifecycleState
from penstock.times import duration
from penstock_services.alerts.rules.model import EventRule, Rule
from penstock_services.alerts.state.evaluation import Evaluation

MISSING_FOR = 60.0  # seconds for which data must be missing to mean that it is gone
_MOST_TRIGGERS = 100


class AlertPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule says of the lives of its alerts, in seconds."""

    hold: float = 0.0
    keep_firing: float = 0.0
    cooldown: float = 0.0
    flap_triggers: int = 4
    flap_within: float = 1_800.0
    flap_calm: float = 600.0


class Transition(msgspec.Struct, frozen=True):
    """An alert went from one state to another."""

    before: LifecycleState
    after: LifecycleState
    why: str


def policy_of(rule: Rule) -> AlertPolicy:
    """Return the policy of a rule. An event has no end of its own: its rule says by itself how long it lasts."""
    own = rule.keep_firing if rule.keep_firing is not None and not isinstance(rule, EventRule) else 0.0
    return AlertPolicy(
        hold=rule.hold,
        keep_firing=own,
        cooldown=rule.cooldown,
        flap_triggers=rule.flap.triggers,
        flap_within=rule.flap.within,
        flap_calm=rule.flap.calm,
    )


def step(
    record: AlertRecord, evaluation: Evaluation, now: float, policy: AlertPolicy
) -> tuple[AlertRecord, Transition | None]:
    """Return the alert as it is after `evaluation` at time `now`, and the transition if it changed its state."""
    if evaluation.level == "bad":
        record = _noted(record, evaluation)
    match record.state:
        case "inactive" | "resolved":
            return _quiet(record, evaluation, now, policy)
        case "pending":
            return _pending(record, evaluation, now, policy)
        case "firing":
            return _firing(record, evaluation, now, policy)


def resolve(record: AlertRecord, now: float, why: str) -> tuple[AlertRecord, Transition]:
    """End an alert for a reason that no evaluation gives: its rule is gone."""
    return _enter(record, "resolved" if record.state == "firing" else "inactive", now, why)


def forgettable(record: AlertRecord, now: float, policy: AlertPolicy) -> bool:
    """Return whether nothing of the alert matters any more: neither its cooldown nor how often it fired."""
    if record.state not in ("inactive", "resolved"):
        return False
    return record.resolved is None or now - record.resolved >= max(policy.cooldown, policy.flap_within)


def _quiet(
    record: AlertRecord, evaluation: Evaluation, now: float, policy: AlertPolicy
) -> tuple[AlertRecord, Transition | None]:
    if evaluation.level == "bad":
        pending = msgspec.structs.replace(record, since=now)
        return (
            _fire(record, now, evaluation, policy)
            if _due(pending, now, policy)
            else _enter(record, "pending", now, evaluation.reason)
        )
    return record, None


def _pending(
    record: AlertRecord, evaluation: Evaluation, now: float, policy: AlertPolicy
) -> tuple[AlertRecord, Transition | None]:
    if evaluation.level == "bad":
        record = msgspec.structs.replace(record, clear_since=None)
        return _fire(record, now, evaluation, policy) if _due(record, now, policy) else (record, None)
    record, clear = _clearing(record, evaluation, now)
    if evaluation.level == "missing" and clear < MISSING_FOR:
        return record, None
    return _enter(record, "inactive", now, evaluation.reason)


def _firing(
    record: AlertRecord, evaluation: Evaluation, now: float, policy: AlertPolicy
) -> tuple[AlertRecord, Transition | None]:
    if evaluation.level in ("bad", "between"):
        return msgspec.structs.replace(record, clear_since=None), None
    record, clear = _clearing(record, evaluation, now)
    keep = max(policy.keep_firing, policy.flap_calm if record.flapping else 0.0)
    if evaluation.level == "missing":
        keep = max(keep, MISSING_FOR)
    if clear < keep:
        return record, None
    why = f"calm for {duration(clear)}: {evaluation.reason}" if record.flapping else evaluation.reason
    return _enter(msgspec.structs.replace(record, value=evaluation.value, flapping=False), "resolved", now, why)


def _due(record: AlertRecord, now: float, policy: AlertPolicy) -> bool:
    cool = record.resolved is None or now - record.resolved >= policy.cooldown
    return cool and now - record.since >= policy.hold


def _fire(
    record: AlertRecord, now: float, evaluation: Evaluation, policy: AlertPolicy
) -> tuple[AlertRecord, Transition]:
    triggers = (*(at for at in record.triggers if now - at < policy.flap_within), now)[-_MOST_TRIGGERS:]
    flapping = len(triggers) >= policy.flap_triggers
    why = f"flapping, {len(triggers)} times lately: {evaluation.reason}" if flapping else evaluation.reason
    record = msgspec.structs.replace(record, triggers=triggers, flapping=flapping, fired=now)
    return _enter(record, "firing", now, why)


def _enter(record: AlertRecord, state: LifecycleState, now: float, why: str) -> tuple[AlertRecord, Transition]:
    transition = Transition(record.state, state, why)
    ended = now if record.state == "firing" else record.resolved
    return (
        msgspec.structs.replace(record, state=state, since=now, resolved=ended, clear_since=None, reason=why),
        transition,
    )


def _clearing(record: AlertRecord, evaluation: Evaluation, now: float) -> tuple[AlertRecord, float]:
    """Return the alert with its condition ceased, and for how many seconds it has been so."""
    if record.clear_since is not None:
        return record, now - record.clear_since
    since = now if evaluation.ceased is None else evaluation.ceased
    return msgspec.structs.replace(record, clear_since=since), now - since


def _noted(record: AlertRecord, evaluation: Evaluation) -> AlertRecord:
    """Keep what the evaluation says; a flapping alert goes on saying that it flaps."""
    seen = () if record.state in ("inactive", "resolved") else record.exemplars
    return msgspec.structs.replace(
        record,
        value=evaluation.value,
        threshold=evaluation.threshold,
        reason=f"flapping: {evaluation.reason}" if record.flapping else evaluation.reason,
        exemplars=tuple(dict.fromkeys((*seen, *evaluation.exemplars)))[:5],
    )
