"""The health of a mesh in words: its circuit breakers and its dead letters."""

from __future__ import annotations

import time
from collections import Counter
from typing import Literal

import msgspec

from penstock.dlq.causes import Cause, CauseTally, died_at
from penstock.dlq.queue import DeadLetters
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.resilience.breaker import statuses

WARNING_THRESHOLD, CRITICAL_THRESHOLD = 10, 50  # dead letters that nobody has replayed
_DAY = 86_400
_MOST_CAUSES = 3
Status = Literal["healthy", "warning", "critical"]


class BreakerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One breaker; the counts are from its beginning."""

    state: Literal["closed", "open", "half_open"]
    failure_count: int
    success_count: int
    healthy: bool


class BreakerSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All breakers together; a half-open one is neither open nor closed."""

    total_breakers: int
    open_circuits: int
    closed_circuits: int
    all_healthy: bool


class BreakersHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What /health/circuit-breakers answers."""

    status: Status
    circuit_breakers: dict[str, BreakerHealth]
    summary: BreakerSummary


class DlqStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters that were not replayed."""

    total_failed_tasks: int
    recent_failures_24h: int
    failures_by_task_type: dict[str, int]


class DlqIndicators(msgspec.Struct, frozen=True, kw_only=True):
    """From how many dead letters on somebody should look."""

    requires_attention: bool
    warning_threshold: int = WARNING_THRESHOLD
    critical_threshold: int = CRITICAL_THRESHOLD


class DlqHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What /health/dlq answers."""

    status: Status
    statistics: DlqStatistics
    health_indicators: DlqIndicators
    recommendations: list[str]


async def breakers_health(redis: AsyncRedis, keys: Keys) -> BreakersHealth:
    """Return the health of every circuit breaker of the mesh."""
    found = await statuses(redis, keys)
    states = Counter(status.state for status in found)
    return BreakersHealth(
        status="critical" if states["open"] else "warning" if states["half_open"] else "healthy",
        circuit_breakers={
            one.name: BreakerHealth(
                state=one.state,
                failure_count=one.failure_count,
                success_count=one.success_count,
                healthy=one.healthy,
            )
            for one in found
        },
        summary=BreakerSummary(
            total_breakers=len(found),
            open_circuits=states["open"],
            closed_circuits=states["closed"],
            all_healthy=all(one.healthy for one in found),
        ),
    )


async def dlq_health(redis: AsyncRedis, keys: Keys) -> DlqHealth:
    """Return the health of the dead letter queue, with what to do about it."""
    yesterday = time.time() - _DAY
    recent = 0
    types: Counter[str] = Counter()
    tally = CauseTally()
    async for letter in DeadLetters(redis, keys).newest():
        types[letter.type or "(no type)"] += 1
        recent += died_at(letter) > yesterday
        tally.add(letter)
    count = types.total()
    return DlqHealth(
        status=dead_letters_status(count),
        statistics=DlqStatistics(
            total_failed_tasks=count,
            recent_failures_24h=recent,
            failures_by_task_type=dict(types.most_common()),
        ),
        health_indicators=DlqIndicators(requires_attention=count >= WARNING_THRESHOLD),
        recommendations=_recommendations(tally.causes),
    )


def dead_letters_status(count: int) -> Status:
    """Return how it stands with so many dead letters that nobody has replayed."""
    return "critical" if count >= CRITICAL_THRESHOLD else "warning" if count >= WARNING_THRESHOLD else "healthy"


def _recommendations(causes: list[Cause]) -> list[str]:
    if not causes:
        return ["There are no dead letters: nothing to do."]
    return [_advice(cause) for cause in causes[:_MOST_CAUSES]]


def _advice(cause: Cause) -> str:
    what = f"{cause.count} x {cause.type or 'an event without a type'} ({cause.error.partition(chr(10))[0][:120]})"
    look = f"`penstock dlq show {cause.example}`"
    again = f"`penstock dlq replay --fingerprint '{cause.fingerprint}' --canary 1 --stop-on-failure`"
    match cause.reason:
        case "invalid":
            return (
                f"{what}: the producer sends what the handler cannot read. See {look}; mend one by `dlq replay --edit`."
            )
        case "unhandled":
            return f"{what}: no handler takes this type. Deploy one, then {again}."
        case "crashed":
            return f"{what}: it killed its process. See {look}, and try it on a single worker before you replay it."
        case "rejected":
            return f"{what}: the handler refused it for good. See {look}; replay only if its reason is gone: {again}."
        case _:
            return f"{what}: every attempt failed. See {look}; once the cause is mended, {again}."
