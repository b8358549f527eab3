"""Absence: nothing has come where something should."""

from __future__ import annotations

from penstock.times import duration
from penstock_services.alerts.evaluate.observation import Observation
from penstock_services.alerts.rules.model import Absence
from penstock_services.alerts.state.evaluation import AnyMemory, Evaluation, EvaluationContext, LastSeen, subject

_EXPECTED = 86_400.0  # what was taken away for good is not missed for ever


def evaluate(
    rule: Absence, memory: AnyMemory | None, seen: Observation | None, context: EvaluationContext
) -> tuple[AnyMemory | None, Evaluation]:
    """Evaluate one window, or one tick of the clock, with nothing seen; see `evaluate.evaluate`."""
    there = seen is not None and seen.numbers.get("count", 1.0) > 0
    known = memory.seen if memory is not None else context.at  # the watch begins now
    last = max(known, context.at) if there else known
    memory = LastSeen(rule=rule.name, labels=context.labels, seen=last)
    silent = context.at - last
    name = f"{rule.series} of {subject(context.labels)}" if context.labels else rule.series
    if context.labels and silent >= max(_EXPECTED, 2 * rule.after):
        reason = f"{name}: nothing for {duration(silent)}; nothing is expected any more"
        return None, Evaluation(level="good", reason=reason)
    if silent >= rule.after:
        reason = f"{name}: nothing for {duration(silent)}, which should not be longer than " + duration(rule.after)
        return memory, Evaluation(level="bad", reason=reason, value=silent, threshold=float(rule.after))
    if context.firing is not None:
        how = "there again"
    else:
        how = (
            f"last there {duration(silent)} ago"
            if silent
            else "there"
            if there
            else "nothing yet, and watched from now"
        )
    return memory, Evaluation(level="good", reason=f"{name}: {how}", value=silent, threshold=float(rule.after))
