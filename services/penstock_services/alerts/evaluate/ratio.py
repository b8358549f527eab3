"""Ratios: too large a share went wrong, of enough to say so."""

from __future__ import annotations

from penstock_services.alerts.evaluate.observation import Observation
from penstock_services.alerts.rules.model import BurnRates, Ratio
from penstock_services.alerts.rules.quantities import in_words, seconds_in_words
from penstock_services.alerts.state.result import AnyMemory, Level, Question, Sums, Verdict, subject
from penstock_services.alerts.state.sliding_sum import Sum


def judge(
    rule: Ratio, memory: AnyMemory | None, seen: Observation | None, question: Question
) -> tuple[AnyMemory | None, Verdict]:
    """Judge one window; see `kinds.judge`."""
    (over,) = summed(rule, memory, seen, question, (float(rule.over),))
    memory = Sums(rule=rule.name, labels=question.labels, seen=last_seen(memory, seen, question), sums=(over,))
    name, within = subject(question.labels), seconds_in_words(rule.over)
    counted = f"{in_words(over.bad)} of {in_words(over.total)}"
    if over.total < rule.min_count:
        reason = f"{name}: only {in_words(over.total)} within {within}, too few to say"
        return memory, Verdict(level="good", reason=reason, threshold=float(rule.above))
    level, limit, relation = _compare(rule, over.share)
    wrong = "match" if rule.only else "failed"
    reason = f"{name}: {counted} {wrong} within {within} ({in_words(over.share, 'share')}), {relation} " + in_words(
        limit, "share"
    )
    exemplars = seen.exemplars if seen else ()
    return memory, Verdict(level=level, reason=reason, value=over.share, threshold=limit, exemplars=exemplars)


def summed(
    rule: Ratio | BurnRates,
    memory: AnyMemory | None,
    seen: Observation | None,
    question: Question,
    spans: tuple[float, ...],
) -> tuple[Sum, ...]:
    """Return the sums over `spans` with this window added to what is remembered."""
    known = memory.sums if isinstance(memory, Sums) else ()
    old = {one.span: one for one in known}
    total = seen.numbers.get("count", 0.0) if seen else 0.0
    bad = seen.numbers.get("only" if rule.only else "errors", 0.0) if seen else 0.0
    return tuple(old.get(span, Sum(span)).add(question.start, bad, total) for span in spans)


def last_seen(memory: AnyMemory | None, seen: Observation | None, question: Question) -> float:
    """Return when there was last something."""
    return question.at if seen or memory is None else memory.seen


def _compare(rule: Ratio, share: float) -> tuple[Level, float, str]:
    above = float(rule.above)
    clear = above if rule.clear is None else float(rule.clear)
    if share > above:
        return "bad", above, "above"
    return ("between", clear, "not yet back to") if share > clear else ("good", clear, "not above")
