"""Sums over the last stretch of time, in a bounded number of buckets."""

from __future__ import annotations

import msgspec

_BUCKETS = 30


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """What went wrong, and how much there was in all, in bucket number `index` since the epoch."""

    index: int
    bad: float
    total: float


class Sum(msgspec.Struct, frozen=True, array_like=True):
    """A sliding sum over `span` seconds; its far edge is exact to a thirtieth of that."""

    span: float
    buckets: tuple[Bucket, ...] = ()

    def add(self, start: float, bad: float, total: float) -> Sum:
        """Return the sum with a window that starts at `start` added; what is too old is left out."""
        index = int(start // (self.span / _BUCKETS))
        kept = [bucket for bucket in self.buckets if index - _BUCKETS < bucket.index < index]
        same = next((bucket for bucket in self.buckets if bucket.index == index), Bucket(index, 0, 0))
        now = Bucket(index, same.bad + bad, same.total + total)
        return Sum(self.span, (*kept, now))

    @property
    def bad(self) -> float:
        """What went wrong."""
        return sum(bucket.bad for bucket in self.buckets)

    @property
    def total(self) -> float:
        """How much there was in all."""
        return sum(bucket.total for bucket in self.buckets)

    @property
    def share(self) -> float:
        """The share that went wrong; 0 of nothing."""
        return self.bad / self.total if self.total else 0.0
