"""The one way to ask a rule on series."""

from __future__ import annotations

import math
from collections.abc import Mapping

from penstock_services.alerts.evaluate import absence, anomaly, ratio, threshold
from penstock_services.alerts.evaluate.observation import Observation, fingerprint
from penstock_services.alerts.rules.model import BURN_WINDOWS, Absence, Anomaly, BurnRates, Ratio, SeriesRule, Threshold
from penstock_services.alerts.state.evaluation import AnyMemory, Evaluation, EvaluationContext
from penstock_services.alerts.state.state import AlertState, of_rule

_FORGET = 3_600.0


def evaluate(
    rule: SeriesRule, memory: AnyMemory | None, seen: Observation | None, context: EvaluationContext
) -> tuple[AnyMemory | None, Evaluation]:
    """Say how one label set is at one window; return too what is to be remembered of it.

    `seen` is None where the window has nothing of the label set. It is pure: the time is in the context.
    """
    match rule:
        case Threshold():
            return threshold.evaluate(rule, memory, seen, context)
        case Ratio():
            return ratio.evaluate(rule, memory, seen, context)
        case Absence():
            return absence.evaluate(rule, memory, seen, context)
        case BurnRates():
            return ratio.evaluate_burn(rule, memory, seen, context)
        case Anomaly():
            return anomaly.evaluate(rule, memory, seen, context)
    raise TypeError(f"{type(rule).__name__} is no rule on series")


def forget_after(rule: SeriesRule) -> float:
    """Return the seconds after which a label set that is not there any more is forgotten."""
    match rule:
        case Ratio():
            return max(_FORGET, rule.over)
        case BurnRates():
            return max(BURN_WINDOWS[rate][0] for rate in rule.rates)
        case Absence():
            return math.inf  # it forgets by itself
    return _FORGET


def known_label_sets(state: AlertState, rule: SeriesRule, seen: Mapping[str, Observation]) -> dict[str, dict[str, str]]:
    """Return every label set that is known from before, or seen now, by its fingerprint."""
    known = {key: record.labels for key, record in of_rule(state.alerts, rule.name)}
    known |= {key: memory.labels for key, memory in of_rule(state.memory, rule.name)}
    known |= {key: observation.labels for key, observation in seen.items()}
    if isinstance(rule, Absence) and not rule.by:
        known.setdefault(fingerprint(rule.name, {}), {})
    return known
