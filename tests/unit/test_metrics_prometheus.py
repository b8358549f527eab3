"""The page for Prometheus, read by Prometheus' own client library."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from penstock.event import Event
from penstock.metrics.tally import SeriesKey, Tallies, Tally
from penstock.schemas import Series
from penstock_services.metrics.count import tally
from penstock_services.metrics.prometheus import BOUNDS, exposition
from tests.metrics import EPOCH_MS, NOW, job


def samples(totals: Tallies, gauges: Iterable[Series] = ()) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(exposition(totals, gauges)):
        assert family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def counted(events: list[Event]) -> Tallies:
    (tallies,) = tally(events, 5_000, NOW).values()
    return tallies


def test_events_are_counted_by_their_labels() -> None:
    found = samples(counted([job(EPOCH_MS, tenant="acme"), job(EPOCH_MS, tenant="acme"), job(EPOCH_MS, "x.y")]))
    labels = {"type": "job.completed", "service": "worker", "tenant": "acme", "job_type": "ticket.created"}
    assert found["penstock_events_total", frozenset(labels.items())] == 2
    assert found["penstock_events_total", frozenset({"type": "x.y", "service": "worker"}.items())] == 1
    assert found["penstock_events_late_total", frozenset()] == 0


@given(st.lists(st.floats(0, 10_000), min_size=1, max_size=100))
def test_a_histogram_counts_what_is_at_most_each_bound(durations: list[float]) -> None:
    found = samples(counted([job(EPOCH_MS, duration=duration) for duration in durations]))
    labels = {"type": "job.completed", "service": "worker", "job_type": "ticket.created"}
    name = "penstock_job_duration_seconds"
    assert found[f"{name}_count", frozenset(labels.items())] == len(durations)
    assert abs(found[f"{name}_sum", frozenset(labels.items())] - sum(durations)) < 1e-3
    before = 0.0
    for bound in BOUNDS:
        count = found[f"{name}_bucket", frozenset({**labels, "le": f"{bound:g}"}.items())]
        surely = sum(duration <= bound * 0.98 for duration in durations)
        at_most = sum(duration <= bound for duration in durations)
        assert max(before, surely) <= count <= at_most
        before = count
    assert found[f"{name}_bucket", frozenset({**labels, "le": "+Inf"}.items())] == len(durations)


def test_gauges_have_base_units_in_their_names() -> None:
    labels = {"stream": "events", "group": "metrics"}
    names = ("lag_age", "lag", "oldest_pending", "pending", "delayed", "retry", "dead", "consumers")
    gauges = [Series(name=name, labels=labels, value=float(number)) for number, name in enumerate(names, 1)]
    found = samples(Tallies(), gauges)
    key = frozenset(labels.items())
    assert found["penstock_lag_age_seconds", key] == 1
    assert found["penstock_oldest_pending_seconds", key] == 3
    assert {value for (_, labels_of), value in found.items() if labels_of == key} == set(range(1, 9))


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1))
def test_any_text_may_be_a_label(text: str) -> None:
    found = samples(Tallies({SeriesKey(text): Tally(count=3)}))
    assert found["penstock_events_total", frozenset({("type", text)})] == 3
