"""Thresholds: a number above or below a limit, with another limit to clear."""

from __future__ import annotations

from penstock.schemas import COUNTED
from penstock.times import duration
from penstock_services.alerts.evaluate.observation import Observation
from penstock_services.alerts.rules.model import Threshold
from penstock_services.alerts.rules.quantities import in_words, unit_of
from penstock_services.alerts.state.evaluation import (
    AnyMemory,
    Evaluation,
    EvaluationContext,
    Extremes,
    LastSeen,
    Level,
    subject,
)

_STRETCHES = 30
_ADDED = ("count", "rate", "errors")  # of which there are none where there is no series


def evaluate(
    rule: Threshold, memory: AnyMemory | None, seen: Observation | None, context: EvaluationContext
) -> tuple[AnyMemory | None, Evaluation]:
    """Evaluate one window; see `evaluate.evaluate`."""
    value = _value(rule, seen)
    words = f"{rule.field} of " if rule.field != "value" else ""
    name = f"{words}{rule.series} of {subject(context.labels)}"
    if value is None:
        return memory, Evaluation(level="missing", reason=f"{name}: there is no such series any more")
    if rule.change is not None:
        memory, value = _change(rule, memory, value, context)
    elif rule.below is not None and seen is not None:  # nothing at all is below a limit, too: know what there was
        memory = LastSeen(rule=rule.name, labels=context.labels, seen=context.at)
    unit = unit_of(rule.series, rule.field)
    over = f" within {duration(rule.change)}" if rule.change is not None else ""
    moved = "has moved by" if over else "is"
    level, limit, relation = _compare(rule, value)
    reason = f"{name} {moved} {in_words(value, unit)}{over}, {relation} {in_words(limit, unit)}"
    return memory, Evaluation(
        level=level, reason=reason, value=value, threshold=limit, exemplars=seen.exemplars if seen else ()
    )


def _value(rule: Threshold, seen: Observation | None) -> float | None:
    absent = 0.0 if rule.series in COUNTED and rule.field in _ADDED else None
    return seen.numbers.get(rule.field, absent) if seen else absent


def _compare(rule: Threshold, value: float) -> tuple[Level, float, str]:
    """Return the level, the limit it was told by, and how the value lies to that."""
    if rule.above is not None:
        above = float(rule.above)
        clear = above if rule.clear is None else float(rule.clear)
        if value > above:
            return "bad", above, "above"
        return ("between", clear, "not yet back to") if value > clear else ("good", clear, "not above")
    assert rule.below is not None
    below = float(rule.below)
    clear = below if rule.clear is None else float(rule.clear)
    if value < below:
        return "bad", below, "below"
    return ("between", clear, "not yet back to") if value < clear else ("good", clear, "not below")


def _change(
    rule: Threshold, memory: AnyMemory | None, value: float, context: EvaluationContext
) -> tuple[AnyMemory, float]:
    """Return how far the value has moved from the extreme of the time looked back on."""
    assert rule.change is not None
    extreme = min if rule.above is not None else max
    stretch = int(context.start // (rule.change / _STRETCHES))
    known = memory.values if isinstance(memory, Extremes) else {}
    values = {at: one for at, one in known.items() if stretch - _STRETCHES < at <= stretch}
    values[stretch] = extreme(values.get(stretch, value), value)
    memory = Extremes(rule=rule.name, labels=context.labels, seen=context.at, values=values)
    return memory, value - extreme(values.values())
