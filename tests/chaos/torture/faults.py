"""What is done to the mesh, and when: drawn from a seed, so that the same faults can be done again."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection

import msgspec

Draw = Callable[[random.Random], dict[str, float]]


class Fault(msgspec.Struct, frozen=True):
    """A fault of one kind, `at` seconds after the start. `how` holds what else is drawn of it."""

    at: float
    kind: str
    how: dict[str, float] = {}

    def __str__(self) -> str:
        return f"{self.at:7.2f} s  {self.kind}" + "".join(f"  {name}={value:g}" for name, value in self.how.items())


class Kind(msgspec.Struct, frozen=True):
    """A kind of fault: how often it comes beside the others, and what is drawn of it."""

    weight: float
    draw: Draw


def _seconds(least: float, most: float) -> Draw:
    return lambda rng: {"seconds": round(rng.uniform(least, most), 2)}


def _process(least: float = 0.0, most: float = 0.0) -> Draw:
    """Draw a process (by a number, modulo those there are) and for how long."""
    return lambda rng: {"process": rng.randrange(1000), "seconds": round(rng.uniform(least, most), 2)}


def _connection(least: float = 0.0, most: float = 0.0) -> Draw:
    return lambda rng: {**_process(least, most)(rng), "connection": rng.randrange(1000)}


KINDS: dict[str, Kind] = {
    # Processes
    "kill": Kind(5, _process(0.0, 2.0)),
    "freeze": Kind(3, _process(0.1, 7.0)),
    "stop": Kind(2, _process(0.0, 2.0)),
    "scale-up": Kind(1, _process(2.0, 8.0)),
    # Events that do harm
    "poison": Kind(0.3, lambda _: {}),
    "hog": Kind(0.3, lambda _: {}),
    "fork": Kind(0.3, lambda _: {}),
    "cancel": Kind(0.3, lambda _: {}),
    "exit": Kind(0.3, lambda _: {}),
    # The network
    "cut": Kind(6, _connection()),
    "cut-all": Kind(2, _process()),
    "lose-commit": Kind(6, _process()),
    "lose-read": Kind(5, _process()),
    "lose-any": Kind(4, _process()),
    "delay": Kind(3, lambda rng: {**_process(0.5, 3.0)(rng), "milliseconds": rng.randint(5, 150)}),
    "drop": Kind(2, _process(0.2, 8.0)),
    "drop-one": Kind(2, _connection(0.2, 1.5)),
    "drop-late": Kind(1, _process(0.2, 1.5)),
    "refuse": Kind(2, _process(0.2, 2.0)),
    "mute": Kind(1, _connection(2.5, 8.0)),
    "blackout": Kind(1, _seconds(2.5, 10.0)),
    "slow": Kind(0.7, lambda _: {"seconds": 6.0, "milliseconds": 1400}),
    # Redis
    "redis-kill": Kind(1.5, _seconds(0.0, 2.0)),
    "redis-freeze": Kind(1.5, _seconds(0.1, 1.5)),
    "redis-freeze-long": Kind(0.5, _seconds(2.0, 8.0)),
    "pause": Kind(2, lambda rng: {**_seconds(0.05, 1.5)(rng), "writes": rng.randint(0, 1)}),
    "pause-long": Kind(0.7, lambda rng: {**_seconds(2.0, 6.0)(rng), "writes": rng.randint(0, 1)}),
    "client-kill": Kind(3, lambda _: {}),
    "out-of-memory": Kind(2, _seconds(0.1, 2.0)),
    "too-few-replicas": Kind(1, _seconds(0.1, 2.0)),
    "script-flush": Kind(4, lambda _: {}),
    # The operator
    "replay": Kind(1, _process()),
}


def schedule(seed: int, *, seconds: float, rate: float, kinds: Collection[str] = KINDS.keys()) -> list[Fault]:
    """Draw `rate` faults per second.

    Those of other `kinds` are drawn too and left out: what is on changes nothing about the rest.
    """
    rng = random.Random(f"faults/{seed}")
    drawn = []
    for number in range(round(seconds * rate)):
        kind = rng.choices(list(KINDS), [one.weight for one in KINDS.values()])[0]
        at = round(seconds * (number + rng.random()) / (seconds * rate), 2)
        drawn.append(Fault(at, kind, KINDS[kind].draw(rng)))
    return [fault for fault in drawn if fault.kind in kinds]
