"""What a running service offers to its background tasks."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable

import msgspec

from penstock.keys import EVENTS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.lanes import Lanes
from penstock.resilience.breaker import BreakerPolicy, Breakers
from penstock.settings import Settings
from penstock.streams.publish import Publisher
from penstock.telemetry.measures import Measures
from penstock.topology import Breaker, ServiceSpec, Topology


def breaker_policy(settings: Settings, topology: Topology, name: str) -> BreakerPolicy:
    """Return what holds for one circuit breaker: streams.yaml before the environment."""
    special = topology.breakers.get(name, Breaker())
    return BreakerPolicy(
        failure_threshold=special.failure_threshold or settings.breaker_failure_threshold,
        failure_window=special.failure_window or settings.breaker_failure_window,
        failure_rate=special.failure_rate or settings.breaker_failure_rate,
        minimum_calls=special.minimum_calls or settings.breaker_minimum_calls,
        recovery_timeout=special.recovery_timeout or settings.breaker_recovery_timeout,
        half_open_max_calls=special.half_open_max_calls or settings.breaker_half_open_max_calls,
    )


def spec_of(settings: Settings, topology: Topology, name: str) -> ServiceSpec:
    """Return what holds for one service: streams.yaml, and the environment where that says more of its processes.

    Raises:
        ConfigurationError: it is not declared.
    """
    spec = topology.service(name)
    return spec if settings.concurrency is None else msgspec.structs.replace(spec, concurrency=settings.concurrency)


def events_key(keys: Keys, topology: Topology) -> str | None:
    """Return the key of the stream on which the library itself tells of breakers and dropped letters."""
    return keys.stream(EVENTS) if EVENTS in topology.streams else None


class Runtime:
    """What a running service offers to its background tasks."""

    def __init__(
        self,
        name: str,
        *,
        needs: Iterable[str] = (),
        settings: Settings,
        topology: Topology,
        lanes: Lanes,
        publisher: Publisher,
        telemetry: Measures,
        consumer: str = "",
    ) -> None:
        """`name` is the service's; `needs` are the circuit breakers that its handlers wait for."""
        self.name = name
        self.consumer = consumer
        """What the connections of this process are called, and its consumers, if it reads anything."""
        self.lanes = lanes
        self.telemetry = telemetry
        self.settings = settings
        self.topology = topology
        self.keys = Keys(settings.prefix)
        self.redis: AsyncRedis = lanes.client()
        self.publisher = publisher
        self.breakers = Breakers(
            self.redis,
            self.keys,
            service=name,
            policies=functools.partial(breaker_policy, settings, topology),
            events=events_key(self.keys, topology),
        )
        self.breakers.watch(set(needs))
        self.introduced: asyncio.Task[None] | None = None
        """Done when Redis was found fit, and knows the topology. Only a service with a spool begins without."""
        self.stopping = asyncio.Event()
        """Set when the process has been asked to stop."""
        self.trouble: Callable[[], str] = _no_trouble
        """Why it does not read its streams, or settle what it has read, just now; empty if it does."""
        self.hung: Callable[[], int] = _nothing_hangs
        """How many threads of handlers hang: their time is over, and nothing can stop them."""

    @property
    def spec(self) -> ServiceSpec:
        """What holds for this service."""
        return spec_of(self.settings, self.topology, self.name)

    @property
    def ready(self) -> bool:
        """Whether the service does its work now: not stopping, nothing hangs, and what it reads is read and settled."""
        return not self.stopping.is_set() and not self.hung() and not self.trouble()


def _no_trouble() -> str:
    return ""


def _nothing_hangs() -> int:
    return 0
