"""The name of every Redis key. docs/keys.md describes each with type, lifetime and owner."""

from __future__ import annotations

import msgspec

# The streams that Penstock itself reads or writes. streams.yaml may declare others, and need not declare all of these.
INGEST, EVENTS, METRICS, ALERTS = "ingest", "events", "metrics", "alerts"
NOTIFICATIONS, DELIVERIES, DEAD_LETTERS = "notifications", "deliveries", "dlq"
REGISTRY = "live:connections"
"""What the registry of live connections is called, unless WS_REDIS_REGISTRY_KEY says otherwise."""


class Keys(msgspec.Struct, frozen=True):
    """Key names of one mesh; `prefix` lets several meshes share a Redis.

    On a cluster the prefix is where a lane's hash tag goes (`{lane-0}:`), which puts all keys of one
    commit into one slot. Everything that names a key does so here.
    """

    prefix: str = ""

    def stream(self, name: str) -> str:
        """A stream of events."""
        return f"{self.prefix}{name}"

    def retry(self, stream: str, group: str) -> str:
        """The stream from which `group` alone reads what it must try again."""
        return f"{self.prefix}{stream}:{group}:retry"

    def delayed(self, stream: str, group: str) -> str:
        """What `group` will try again later, by due time."""
        return f"{self.prefix}{stream}:{group}:delayed"

    def scheduled(self, stream: str) -> str:
        """What will be published to `stream` later, by due time."""
        return f"{self.prefix}{stream}:scheduled"

    def cancelled(self, stream: str) -> str:
        """Entries of `stream` that are cancelled, until their group comes to them."""
        return f"{self.prefix}{stream}:cancelled"

    def quarantine(self, group: str) -> str:
        """Which suspect entry each consumer of `group` is running alone."""
        return f"{self.prefix}quarantine:{group}"

    def positions(self, group: str) -> str:
        """How far `group` had come on each stream, as last noted: for the day on which it is gone."""
        return f"{self.prefix}positions:{group}"

    def beats(self, group: str) -> str:
        """The last heartbeat of each consumer of `group`."""
        return f"{self.prefix}beats:{group}"

    def lock(self, name: str) -> str:
        """Present for one tick, or for as long as it is renewed: somebody does the chore `name` now."""
        return f"{self.prefix}lock:{name}"

    def checkpoint(self, group: str, event: str) -> str:
        """Results of the steps of one event that are done; `event` is its `unique_id`."""
        return f"{self.prefix}checkpoint:{group}:{event}"

    def dedupe(self, scope: str, key: str) -> str:
        """What was published under a delivery id or idempotency key."""
        return f"{self.prefix}dedupe:{scope}:{key}"

    def spool(self, name: str) -> str:
        """How far a publisher that spools has come: the last of its events that is published."""
        return f"{self.prefix}spool:{name}"

    @property
    def spools(self) -> str:
        """What waits in spools, as their processes tell it."""
        return f"{self.prefix}spools"

    def state(self, service: str, name: str) -> str:
        """State that a service keeps."""
        return f"{self.prefix}state:{service}:{name}"

    def breaker(self, name: str) -> str:
        """State of a circuit breaker; `:calls` and `:probes` lie beside it."""
        return f"{self.prefix}breaker:{name}"

    @property
    def breakers(self) -> str:
        """Names of all circuit breakers."""
        return f"{self.prefix}breakers"

    def job(self, event_id: str) -> str:
        """What became of the jobs of one id: a hash by source."""
        return f"{self.prefix}job:{event_id}"

    def progress_of(self, event_id: str) -> str:
        """How far the handlers of the jobs of one id said that they were: a hash by source."""
        return f"{self.prefix}progress:{event_id}"

    @property
    def progress(self) -> str:
        """The stream of what handlers say of their progress, for whoever reads along."""
        return f"{self.prefix}progress"

    @property
    def epoch(self) -> str:
        """Names the time since which nothing was flushed: positions of another epoch mean nothing."""
        return f"{self.prefix}epoch"

    def ticket(self, digest: str) -> str:
        """Whom a ticket stands for that opens a live stream, by the hash of it."""
        return f"{self.prefix}ticket:{digest}"

    def connections(self, registry: str) -> str:
        """Which processes have live connections: when each last said so. `registry` is the name of it all."""
        return f"{self.prefix}{registry}"

    def connections_of(self, registry: str, process: str) -> str:
        """The live connections of one process."""
        return f"{self.prefix}{registry}:{process}"

    def messages_to(self, registry: str, process: str) -> str:
        """What one process is to pass on, each to one of its live connections."""
        return f"{self.prefix}{registry}:{process}:messages"

    @property
    def identity(self) -> str:
        """The secret from which follow the ids of what is sent under a key."""
        return self.state("gateway", "identity")

    @property
    def topology(self) -> str:
        """The topology that the running services go by."""
        return f"{self.prefix}topology"

    @property
    def replayed(self) -> str:
        """Dead letters that were replayed: entry id to time."""
        return f"{self.prefix}dlq:replayed"
