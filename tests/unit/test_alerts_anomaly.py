"""False alarms, measured: seeded data without any anomaly; and anomalies that must be found.

Bounds are for 10,000 evaluations; docs/alerts.md says what was measured. A rule asks for two evaluations in a row,
which is why rules raise none where a single evaluation raises some.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest

from penstock.schemas import Series
from penstock_services.alerts.evaluate.anomaly import count_deviation, duration_deviation, of_count, of_duration
from tests.alerting import Mesh, jobs, rules_text

EVALUATIONS = 10_000
LEARNING = 60


def poisson(rng: random.Random, mean: float) -> int:
    """Draw from a Poisson distribution (Knuth, TAOCP volume 2, 3.4.1)."""
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def p95(rng: random.Random, events: int, *, sigma: float) -> float:
    """Return the 95th percentile of that many log-normal durations around 100 ms."""
    drawn = sorted(rng.lognormvariate(math.log(0.1), sigma) for _ in range(events))
    return drawn[math.ceil(0.95 * events) - 1]


def alarms(rule: str, windows: Iterator[Series]) -> int:
    """Return how many alerts a rule raises over `windows`."""
    mesh = Mesh(rules_text(r=rule + "\nflap: {triggers: 100}"))
    for series in windows:
        mesh.window(series, scope="events")
    return sum(kind == "alert.triggered" for kind, _ in mesh.state.outbox)


ANOMALY = "kind: anomaly\nseries: jobs\nby: []\n"


@pytest.mark.parametrize(("mean", "most"), [(0.05, 0), (0.5, 0), (10, 12), (50, 12)])
def test_counts_alone_seldom_look_like_an_anomaly(mean: float, most: int) -> None:
    rng = random.Random(1)
    counts = [poisson(rng, mean) for _ in range(EVALUATIONS + LEARNING)]
    found = 0
    for at in range(LEARNING, len(counts)):
        deviation = count_deviation(counts[at], [of_count(count) for count in counts[at - LEARNING : at]])
        found += abs(deviation.score) > 3.5 and abs(counts[at] - deviation.usual) >= 5

    assert found <= most


@pytest.mark.parametrize("mean", [0.05, 0.5, 10, 50])
def test_an_anomaly_rule_on_counts_raises_no_false_alarm(mean: float) -> None:
    rng = random.Random(2)

    assert alarms(ANOMALY, (jobs(poisson(rng, mean)) for _ in range(EVALUATIONS + LEARNING))) == 0


@pytest.mark.parametrize("events", [20, 200, 1_000])
@pytest.mark.parametrize(("sigma", "most"), [(0.3, 0), (1.0, 30)])
def test_durations_alone_seldom_look_like_an_anomaly(events: int, sigma: float, most: int) -> None:
    rng = random.Random(3)
    values = [p95(rng, events, sigma=sigma) for _ in range(EVALUATIONS // 5 + LEARNING)]
    found = 0
    for at in range(LEARNING, len(values)):
        usual = [of_duration(value) for value in values[at - LEARNING : at]]
        deviation = duration_deviation(values[at], events, usual)
        found += deviation.score > 3.5 and values[at] > 1.5 * deviation.usual

    assert found * 5 <= most


@pytest.mark.parametrize(("least", "most"), [(30, 30), (20, 400)])
def test_an_anomaly_rule_on_durations_raises_no_false_alarm(least: int, most: int) -> None:
    rng = random.Random(4)
    rule = ANOMALY + "field: duration.p95"

    def windows() -> Iterator[Series]:
        for _ in range((EVALUATIONS if least == most else EVALUATIONS // 5) + LEARNING):
            events = rng.choice((least, most))
            yield jobs(events, p95=p95(rng, events, sigma=0.7))

    assert alarms(rule, windows()) == 0


def test_a_ratio_rule_raises_no_false_alarm_well_below_its_limit() -> None:
    rng = random.Random(5)
    rule = "kind: ratio\nseries: jobs\nby: []\nabove: 10%\nclear: 5%\nmin_count: 20"

    def windows() -> Iterator[Series]:
        for _ in range(EVALUATIONS):
            count = poisson(rng, 3)
            yield jobs(count, sum(rng.random() < 0.02 for _ in range(count)))

    assert alarms(rule, windows()) == 0


def test_a_burn_rate_rule_raises_no_false_alarm_within_its_objective() -> None:
    rng = random.Random(6)
    rule = "kind: burn_rate\nseries: jobs\nby: []\nobjective: 99%\nrates: [14.4, 6, 3]\nmin_count: 100"

    def windows() -> Iterator[Series]:
        for _ in range(EVALUATIONS):
            count = poisson(rng, 5)
            yield jobs(count, sum(rng.random() < 0.005 for _ in range(count)))

    assert alarms(rule, windows()) == 0


@pytest.mark.parametrize(
    ("usual", "then"), [(10.0, 0.0), (10.0, 40.0), (50.0, 15.0), (50.0, 110.0), (0.05, 12.0)], ids=str
)
def test_a_change_of_counts_that_matters_is_found_within_two_windows(usual: float, then: float) -> None:
    rng = random.Random(7)
    missed = 0
    for _ in range(50):
        mesh = Mesh(rules_text(r=ANOMALY))
        for mean in [usual] * LEARNING + [then] * 2:
            mesh.window(jobs(poisson(rng, mean)), scope="events")
        missed += mesh.told[-1:] != ["triggered r"]

    assert missed <= 1


def test_durations_that_treble_are_found_within_two_windows() -> None:
    rng = random.Random(8)

    def fires(factor: float) -> bool:
        mesh = Mesh(rules_text(r=ANOMALY + "field: duration.p95"))
        for times in [1.0] * LEARNING + [factor] * 2:
            mesh.window(jobs(50, p95=times * p95(rng, 50, sigma=0.5)), scope="events")
        return mesh.told == ["triggered r"]

    assert sum(fires(3.0) for _ in range(50)) >= 49
    assert sum(fires(1.0) for _ in range(50)) == 0
