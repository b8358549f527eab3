"""How far a number is from what is usual, with the noise that numbers of its kind have by themselves.

The count-aware method: counts are transformed with 2 * sqrt(x + 3/8) (Anscombe 1948), after which Poisson noise
has a spread of 1 whatever the mean; the spread seen is never taken for less than that. Durations are
taken by their logarithm, and the spread is never taken for less than 1.5 / sqrt(count): that is the noise of the
95th percentile of so many, were they exponentially distributed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import msgspec

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
