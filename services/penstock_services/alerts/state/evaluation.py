"""What a rule says of one label set at one time, and what it must remember to say so."""

from __future__ import annotations

from typing import Literal

import msgspec

_BUCKETS = 30  # of a sliding sum
Level = Literal["bad", "between", "good", "missing"]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """`bad`: the condition holds. `between`: past the limit to clear, short of the one to fire: what fires goes on.

    `good`: it does not hold. `missing`: there was nothing to evaluate. `reason` says it in words. `ceased` is
    since when it has not held, where that is known to be before the evaluation.
    """

    level: Level
    reason: str
    value: float | None = None
    threshold: float | None = None
    exemplars: tuple[str, ...] = ()
    ceased: float | None = None


class Finding(msgspec.Struct, frozen=True):
    """An evaluation of the label set with this fingerprint."""

    fingerprint: str
    labels: dict[str, str]
    evaluation: Evaluation


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


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one label set of one rule; `seen` is when there was last something."""

    rule: str
    labels: dict[str, str]
    seen: float


class LastSeen(Memory, frozen=True, kw_only=True, tag="last_seen"):
    """That it was there."""


class Sums(Memory, frozen=True, kw_only=True, tag="sums"):
    """Sliding sums of what went wrong and of all."""

    sums: tuple[Sum, ...]


class Extremes(Memory, frozen=True, kw_only=True, tag="extremes"):
    """The extreme value of each stretch of time: {stretch: value}."""

    values: dict[int, float]


class Baseline(Memory, frozen=True, kw_only=True, tag="baseline"):
    """What is usual: the last samples, transformed; and how many evaluations in a row were far from it."""

    samples: tuple[float, ...] = ()
    streak: int = 0


AnyMemory = LastSeen | Sums | Extremes | Baseline


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """When the last events that an event rule wants arrived, for one label set."""

    rule: str
    labels: dict[str, str]
    times: tuple[float, ...]


class EvaluationContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule is asked: how is this label set at the window from `start` to `at`?

    `firing` is since when its alert has been firing, if it is; `pending` says that it is about to.
    """

    labels: dict[str, str]
    start: float
    at: float
    firing: float | None = None
    pending: bool = False


def subject(labels: dict[str, str]) -> str:
    """Return labels in words: `ingest/worker`."""
    return "/".join(labels[name] for name in labels) or "all"
