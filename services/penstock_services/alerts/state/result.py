"""What a rule says of one label set at one time, and what it must remember to say so."""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock_services.alerts.state.sliding_sum import Sum

Level = Literal["bad", "between", "good", "missing"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`bad`: the condition holds. `between`: past the limit to clear, short of the one to fire: what fires goes on.

    `good`: it does not hold. `missing`: there was nothing to judge. `reason` says it in words.
    """

    level: Level
    reason: str
    value: float | None = None
    threshold: float | None = None
    exemplars: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """A verdict on the label set with this fingerprint."""

    fingerprint: str
    labels: dict[str, str]
    verdict: Verdict


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of one label set of one rule; `seen` is when there was last something."""

    rule: str
    labels: dict[str, str]
    seen: float


class Presence(Memory, frozen=True, kw_only=True, tag="presence"):
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


AnyMemory = Presence | Sums | Extremes | Baseline


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """When the last events that an event rule wants arrived, for one label set."""

    rule: str
    labels: dict[str, str]
    times: tuple[float, ...]


class Question(msgspec.Struct, frozen=True, kw_only=True):
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
