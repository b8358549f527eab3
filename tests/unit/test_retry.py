"""The retry policy: how long a failed event waits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import ConfigurationError, Retry

attempts = st.integers(1, 10_000)
seconds = st.floats(0, 1e6)
factors = st.floats(1, 100)


@given(attempts, seconds, factors, seconds, st.floats(0, 1))
def test_a_delay_is_within_its_bounds(attempt: int, base: float, factor: float, most: float, jitter: float) -> None:
    delay = Retry(base=base, factor=factor, max=most, jitter=jitter).delay(attempt)

    assert 0 <= delay <= most * (1 + jitter)


@given(attempts, seconds, factors, seconds)
def test_without_jitter_delays_never_shrink(attempt: int, base: float, factor: float, most: float) -> None:
    retry = Retry(base=base, factor=factor, max=most, jitter=0)

    assert retry.delay(attempt) <= retry.delay(attempt + 1)


def test_delays_double_up_to_the_maximum() -> None:
    retry = Retry(base=1, factor=2, max=10, jitter=0)

    assert [retry.delay(attempt) for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]


def test_jitter_spreads_what_failed_together() -> None:
    retry = Retry(base=10, jitter=0.5)
    delays = {retry.delay(1) for _ in range(50)}

    assert len(delays) > 1
    assert all(5 <= delay <= 15 for delay in delays)


@pytest.mark.parametrize(
    "mistake",
    [
        {"attempts": 0},
        {"base": -1},
        {"base": float("nan")},
        {"factor": 0.5},
        {"factor": 1e6},
        {"max": -1},
        {"max": float("nan")},
        {"jitter": 2},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_in_streams_yaml_and_in_code(mistake: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(mistake, Retry)
    ((name, value),) = mistake.items()
    with pytest.raises(ConfigurationError, match=rf"Retry\({name}={value}\): Expected"):
        Retry(**mistake)


def test_a_policy_of_other_words_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"tries": 3}, Retry)


def test_the_steepest_policy_does_not_overflow() -> None:
    assert Retry(base=1e9, factor=10_000, max=float("inf")).delay(10_000) > 1e200
