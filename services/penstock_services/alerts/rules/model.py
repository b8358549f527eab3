"""The rules of alerts.yaml, one struct for each kind. docs/alerts.md explains each with an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from penstock.config import Duration, Section
from penstock.matchers import Matcher
from penstock.schemas import COUNTED, GAUGES, MEASURED, Severity
from penstock_services.alerts.rules.quantities import DurationOrZero, Number, Share

LABELS = {**COUNTED, **GAUGES, **MEASURED}
"""The labels that each series may have."""
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class Flap(Section, frozen=True, kw_only=True):
    """Damping: what begins to fire `triggers` times `within` so long fires on until it was well for `calm`."""

    triggers: Annotated[int, msgspec.Meta(ge=2, le=100)] = 4
    within: Duration = Duration(1800)
    calm: Duration = Duration(600)


class Rule(Section, frozen=True, kw_only=True):
    """What every rule has.

    `hold` (`for` in the file): how long the condition must hold before it fires. `keep_firing`: how long it
    must have ceased before the alert resolves. `cooldown`: how long after a resolve it may not fire again.
    `repeat`: how often people are renotified while it fires. `group_by`: alerts of the rule that have the
    same values of these labels are told as one; None tells each by itself.
    """

    name: str
    severity: Severity = "warning"
    hold: DurationOrZero = msgspec.field(name="for", default=DurationOrZero(0))
    keep_firing: DurationOrZero | None = None
    cooldown: DurationOrZero = DurationOrZero(0)
    repeat: Duration = Duration(4 * 3600)
    labels: dict[Text, Text] = msgspec.field(default_factory=dict)
    summary: Text = "{rule}: {reason}"
    runbook: Text | None = None
    group_by: tuple[Text, ...] | None = None
    flap: Flap = Flap()


class SeriesRule(Rule, frozen=True, kw_only=True):
    """A rule on series of the roll-ups: those called `series` whose labels meet `where`.

    `by` names the labels that tell one alert from another; series that agree on them are joined (counts
    are added, of everything else the worst counts). None keeps each series apart. `window` is the length of the
    roll-ups to evaluate: 10 s or 60 s.
    """

    series: Text
    where: tuple[Matcher, ...] = ()
    by: tuple[Text, ...] | None = None
    window: Duration = Duration(10)


class Threshold(SeriesRule, frozen=True, kw_only=True, tag="threshold", tag_field="kind"):
    """Fires while `field` is above or below a limit, until it is past `clear` on the way back.

    With `change` it is not the field itself but how far it has moved within that time that counts: up from
    its least for `above`, down from its greatest for `below`.
    """

    field: Text = "value"
    above: Number | None = None
    below: Number | None = None
    clear: Number | None = None
    change: Duration | None = None


class Ratio(SeriesRule, frozen=True, kw_only=True, tag="ratio", tag_field="kind"):
    """Fires while too large a share of what was counted went wrong, of at least `min_count` in `over`.

    What went wrong is `errors`, or with `only` the count of those series that meet these matchers too.
    """

    only: tuple[Matcher, ...] = ()
    over: Duration = Duration(300)
    above: Share
    clear: Share | None = None
    min_count: AtLeastOne = 20


class Absence(SeriesRule, frozen=True, kw_only=True, tag="absence", tag_field="kind"):
    """Fires when none of the series has been there, or none of them has counted anything, for `after`.

    Without `by` that is one alert; with it one for each set of labels that was there once.
    """

    by: tuple[Text, ...] | None = ()
    after: Duration


class BurnRates(SeriesRule, frozen=True, kw_only=True, tag="burn_rate", tag_field="kind"):
    """Fires while the error budget of `objective` burns `rates` times too fast, over a long and a short window.

    A rate of 1 uses up the budget of 30 days in 30 days. The windows belonging to each rate are those of
    the Site Reliability Workbook, chapter 5: 14.4: 1h and 5m; 6: 6h and 30m; 3: 1d and 2h; 1: 3d and 6h.
    """

    only: tuple[Matcher, ...] = ()
    objective: Share
    rates: Annotated[tuple[float, ...], msgspec.Meta(min_length=1)] = (14.4, 6.0)
    min_count: AtLeastOne = 20


class Anomaly(SeriesRule, frozen=True, kw_only=True, tag="anomaly", tag_field="kind"):
    """Fires when `field` is far from what it was in the last `baseline` windows, `evaluations` times in a row.

    `score` is how many times the usual spread; it clears below `clear_score`. `min_change` is the least change
    that matters: a number for counts, a share of the usual value for durations. `min_count` is the fewest
    events whose duration says anything. A change that lasts for `relearn` becomes what is usual.
    """

    field: Text = "count"
    direction: Literal["up", "down", "both"] | None = None
    score: Annotated[float, msgspec.Meta(gt=0)] = 3.5
    clear_score: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    baseline: Annotated[int, msgspec.Meta(ge=10, le=1_000)] = 60
    min_samples: Annotated[int, msgspec.Meta(ge=5, le=1_000)] = 30
    min_change: Number | None = None
    min_count: AtLeastOne = 20
    evaluations: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    relearn: Duration = Duration(6 * 3600)


class EventRule(Rule, frozen=True, kw_only=True, tag="event", tag_field="kind"):
    """Fires when `at_least` events of a type (`job.*`) come `within` a time; `where` matches what they say.

    Labels are the event's type, source, tenant and subject, and what its data holds at the top level. It
    resolves at an event of type `resolved_by` with the same `by` labels, else when none has come for
    `keep_firing` (10 min).
    """

    type: Text
    where: tuple[Matcher, ...] = ()
    by: tuple[Text, ...] = ()
    at_least: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 1
    within: Duration = Duration(60)
    resolved_by: Text | None = None


class Inhibition(Section, frozen=True, kw_only=True):
    """While an alert that matches `source` fires, nobody is told of those that match `target`.

    Both must have all the labels `equal`, with the same values. `rule` and `severity` can be matched like labels.
    """

    source: Annotated[tuple[Matcher, ...], msgspec.Meta(min_length=1)]
    target: Annotated[tuple[Matcher, ...], msgspec.Meta(min_length=1)]
    equal: Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Everything alerts.yaml says."""

    rules: dict[str, Rule] = {}
    inhibit: tuple[Inhibition, ...] = ()


