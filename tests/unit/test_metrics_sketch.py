"""Distributions in logarithmic buckets, against exact computation."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.metrics.sketch import (
    LEAST,
    MOST,
    RELATIVE_ERROR,
    ZERO,
    Distribution,
    bucket_of,
    estimate,
    upper_bound,
)

SHARES = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)
ROUNDING = 1e-9
durations = st.floats(min_value=0, max_value=MOST)
measured = st.floats(min_value=LEAST, max_value=MOST)


def distribution(values: list[float]) -> Distribution:
    made = Distribution()
    for value in values:
        made.add(value)
    return made


@given(measured)
@example(LEAST)
@example(MOST)
@example(1.0)
def test_what_a_bucket_stands_for_is_within_the_stated_error(value: float) -> None:
    assert abs(estimate(bucket_of(value)) - value) <= value * (RELATIVE_ERROR + ROUNDING)


@given(measured)
def test_a_duration_lies_between_the_bounds_of_its_bucket(value: float) -> None:
    bucket = bucket_of(value)
    assert upper_bound(bucket - 1) * (1 - ROUNDING) <= value <= upper_bound(bucket) * (1 + ROUNDING)


@given(st.lists(measured, min_size=2, max_size=2).map(sorted))
def test_a_longer_duration_is_never_in_a_lower_bucket(pair: list[float]) -> None:
    assert bucket_of(pair[0]) <= bucket_of(pair[1])


@given(st.floats(min_value=0, max_value=LEAST, exclude_max=True))
def test_what_is_shorter_than_a_microsecond_counts_as_zero(value: float) -> None:
    assert bucket_of(value) == ZERO < bucket_of(LEAST)
    assert estimate(ZERO) == 0.0


def test_all_durations_share_fewer_than_1800_buckets() -> None:
    assert bucket_of(MOST) - ZERO < 1_800


@given(st.lists(durations, min_size=1, max_size=300))
def test_quantiles_are_within_the_stated_error_of_the_exact_ones(values: list[float]) -> None:
    ordered = sorted(values)
    found = distribution(values).quantiles(SHARES)
    for share, quantile in zip(SHARES, found, strict=True):
        exact = ordered[math.floor(share * (len(values) - 1))]
        assert abs(quantile - exact) <= max(exact * (RELATIVE_ERROR + ROUNDING), LEAST)
    assert distribution(values).longest == ordered[-1]


@given(st.lists(durations, max_size=50), st.lists(durations, max_size=50))
def test_merging_is_as_good_as_counting_everything_in_one_place(left: list[float], right: list[float]) -> None:
    both = distribution(left)
    both.merge(distribution(right))
    assert both == distribution(left + right)


def test_merging_leaves_the_other_distribution_alone() -> None:
    other = distribution([1.0])
    mine = Distribution()
    mine.merge(other)
    mine.add(2.0)
    assert other == distribution([1.0])


def test_the_sum_is_exact_to_the_microsecond() -> None:
    assert distribution([0.1] * 1_000_000).micros == 100_000_000_000


def test_an_empty_distribution_refuses_to_invent_quantiles() -> None:
    with pytest.raises(ValueError, match="empty"):
        Distribution().quantiles([0.5])
