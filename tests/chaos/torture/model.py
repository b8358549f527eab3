"""What must come of a plan, whatever is done to the processes, the network and Redis meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tests.chaos.torture.behaviour import FOR_EVER, Behaviour, behaviour
from tests.chaos.torture.plan import (
    CANCEL,
    EXIT,
    FIRST,
    HARMFUL,
    HARMFUL_ATTEMPTS,
    POISON,
    UNKNOWN,
    WORK,
    Plan,
    Reads,
    Root,
    ServicePlan,
)


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """An event that must lie in a stream once. `cause` is the key of the event it came of."""

    stream: str
    key: str
    type: str
    subject: str
    tenant: str | None
    cause: str | None = None
    service: str | None = None


class Handled(msgspec.Struct, frozen=True, kw_only=True):
    """What one service must have made of one event.

    `deaths` dead letters of `reason` after `attempts` attempts each (FOR_EVER: as many as it has lives), and
    then, unless it dies for ever, it is done once. The counts are those of its outcome hook, None where it
    has none. `kills` is of an event that takes its process along.
    """

    service: str
    key: str
    deaths: int = 0
    reason: str = ""
    attempts: int = 1
    retried: int | None = None
    snoozed: int | None = None
    counts_deaths: bool = False
    counts_nonces: bool = False
    kills: bool = False


class Expected(msgspec.Struct, frozen=True):
    """All that must come of a plan."""

    published: list[Published]
    handled: dict[tuple[str, str], Handled]

    @property
    def outputs(self) -> int:
        return sum(one.cause is not None for one in self.published)


def predict(plan: Plan, harmful: Iterable[Root] = ()) -> Expected:
    """Follow every event of `plan` from its root to its last descendants."""
    expected = Expected([], {})
    waiting = [
        Published(stream=FIRST, key=root.key, type=root.type, subject=root.subject, tenant=root.tenant)
        for root in (*plan.roots, *harmful)
    ]
    unreadable = {root.key for root in plan.roots if root.type == WORK and not root.data.endswith("}")}
    while waiting:
        event = waiting.pop()
        expected.published.append(event)
        for service, reads in plan.readers(event.stream):
            handled, does = _handled(plan, service, reads, event, unreadable=event.key in unreadable)
            if handled is not None:
                expected.handled[service.name, event.key] = handled
            waiting += _children(service, event, does)
    return expected


def _handled(
    plan: Plan, service: ServicePlan, reads: Reads, event: Published, *, unreadable: bool
) -> tuple[Handled | None, Behaviour | None]:
    """Return what becomes of `event`, and what its handler does if that ends well."""
    name, key = service.name, event.key
    single = reads.kind != "batch"
    if event.type in HARMFUL:
        return _harmful(name, event), None
    if event.type == UNKNOWN:
        skipped = reads.unhandled == "skip"
        buried = Handled(service=name, key=key, deaths=FOR_EVER, reason="unhandled", counts_deaths=True)
        return None if skipped else buried, None
    if unreadable:
        return Handled(service=name, key=key, deaths=FOR_EVER, reason="invalid", counts_deaths=single), None
    does = behaviour(plan, service, reads, key)
    handled = Handled(
        service=name,
        key=key,
        deaths=does.deaths,
        reason=does.ending,
        attempts=reads.attempts if does.ending == "failed" else 1,
        retried=_retries(does, reads) if single else None,
        snoozed=does.snoozes if single else None,
        counts_deaths=single,
        counts_nonces=does.step and (does.deaths < FOR_EVER or does.ending != "invalid"),
    )
    return handled, does if does.deaths < FOR_EVER else None


def _harmful(service: str, event: Published) -> Handled:
    if event.type == POISON:
        return Handled(service=service, key=event.key, deaths=FOR_EVER, reason="crashed", kills=True)
    if event.type in (CANCEL, EXIT):
        attempts = HARMFUL_ATTEMPTS
        return Handled(service=service, key=event.key, deaths=FOR_EVER, reason="failed", attempts=attempts)
    return Handled(service=service, key=event.key, retried=0, snoozed=0)


def _retries(does: Behaviour, reads: Reads) -> int | None:
    """Return how often its attempts are retried in all its lives; None if those have no end."""
    if does.deaths >= FOR_EVER:
        return None
    return does.failures + does.deaths * (reads.attempts - 1 if does.ending == "failed" else 0)


def _children(service: ServicePlan, event: Published, does: Behaviour | None) -> list[Published]:
    return [
        Published(
            stream=child.stream,
            key=child.key,
            type=WORK,
            subject=event.subject,
            tenant=event.tenant,
            cause=event.key,
            service=service.name,
        )
        for child in (does.children if does else ())
    ]
