"""Ratios and burn rates: too large a share went wrong, of enough to say so.

A burn rate is a ratio over two windows: a long one, so that it matters, and a short one, so that it ends in time.
"""

from __future__ import annotations

from penstock.times import duration
from penstock_services.alerts.evaluate.observation import Observation
from penstock_services.alerts.rules.model import BURN_WINDOWS, BurnRates, Ratio
from penstock_services.alerts.rules.quantities import in_words
from penstock_services.alerts.state.evaluation import (
    AnyMemory,
    Evaluation,
    EvaluationContext,
    Level,
    Sum,
    Sums,
    subject,
)


def evaluate(
    rule: Ratio, memory: AnyMemory | None, seen: Observation | None, context: EvaluationContext
) -> tuple[AnyMemory | None, Evaluation]:
    """Evaluate one window; see `evaluate.evaluate`."""
    (over,) = summed(rule, memory, seen, context, (float(rule.over),))
    memory = Sums(rule=rule.name, labels=context.labels, seen=last_seen(memory, seen, context), sums=(over,))
    name, within = subject(context.labels), duration(rule.over)
    counted = f"{in_words(over.bad)} of {in_words(over.total)}"
    if over.total < rule.min_count:
        reason = f"{name}: only {in_words(over.total)} within {within}, too few to say"
        return memory, Evaluation(level="good", reason=reason, threshold=float(rule.above))
    level, limit, relation = _compare(rule, over.share)
    wrong = "match" if rule.only else "failed"
    reason = f"{name}: {counted} {wrong} within {within} ({in_words(over.share, 'share')}), {relation} " + in_words(
        limit, "share"
    )
    exemplars = seen.exemplars if seen else ()
    return memory, Evaluation(level=level, reason=reason, value=over.share, threshold=limit, exemplars=exemplars)


def summed(
    rule: Ratio | BurnRates,
    memory: AnyMemory | None,
    seen: Observation | None,
    context: EvaluationContext,
    spans: tuple[float, ...],
) -> tuple[Sum, ...]:
    """Return the sums over `spans` with this window added to what is remembered."""
    known = memory.sums if isinstance(memory, Sums) else ()
    old = {one.span: one for one in known}
    total = seen.numbers.get("count", 0.0) if seen else 0.0
    bad = seen.numbers.get("only" if rule.only else "errors", 0.0) if seen else 0.0
    return tuple(old.get(span, Sum(span)).add(context.start, bad, total) for span in spans)


def last_seen(memory: AnyMemory | None, seen: Observation | None, context: EvaluationContext) -> float:
    """Return when there was last something."""
    return context.at if seen or memory is None else memory.seen


def _compare(rule: Ratio, share: float) -> tuple[Level, float, str]:
    above = float(rule.above)
    clear = above if rule.clear is None else float(rule.clear)
    if share > above:
        return "bad", above, "above"
    return ("between", clear, "not yet back to") if share > clear else ("good", clear, "not above")


def evaluate_burn(
    rule: BurnRates, memory: AnyMemory | None, seen: Observation | None, context: EvaluationContext
) -> tuple[AnyMemory | None, Evaluation]:
    """Evaluate one window; see `evaluate.evaluate`."""
    spans = tuple(dict.fromkeys(span for rate in rule.rates for span in BURN_WINDOWS[rate]))
    sums = summed(rule, memory, seen, context, spans)
    memory = Sums(rule=rule.name, labels=context.labels, seen=last_seen(memory, seen, context), sums=sums)
    by_span = {one.span: one for one in sums}
    budget = 1 - rule.objective
    name = subject(context.labels)
    fastest = 0.0
    for rate in sorted(rule.rates, reverse=True):
        long, short = (by_span[span] for span in BURN_WINDOWS[rate])
        burnt = min(long.share, short.share) / budget
        fastest = max(fastest, burnt)
        if burnt > rate and long.total >= rule.min_count:
            reason = (
                f"{name}: the error budget of {in_words(rule.objective, 'share')} burns {in_words(burnt)} times too "
                f"fast over {duration(long.span)} and {duration(short.span)}, above {in_words(rate)}"
            )
            exemplars = seen.exemplars if seen else ()
            return memory, Evaluation(level="bad", reason=reason, value=burnt, threshold=rate, exemplars=exemplars)
    slowest = min(rule.rates)
    reason = f"{name}: the error budget burns at most {in_words(fastest)} times too fast over both windows"
    return memory, Evaluation(level="good", reason=reason, value=fastest, threshold=slowest)
