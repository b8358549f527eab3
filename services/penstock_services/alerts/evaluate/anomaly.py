"""Anomalies: a count or a duration is far from what it was lately."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import msgspec

from penstock.times import duration
from penstock_services.alerts.evaluate.observation import Observation
from penstock_services.alerts.rules.model import Anomaly
from penstock_services.alerts.rules.quantities import in_words, unit_of
from penstock_services.alerts.state.evaluation import AnyMemory, Baseline, Evaluation, EvaluationContext, Level, subject

_COUNTS = ("count", "errors")
_COUNT_CHANGE, _DURATION_CHANGE = 5.0, 0.5


class _Sample(msgspec.Struct, frozen=True):
    """What is evaluated, and of how many events it tells."""

    value: float
    events: float
    exemplars: tuple[str, ...] = ()


def evaluate(
    rule: Anomaly, memory: AnyMemory | None, seen: Observation | None, context: EvaluationContext
) -> tuple[AnyMemory, Evaluation]:
    """Evaluate one window; see `evaluate.evaluate`."""
    base = memory if isinstance(memory, Baseline) else None
    base = base or Baseline(rule=rule.name, labels=context.labels, seen=context.at)
    if seen is not None:
        base = msgspec.structs.replace(base, seen=context.at)
    name = f"{rule.field} of {rule.series} of {subject(context.labels)}"
    if context.firing is not None and context.at - context.firing >= rule.relearn:
        reason = f"{name}: this has been so for {duration(rule.relearn)}, and is what is usual now"
        return msgspec.structs.replace(base, samples=(), streak=0), Evaluation(level="good", reason=reason)
    sample = _sample(rule, seen)
    if sample is None:
        return base, Evaluation(level="missing", reason=f"{name}: too few to evaluate")
    if len(base.samples) < rule.min_samples:
        return _learn(rule, base, sample), Evaluation(level="good", reason=f"{name}: what is usual is not known yet")
    found = _deviation(rule, sample, base)
    level = _level(rule, found, sample.value)
    streak = base.streak + 1 if level == "bad" else 0
    base = msgspec.structs.replace(base, streak=streak)
    if streak < rule.evaluations and context.firing is None:
        level = "good"  # once may be chance
        if not context.pending:
            base = _learn(rule, base, sample)
    return base, Evaluation(
        level=level,
        reason=f"{name} is {_words(rule, sample, found)}",
        value=sample.value,
        threshold=found.usual,
        exemplars=sample.exemplars,
    )


def _sample(rule: Anomaly, seen: Observation | None) -> _Sample | None:
    """Return what to evaluate; None where there are too few durations to say anything."""
    if seen is None:
        return _Sample(0.0, 0.0) if rule.field in _COUNTS else None
    events = seen.numbers.get("count", 0.0)
    value = seen.numbers.get(rule.field, 0.0 if rule.field in _COUNTS else None)
    if value is None or (rule.field not in _COUNTS and events < rule.min_count):
        return None
    return _Sample(value, events, seen.exemplars)


def _deviation(rule: Anomaly, sample: _Sample, base: Baseline) -> Deviation:
    if rule.field in _COUNTS:
        return count_deviation(sample.value, base.samples)
    return duration_deviation(sample.value, sample.events, base.samples)


def _level(rule: Anomaly, found: Deviation, value: float) -> Level:
    counts = rule.field in _COUNTS
    direction = rule.direction or ("both" if counts else "up")
    if (direction == "up" and found.score < 0) or (direction == "down" and found.score > 0):
        return "good"
    least = rule.min_change if rule.min_change is not None else (_COUNT_CHANGE if counts else _DURATION_CHANGE)
    change = abs(value - found.usual)
    if abs(found.score) > rule.score and change >= (least if counts else least * found.usual):
        return "bad"
    return "between" if abs(found.score) > rule.clear_score else "good"


def _learn(rule: Anomaly, base: Baseline, sample: _Sample) -> Baseline:
    transformed = of_count(sample.value) if rule.field in _COUNTS else of_duration(sample.value)
    samples = (*base.samples, round(transformed, 4))[-rule.baseline :]
    return msgspec.structs.replace(base, samples=samples)


def _words(rule: Anomaly, sample: _Sample, found: Deviation) -> str:
    unit = unit_of(rule.series, rule.field)
    usually = in_words(found.usual, unit)
    return f"{in_words(sample.value, unit)}, usually {usually} ({abs(found.score):.1f} times the usual spread away)"


_NORMAL = 1.4826  # MAD to standard deviation, for a normal distribution


class Deviation(msgspec.Struct, frozen=True):
    """How far from the usual: `score` spreads (negative: below it), and what `usual` is."""

    score: float
    usual: float


def of_count(x: float) -> float:
    """Transform a count so that its spread does not depend on its mean."""
    return 2 * math.sqrt(x + 0.375)


def of_duration(x: float) -> float:
    """Transform a duration, in seconds: a factor becomes a difference. What is under a microsecond counts as one."""
    return math.log(max(x, 1e-6))


def count_deviation(x: float, samples: Sequence[float]) -> Deviation:
    """Compare a count with transformed samples of others."""
    middle = median(samples)
    score = (of_count(x) - middle) / max(1.0, _spread(samples, middle))
    return Deviation(score, max(0.0, (middle / 2) ** 2 - 0.375))


def duration_deviation(x: float, count: float, samples: Sequence[float]) -> Deviation:
    """Compare a quantile of `count` durations with transformed samples of others."""
    middle = median(samples)
    score = (of_duration(x) - middle) / max(1.5 / math.sqrt(count), _spread(samples, middle))
    return Deviation(score, math.exp(middle))


def _spread(samples: Sequence[float], middle: float) -> float:
    return _NORMAL * median(abs(sample - middle) for sample in samples)
