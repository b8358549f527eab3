"""Tallies: that the sum does not depend on how events were portioned, and that series are bounded."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.metrics import totals
from penstock.metrics.rollup import roll_up
from penstock.metrics.tally import OTHER, SeriesKey, Tallies, decode, encode, merged, pack, unpack
from penstock.metrics.totals import FORGOTTEN, Totals
from penstock_services.metrics.count import tally
from tests.metrics import EPOCH_MS, NOW, job

KINDS = ("job.completed", "job.failed", "job.dead", "ticket.triaged")
WINDOW = EPOCH_MS // 1000


def duration(number: int) -> float:
    """Return a duration that several numbers share."""
    return round(number % 500 * 0.00137, 6)


def counted(events: list[int]) -> Tallies:
    """Return the tallies of events that are told apart by a number each."""
    made = [
        job(
            EPOCH_MS + number % 10_000,
            KINDS[number % 4],
            event_id=f"event-{number}",
            duration=duration(number),
            queue_wait=round(number % 7 * 0.01, 6),
            tenant="acme" if number % 3 else None,
        )
        for number in events
    ]
    return tally(made, 5_000, NOW).get(WINDOW, Tallies())


def same(one: Tallies, other: Tallies) -> bool:
    return one.series == other.series and one.late == other.late


@given(st.sets(st.integers(0, 9_999), max_size=60), st.randoms(use_true_random=False))
def test_the_sum_is_the_same_in_any_order_and_any_portions(numbers: set[int], chance: random.Random) -> None:
    shuffled = list(numbers)
    chance.shuffle(shuffled)
    cut = sorted(chance.choices(range(len(shuffled) + 1), k=3))
    portions = [shuffled[start:end] for start, end in zip([0, *cut], [*cut, len(shuffled)], strict=True)]
    parts = [decode(encode(counted(portion)).encode()) for portion in portions]
    assert same(merged(parts), counted(sorted(numbers)))


def test_merging_leaves_the_parts_alone() -> None:
    parts = [counted([4, 8]), counted([12, 16])]
    before = [encode(part) for part in parts]
    merged(parts)
    assert [encode(part) for part in parts] == before


def test_which_of_equally_slow_events_are_kept_does_not_depend_on_their_order() -> None:
    alike = list(range(0, 30_000, 6_000))
    assert len(counted(alike).series) == 1
    assert same(counted(alike), counted(alike[::-1]))


def test_what_is_packed_comes_back() -> None:
    tallies = counted(list(range(200)))
    tallies.late = 3
    assert same(unpack(pack(tallies)), tallies)


def test_the_slowest_three_are_kept_as_examples() -> None:
    found = counted(list(range(0, 4_000, 4)))
    key = SeriesKey("job.completed", "worker", "acme", "ticket.created")
    slowest = [example.duration for example in found.series[key].slowest]
    assert slowest == sorted((duration(number) for number in range(0, 4_000, 4) if number % 3), reverse=True)[:3]


def test_few_series_are_left_alone() -> None:
    tallies = counted(list(range(40)))
    before = dict(tallies.series)
    assert tallies.bound(len(before)) == 0
    assert tallies.series == before


def test_series_beyond_the_bound_are_joined_and_no_event_is_lost() -> None:
    tallies = merged(
        tally([job(EPOCH_MS, f"type.{number}") for _ in range(number)], 5_000, NOW)[WINDOW] for number in range(1, 21)
    )
    joined = tallies.bound(8)
    assert joined == 13
    assert len(tallies.series) == 8
    assert tallies.count == sum(range(1, 21))
    assert tallies.series[SeriesKey(OTHER)].count == sum(range(1, 14))
    assert {key.type for key in tallies.series} == {OTHER, *(f"type.{number}" for number in range(14, 21))}


def of_tenants(count: int, *, failures: int, most: int) -> Tallies:
    """A window in which each tenant completes three jobs, and of the last ones one fails."""
    events = [job(EPOCH_MS, tenant=f"t{number:04}") for number in range(count) for _ in range(3)]
    events += [job(EPOCH_MS, "job.failed", tenant=f"t{number:04}") for number in range(count - failures, count)]
    tallies = tally(events, 5_000, NOW)[WINDOW]
    tallies.bound(most)
    return tallies


def test_all_outcomes_of_a_job_are_joined_or_none() -> None:
    tallies = of_tenants(1_500, failures=300, most=1_000)
    series = roll_up(tallies, 10)
    jobs = [one for one in series if one.name == "jobs"]

    assert len(tallies.series) <= 1_000
    assert sum(one.errors or 0 for one in jobs) == 300
    assert {(one.count, one.errors) for one in jobs if one.errors} == {(4, 1)}
    assert sum(one.count or 0 for one in jobs) == 4_800
    assert [one.labels["tenant"] for one in jobs if one.count and one.count > 4] == [OTHER]
    (overflow,) = [one for one in series if one.name == "overflow"]
    assert overflow.value
    assert overflow.value > 500


def test_where_there_is_room_for_nothing_else_outcomes_are_still_told_apart() -> None:
    tallies = of_tenants(50, failures=50, most=2)

    assert {(key.type, key.service, key.tenant): one.count for key, one in tallies.series.items()} == {
        ("job.completed", "worker", OTHER): 150,
        ("job.failed", "worker", OTHER): 50,
    }


def test_what_was_joined_before_stays_joined() -> None:
    tallies = merged(tally([job(EPOCH_MS, f"type.{number}")], 5_000, NOW)[WINDOW] for number in range(5))
    tallies.bound(3)
    tallies.merge(tally([job(EPOCH_MS, f"more.{number}") for number in range(5)], 5_000, NOW)[WINDOW])
    tallies.bound(3)
    assert len(tallies.series) == 3
    assert tallies.count == 10


def test_jobs_join_how_attempts_ended_and_their_error_rate_is_the_share_that_failed() -> None:
    events = [job(EPOCH_MS, "job.completed", duration=0.1) for _ in range(6)]
    events += [job(EPOCH_MS, "job.failed", duration=0.2), job(EPOCH_MS, "job.dead", duration=0.3)]
    events += [job(EPOCH_MS, "job.started"), job(EPOCH_MS, "ticket.triaged")]
    series = roll_up(tally(events, 5_000, NOW)[WINDOW], 10)
    (jobs,) = [one for one in series if one.name == "jobs"]
    assert jobs.labels == {"service": "worker", "job_type": "ticket.created"}
    assert (jobs.count, jobs.errors, jobs.error_rate, jobs.rate) == (8, 2, 0.25, 0.8)
    assert jobs.duration is not None
    assert jobs.duration.max == 0.3
    assert {one.labels["type"]: one.count for one in series if one.name == "events"} == {
        "job.completed": 6,
        "job.failed": 1,
        "job.dead": 1,
        "job.started": 1,
        "ticket.triaged": 1,
    }


def test_examples_carry_trace_ids_and_errors() -> None:
    failed = job(EPOCH_MS, "job.failed", duration=0.2, error="connection refused")
    series = roll_up(tally([failed], 5_000, NOW)[WINDOW], 10)
    assert {(one.kind, one.trace_id, one.event_id, one.duration, one.error) for one in series[0].exemplars} == {
        ("slowest", failed.trace.trace_id, failed.id, 0.2, None),
        ("failed", failed.trace.trace_id, failed.id, 0.2, "connection refused"),
    }


def test_totals_never_go_down_as_windows_are_added() -> None:
    sum_of_all = Totals()
    counts: list[int] = []
    for start in range(0, 100, 10):
        sum_of_all.add(start, counted(list(range(start))), 100)
        sum_of_all = totals.unpack(totals.pack(sum_of_all))
        counts.append(sum_of_all.tallies.count)
    assert counts == sorted(counts)
    assert counts[-1] == sum(range(0, 100, 10))


def test_totals_forget_a_series_a_day_after_its_last_event() -> None:
    sum_of_all = Totals()
    sum_of_all.add(0, tally([job(EPOCH_MS, "once")], 5_000, NOW)[WINDOW], 100)
    sum_of_all.add(FORGOTTEN, tally([job(EPOCH_MS, "often")], 5_000, NOW)[WINDOW], 100)
    assert {key.type for key in sum_of_all.tallies.series} == {"once", "often"}
    sum_of_all.add(FORGOTTEN + 10, tally([job(EPOCH_MS, "often")], 5_000, NOW)[WINDOW], 100)
    assert {key.type: one.count for key, one in sum_of_all.tallies.series.items()} == {"often": 2}


@pytest.mark.parametrize("most", [1, 2, 5])
def test_totals_are_bounded_too(most: int) -> None:
    sum_of_all = Totals()
    for number in range(20):
        sum_of_all.add(number * 10, tally([job(EPOCH_MS, f"type.{number}")], 5_000, NOW)[WINDOW], most)
    assert len(sum_of_all.tallies.series) == most == len(sum_of_all.seen)
    assert sum_of_all.tallies.count == 20
