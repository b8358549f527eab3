"""What a type cannot say about a rule: every mistake a person makes gets a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from penstock.config import did_you_mean
from penstock.matchers import Matcher
from penstock.schemas import COUNTED
from penstock_services.alerts.rules import summary as templates
from penstock_services.alerts.rules.model import (
    BURN_WINDOWS,
    COUNTS,
    DISTRIBUTIONS,
    LABELS,
    Absence,
    Anomaly,
    BurnRates,
    Ratio,
    Rule,
    SeriesRule,
    Threshold,
    alert_labels,
)

_WINDOWS = (10.0, 60.0)
_SHORTEST_ABSENCE = 60


def problems_of(rule: Rule) -> list[str]:
    """Return a sentence for each thing that is wrong with `rule`, each begun by its key."""
    problems = list(_of_series(rule)) if isinstance(rule, SeriesRule) else []
    if problems:
        return problems  # without a series that is right nothing else can be evaluated
    match rule:
        case Threshold():
            problems += _of_threshold(rule)
        case Ratio():
            problems += _of_ratio(rule)
        case Absence():
            problems += _of_absence(rule)
        case BurnRates():
            problems += _of_burn_rates(rule)
        case Anomaly():
            problems += _of_anomaly(rule)
    return problems + list(_of_labels(rule))


def _of_series(rule: SeriesRule) -> Iterator[str]:
    labels = LABELS.get(rule.series)
    if labels is None:
        yield f"series: there is no series {rule.series}; {did_you_mean(rule.series, LABELS)}"
        return
    yield from _of_matchers("where", rule.where, rule.series)
    for label in rule.by or ():
        if label not in labels:
            yield f"by: {_no_label(rule.series, label)}"
    if float(rule.window) not in _WINDOWS:
        yield "window: roll-ups are 10s or 60s long"


def _of_matchers(key: str, matchers: Iterable[Matcher], series: str) -> Iterator[str]:
    for matcher in matchers:
        if matcher.label not in LABELS[series]:
            yield f"{key}: {_no_label(series, matcher.label)}"


def _of_threshold(rule: Threshold) -> Iterator[str]:
    fields = _fields(rule.series)
    if rule.field not in fields:
        yield f"field: {rule.series} has no {rule.field}; {did_you_mean(rule.field, fields)}"
    if (rule.above is None) == (rule.below is None):
        yield "above: give either above or below" + ("" if rule.above is None else ", not both")
    elif rule.clear is not None:
        if rule.above is not None and rule.clear > rule.above:
            yield "clear: it must not be greater than above, or the alert would clear while it fires"
        if rule.below is not None and rule.clear < rule.below:
            yield "clear: it must not be less than below, or the alert would clear while it fires"


def _of_ratio(rule: Ratio) -> Iterator[str]:
    yield from _counted(rule, rule.only)
    if rule.clear is not None and rule.clear > rule.above:
        yield "clear: it must not be greater than above, or the alert would clear while it fires"
    if rule.over < rule.window:
        yield "over: it must not be shorter than window"


def _of_absence(rule: Absence) -> Iterator[str]:
    if rule.after < _SHORTEST_ABSENCE:
        yield "after: at least 60s, since a window reaches the alert manager up to 30 s after its end"


def _of_burn_rates(rule: BurnRates) -> Iterator[str]:
    yield from _counted(rule, rule.only)
    for rate in rule.rates:
        if rate not in BURN_WINDOWS:
            yield f"rates: there is no rate {rate:g}; the rates are {', '.join(f'{one:g}' for one in BURN_WINDOWS)}"


def _of_anomaly(rule: Anomaly) -> Iterator[str]:
    yield from _counted(rule, ())
    fields = ("count", "errors", *DISTRIBUTIONS)
    if rule.field not in fields:
        yield f"field: an anomaly is one of a count or of a duration; {did_you_mean(rule.field, fields)}"
    if rule.clear_score >= rule.score:
        yield "clear_score: it must be less than score"
    if rule.min_samples > rule.baseline:
        yield "min_samples: it must not be greater than baseline, or nothing would ever be evaluated"


def _counted(rule: SeriesRule, only: tuple[Matcher, ...]) -> Iterator[str]:
    if rule.series not in COUNTED:
        yield f"series: {rule.series} counts nothing; take {' or '.join(COUNTED)}"
    yield from _of_matchers("only", only, rule.series)


def _of_labels(rule: Rule) -> Iterator[str]:
    own = alert_labels(rule)
    for label in rule.labels:
        if label in (*own, "rule", "severity"):
            yield f"labels.{label}: the alert has a label of this name already; choose another"
    for label in rule.group_by or ():
        if label not in {*own, *rule.labels}:
            yield f"group_by: the alerts have no label {label}; {did_you_mean(label, (*own, *rule.labels))}"
    try:
        asked = templates.placeholders(rule.summary)
    except ValueError as error:
        yield f"summary: {error}"
        return
    known = (*templates.ALWAYS, *own, *rule.labels)
    for name in sorted(asked - set(known)):
        yield f"summary: nothing is called {{{name}}}; {did_you_mean(name, known)}"


def _fields(series: str) -> tuple[str, ...]:
    return (*COUNTS, *DISTRIBUTIONS) if series in COUNTED else ("value",)


def _no_label(series: str, label: str) -> str:
    return f"{series} has no label {label}; {did_you_mean(label, LABELS[series])}"
