"""What a rule sees of a window: its series, selected and joined by labels."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping

import msgspec

from penstock.matchers import all_match
from penstock.schemas import Exemplar, Series
from penstock_services.alerts.rules.model import COUNTS, Absence, BurnRates, Ratio, SeriesRule, Threshold

_ADDED = frozenset({"count", "rate", "errors", "only"})
_MOST_EXEMPLARS = 5
_GETTERS: dict[str, Callable[[Series], float | None]] = {
    "value": operator.attrgetter("value"),
    **{name: operator.attrgetter(name) for name in COUNTS if name != "error_rate"},
}


class Observation(msgspec.Struct, frozen=True):
    """One label set of one window: its numbers by field, and traces that show them.

    `only` is the count of those series that meet the rule's `only` too.
    """

    labels: dict[str, str]
    numbers: dict[str, float]
    exemplars: tuple[str, ...] = ()


def fingerprint(rule: str, labels: Mapping[str, str]) -> str:
    """Return what tells one alert from every other, for as long as its rule keeps its name."""
    text = "\0".join((rule, *(f"{name}={labels[name]}" for name in sorted(labels))))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def observe(rule: SeriesRule, series: Iterable[Series]) -> dict[str, Observation]:
    """Return what `rule` sees, by the fingerprint of each label set."""
    groups: dict[str, tuple[dict[str, str], list[Series]]] = {}
    for one in series:
        if one.name != rule.series or not all_match(rule.where, one.labels):
            continue
        labels = _labels(rule, one)
        groups.setdefault(fingerprint(rule.name, labels), (labels, []))[1].append(one)
    return {key: _joined(rule, labels, members) for key, (labels, members) in groups.items()}


def _labels(rule: SeriesRule, series: Series) -> dict[str, str]:
    if rule.by is None:
        return dict(series.labels)
    return {name: series.labels[name] for name in rule.by if name in series.labels}


def _joined(rule: SeriesRule, labels: dict[str, str], members: list[Series]) -> Observation:
    worst = min if isinstance(rule, Threshold) and rule.below is not None else max
    numbers: dict[str, float] = {}
    for member in members:
        for name, value in _numbers(rule, member).items():
            if name in _ADDED:
                numbers[name] = numbers.get(name, 0) + value
            else:
                numbers[name] = worst(numbers.get(name, value), value)
    if numbers.get("count"):
        numbers["error_rate"] = numbers.get("errors", 0) / numbers["count"]
    return Observation(labels, numbers, _exemplars(rule, members))


def _numbers(rule: SeriesRule, series: Series) -> dict[str, float]:
    found = {name: get(series) for name, get in _GETTERS.items()}
    only = rule.only if isinstance(rule, Ratio | BurnRates) else ()
    found["only"] = series.count if only and all_match(only, series.labels) else 0
    for what, quantiles in (("duration", series.duration), ("queue_wait", series.queue_wait)):
        if quantiles is not None:
            found |= {f"{what}.{name}": value for name, value in msgspec.structs.asdict(quantiles).items()}
    return {name: value for name, value in found.items() if value is not None}


def _exemplars(rule: SeriesRule, members: list[Series]) -> tuple[str, ...]:
    """Return trace ids: of what failed first, but of the slowest first where the rule is about durations."""
    if isinstance(rule, Absence):
        return ()
    slow = getattr(rule, "field", "").startswith(("duration.", "queue_wait."))
    first = "slowest" if slow else "failed"

    def rank(exemplar: Exemplar) -> tuple[bool, float]:
        return exemplar.kind != first, -(exemplar.duration or 0.0)

    ranked = sorted((exemplar for member in members for exemplar in member.exemplars), key=rank)
    return tuple(dict.fromkeys(exemplar.trace_id for exemplar in ranked))[:_MOST_EXEMPLARS]
