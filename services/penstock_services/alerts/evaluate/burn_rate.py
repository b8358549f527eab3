"""Burn rates: the error budget of an objective goes too fast, over a long window and still over a short one."""

from __future__ import annotations

from penstock_services.alerts.evaluate.observation import Observation
from penstock_services.alerts.evaluate.ratio import last_seen, summed
from penstock_services.alerts.rules.model import BURN_WINDOWS, BurnRates
from penstock_services.alerts.rules.quantities import in_words, seconds_in_words
from penstock_services.alerts.state.result import AnyMemory, Question, Sums, Verdict, subject


def judge(
    rule: BurnRates, memory: AnyMemory | None, seen: Observation | None, question: Question
) -> tuple[AnyMemory | None, Verdict]:
    """Judge one window; see `kinds.judge`."""
    spans = tuple(dict.fromkeys(span for rate in rule.rates for span in BURN_WINDOWS[rate]))
    sums = summed(rule, memory, seen, question, spans)
    memory = Sums(rule=rule.name, labels=question.labels, seen=last_seen(memory, seen, question), sums=sums)
    by_span = {one.span: one for one in sums}
    budget = 1 - rule.objective
    name = subject(question.labels)
    fastest = 0.0
    for rate in sorted(rule.rates, reverse=True):
        long, short = (by_span[span] for span in BURN_WINDOWS[rate])
        burnt = min(long.share, short.share) / budget
        fastest = max(fastest, burnt)
        if burnt > rate and long.total >= rule.min_count:
            reason = (
                f"{name}: the error budget of {in_words(rule.objective, 'share')} burns {in_words(burnt)} times too "
                f"fast over {seconds_in_words(long.span)} and {seconds_in_words(short.span)}, above {in_words(rate)}"
            )
            exemplars = seen.exemplars if seen else ()
            return memory, Verdict(level="bad", reason=reason, value=burnt, threshold=rate, exemplars=exemplars)
    slowest = min(rule.rates)
    reason = f"{name}: the error budget burns {in_words(fastest)} times too fast over both windows at most"
    return memory, Verdict(level="good", reason=reason, value=fastest, threshold=slowest)
