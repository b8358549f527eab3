"""Distributions of seconds in logarithmic buckets: small, exact to merge, with a stated error.

The mapping is DDSketch's: Masson, Rim and Lee, "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
Relative-Error Guarantees", PVLDB 12(12), 2019, section 2 (https://doi.org/10.14778/3352063.3352135). Bucket i
holds the values in (gamma^(i-1), gamma^i] and stands for 2 gamma^i / (gamma + 1), which is within
RELATIVE_ERROR of each of them. From LEAST to MOST there are fewer than 1,800 buckets, so none is ever
collapsed, and merging is adding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

RELATIVE_ERROR: Final = 0.01
GAMMA: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LEAST: Final = 1e-6
"""Shorter durations, in seconds, count as zero."""
MOST: Final = 1e9
_PER_LOG = 1 / math.log(GAMMA)
ZERO: Final = math.ceil(math.log(LEAST) * _PER_LOG) - 1
"""The bucket of what is shorter than LEAST."""


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration between 0 and MOST."""
    return math.ceil(math.log(seconds) * _PER_LOG) if seconds >= LEAST else ZERO


def estimate(bucket: int) -> float:
    """Return the duration that a bucket stands for."""
    return 0.0 if bucket == ZERO else 2 * GAMMA**bucket / (GAMMA + 1)


def upper_bound(bucket: int) -> float:
    """Return the longest duration that falls into a bucket."""
    return LEAST if bucket == ZERO else GAMMA**bucket


class Distribution(msgspec.Struct, array_like=True):
    """How often which duration occurred. `micros` is their sum in microseconds, `longest` is in seconds."""

    buckets: dict[int, int] = {}
    micros: int = 0
    longest: float = 0.0

    @property
    def count(self) -> int:
        """How many durations it holds."""
        return sum(self.buckets.values())

    def add(self, seconds: float) -> None:
        """Count one duration between 0 and MOST."""
        bucket = bucket_of(seconds)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.micros += round(seconds * 1e6)
        self.longest = max(self.longest, seconds)

    def merge(self, other: Distribution) -> None:
        """Count everything that `other` holds."""
        mine = self.buckets
        for bucket, count in other.buckets.items():
            mine[bucket] = mine.get(bucket, 0) + count
        self.micros += other.micros
        self.longest = max(self.longest, other.longest)

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Return, for each share in ascending order, the duration of rank floor(share * (count - 1)) from 0.

        Each is within RELATIVE_ERROR of the exact one, or within LEAST below that.

        Raises:
            ValueError: the distribution is empty.
        """
        if not self.buckets:
            raise ValueError("an empty distribution has no quantiles")
        last = self.count - 1
        ordered = sorted(self.buckets)
        found: list[float] = []
        position, seen = 0, self.buckets[ordered[0]]
        for share in shares:
            while seen <= math.floor(share * last):
                position += 1
                seen += self.buckets[ordered[position]]
            found.append(min(estimate(ordered[position]), self.longest))
        return found
