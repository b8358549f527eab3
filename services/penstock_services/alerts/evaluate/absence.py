"""Absence: nothing has come where something should."""

from __future__ import annotations

from penstock_services.alerts.evaluate.observation import Observation
from penstock_services.alerts.rules.model import Absence
from penstock_services.alerts.rules.quantities import seconds_in_words
from penstock_services.alerts.state.result import AnyMemory, Presence, Question, Verdict, subject

_EXPECTED = 86_400.0  # what was taken away for good is not missed for ever


def judge(
    rule: Absence, memory: AnyMemory | None, seen: Observation | None, question: Question
) -> tuple[AnyMemory | None, Verdict]:
    """Judge one window, or one tick of the clock, with nothing seen; see `kinds.judge`."""
    there = seen is not None and seen.numbers.get("count", 1.0) > 0
    known = memory.seen if memory is not None else question.at  # the watch begins now
    last = max(known, question.at) if there else known
    memory = Presence(rule=rule.name, labels=question.labels, seen=last)
    silent = question.at - last
    name = f"{rule.series} of {subject(question.labels)}" if question.labels else rule.series
    if question.labels and silent >= max(_EXPECTED, 2 * rule.after):
        reason = f"{name}: nothing for {seconds_in_words(silent)}; nothing is expected any more"
        return None, Verdict(level="good", reason=reason)
    if silent >= rule.after:
        reason = f"{name}: nothing for {seconds_in_words(silent)}, which should not be longer than " + seconds_in_words(
            rule.after
        )
        return memory, Verdict(level="bad", reason=reason, value=silent, threshold=float(rule.after))
    return memory, Verdict(level="good", reason=f"{name}: there again", value=silent, threshold=float(rule.after))
