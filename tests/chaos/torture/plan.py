"""What runs: services, streams and events, all drawn from one seed."""

from __future__ import annotations

import random
from typing import Any, Literal

import msgspec
import yaml

Kind = Literal["async", "plain", "batch"]
FIRST = "t0"
WORK = "work"
UNKNOWN = "nobody.asks"
# Events that do harm to the process that handles them.
POISON, HOG, FORK, CANCEL, EXIT = HARMFUL = ("poison", "hog", "fork", "cancel", "exit")
HARMFUL_ATTEMPTS = 2


class Reads(msgspec.Struct, frozen=True, kw_only=True):
    """How a service reads one stream."""

    stream: str
    kind: Kind
    batch: int
    attempts: int
    base: float
    unhandled: Literal["dead", "skip"]


class ServicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One service: its group, what it reads, where it publishes and how many processes it starts with."""

    name: str
    reads: tuple[Reads, ...]
    publishes: tuple[str, ...]
    concurrency: int
    replicas: int


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """An event that comes from outside, `at` seconds after the start. Its id is its key."""

    key: str
    at: float
    type: str
    data: str
    subject: str
    tenant: str | None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but the faults. `sabotaged`: handlers publish outside their commit, which is to be found out."""

    seed: int
    services: tuple[ServicePlan, ...]
    streams: tuple[str, ...]
    roots: tuple[Root, ...]
    sabotaged: bool = False

    def service(self, name: str) -> ServicePlan:
        return next(one for one in self.services if one.name == name)

    def readers(self, stream: str) -> list[tuple[ServicePlan, Reads]]:
        return [(one, reads) for one in self.services for reads in one.reads if reads.stream == stream]

    def streams_yaml(self) -> str:
        return yaml.safe_dump(
            {
                "streams": {name: {} for name in self.streams},
                "services": {one.name: _declaration(one) for one in self.services},
            },
            sort_keys=False,
        )


def draw(seed: int, *, seconds: float, rate: float) -> Plan:
    """Draw a mesh and `rate` events per second for it, for as long as faults are injected."""
    rng = random.Random(f"plan/{seed}")
    layers = _layers(rng)
    services = tuple(_services(rng, layers))
    streams = tuple(name for layer in layers for name in layer)
    roots = tuple(_root(rng, number, seconds * number / (seconds * rate)) for number in range(round(seconds * rate)))
    return Plan(seed=seed, services=services, streams=streams, roots=roots)


def _layers(rng: random.Random) -> list[list[str]]:
    """Streams by how far they are from the first; nobody reads the last."""
    middle = rng.randint(1, 2)
    layers = [[FIRST]]
    layers += [[f"t{depth}{which}" for which in "ab"[: rng.randint(1, 2)]] for depth in range(1, middle + 1)]
    return [*layers, ["out"]]


def _services(rng: random.Random, layers: list[list[str]]) -> list[ServicePlan]:
    services: list[ServicePlan] = []
    for depth, layer in enumerate(layers[:-1]):
        groups = [[stream] for stream in layer]
        if len(layer) == 2 and rng.random() < 0.5:
            groups = [layer]  # one service for both
        if rng.random() < 0.4:
            groups.append([rng.choice(layer)])  # a second group on one of them
        for number, group in enumerate(groups):
            services.append(
                ServicePlan(
                    name=f"s{depth}{number}",
                    reads=tuple(_reads(rng, stream) for stream in group),
                    publishes=tuple(layers[depth + 1]),
                    concurrency=rng.choice((8, 30, 100)),
                    replicas=2 if len(services) < 2 or rng.random() < 0.3 else 1,
                )
            )
    return services


def _reads(rng: random.Random, stream: str) -> Reads:
    return Reads(
        stream=stream,
        kind=rng.choices(("async", "plain", "batch"), (6, 2, 2))[0],
        batch=rng.choice((3, 20)),
        attempts=rng.randint(2, 4),
        base=rng.choice((0.02, 0.2)),
        unhandled=rng.choice(("dead", "skip")),
    )


def _root(rng: random.Random, number: int, at: float) -> Root:
    key = f"r{number}"
    chance = rng.random()
    return Root(
        key=key,
        at=at,
        type=UNKNOWN if chance < 0.02 else WORK,
        data='{"key": 7' if 0.02 <= chance < 0.04 else payload(key, rng.choice((0, 0, 0, 100, 20_000))),
        subject=f"subject-{number % 17}",
        tenant=rng.choice((None, "acme")),
    )


def payload(key: str, padding: int = 0) -> str:
    return msgspec.json.encode({"key": key, "padding": "x" * padding}).decode()


def _declaration(service: ServicePlan) -> dict[str, Any]:
    return {
        "consumes": {
            reads.stream: {
                "retry": {"attempts": reads.attempts, "base": reads.base, "factor": 2, "max": 1},
                "unhandled": reads.unhandled,
            }
            for reads in service.reads
        },
        "publishes": list(service.publishes),
        "concurrency": service.concurrency,
    }
