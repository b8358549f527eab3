"""The one way to ask a rule on series."""

from __future__ import annotations

import math

from penstock_services.alerts.evaluate import absence, anomaly, burn_rate, ratio, threshold
from penstock_services.alerts.evaluate.observation import Observation
from penstock_services.alerts.rules.model import BURN_WINDOWS, Absence, Anomaly, BurnRates, Ratio, SeriesRule, Threshold
from penstock_services.alerts.state.result import AnyMemory, Question, Verdict

_FORGET = 3_600.0


def judge(
    rule: SeriesRule, memory: AnyMemory | None, seen: Observation | None, question: Question
) -> tuple[AnyMemory | None, Verdict]:
    """Say how one label set is at one window; return too what is to be remembered of it.

    `seen` is None where the window has nothing of the label set. It is pure: the time is in the question.
    """
    match rule:
        case Threshold():
            return threshold.judge(rule, memory, seen, question)
        case Ratio():
            return ratio.judge(rule, memory, seen, question)
        case Absence():
            return absence.judge(rule, memory, seen, question)
        case BurnRates():
            return burn_rate.judge(rule, memory, seen, question)
        case Anomaly():
            return anomaly.judge(rule, memory, seen, question)
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
