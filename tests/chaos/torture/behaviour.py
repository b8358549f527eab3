"""What a handler does with an event: it follows from the seed, the service and the event's key alone."""

from __future__ import annotations

import random
from typing import Literal

import msgspec

from tests.chaos.torture.plan import Plan, Reads, ServicePlan

FOR_EVER = 1_000_000
Ending = Literal["rejected", "failed", "invalid"]


class Child(msgspec.Struct, frozen=True):
    """An event that comes of another, `delay` seconds later."""

    key: str
    stream: str
    delay: float


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """One handler on one event.

    It lives `deaths` lives that end among the dead letters (`ending` says why), then one that ends well; a
    replay begins the next. In each it snoozes `snoozes` times and fails `failures` times before that; `wait`
    is how long after its arrival it will not be done, in seconds. With `step` it takes a step that counts.
    """

    seconds: float
    snoozes: int = 0
    wait: float = 0.0
    failures: int = 0
    deaths: int = 0
    ending: Ending = "rejected"
    step: bool = False
    children: tuple[Child, ...] = ()


def behaviour(plan: Plan, service: ServicePlan, reads: Reads, key: str) -> Behaviour:
    """Draw what the handler of `service` does with the event `key` of one stream."""
    rng = random.Random(f"{plan.seed}/{service.name}/{reads.stream}/{key}")
    remembers = reads.kind == "async"  # how often it died and snoozed; the others cannot look it up
    seconds = rng.choices((0.0, rng.uniform(0, 0.02), rng.uniform(0.05, 0.3), rng.uniform(0.5, 2.5)), (3, 5, 1, 0.4))[0]
    chance = rng.random()
    deaths = FOR_EVER if chance < 0.02 else rng.randint(1, 2) if chance < 0.06 and remembers else 0
    return Behaviour(
        seconds=seconds,
        snoozes=rng.randint(1, 2) if remembers and rng.random() < 0.08 else 0,
        wait=rng.uniform(0.1, 1.0) if not remembers and rng.random() < 0.03 else 0.0,
        failures=rng.randint(1, reads.attempts - 1) if reads.kind != "batch" and rng.random() < 0.15 else 0,
        deaths=deaths,
        # Effects that Redis refuses bury the whole batch they are in: whom, no plan can tell.
        ending=rng.choice(("rejected", "failed", *(("invalid",) if reads.kind != "batch" else ()))),
        step=remembers and rng.random() < 0.25,
        children=tuple(_children(rng, service, key)),
    )


def _children(rng: random.Random, service: ServicePlan, key: str) -> list[Child]:
    count = rng.choices((0, 1, 2, 5), (2, 8, 3, 0.5))[0]
    return [
        Child(
            key=f"{key}.{service.name}.{number}",
            stream=rng.choice(service.publishes),
            delay=rng.uniform(0.01, 1.5) if rng.random() < 0.1 else 0.0,
        )
        for number in range(count)
    ]