KINDS: dict[str, type[Rule]] = {
    "threshold": Threshold,
    "ratio": Ratio,
    "absence": Absence,
    "burn_rate": BurnRates,
    "anomaly": Anomaly,
    "event": EventRule,
}


COUNTS = ("count", "rate", "errors", "error_rate")


DISTRIBUTIONS = tuple(
    f"{what}.{field}" for what in ("duration", "queue_wait") for field in ("p50", "p90", "p95", "p99", "max")
)


BURN_WINDOWS: dict[float, tuple[float, float]] = {
    14.4: (3_600, 300),
    6.0: (21_600, 1_800),
    3.0: (86_400, 7_200),
    1.0: (259_200, 21_600),
}
"""The long and the short window, in seconds, that belong to a burn rate (Site Reliability Workbook, chapter 5)."""


def scope_of(series: str) -> Literal["events", "mesh"]:
    """Return the scope of the windows that hold a series."""
    return "mesh" if series in GAUGES else "events"


def alert_labels(rule: Rule) -> tuple[str, ...]:
    """Return the labels that alerts of `rule` get from what it looks at."""
    if isinstance(rule, SeriesRule):
        return LABELS[rule.series] if rule.by is None else rule.by
    return rule.by if isinstance(rule, EventRule) else ()


def own_labels(rule: Rule, labels: Mapping[str, str]) -> dict[str, str]:
    """Return those of an alert's labels that come from what the rule looks at, and not from the rule."""
    made = alert_labels(rule)
    return {name: value for name, value in labels.items() if name in made}
