"""The whole mesh at a glance, from what lies in Redis alone: its status, its newest windows, its open alerts.

No service is asked for anything. Answers are up to 2 s old, however many ask.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from penstock.keys import Keys
from penstock.mesh.alerts import AlertRecord, AlertStore, ShownAlert, present
from penstock.mesh.health import BreakersHealth, Status, breakers_health, dead_letters_status
from penstock.mesh.state import GroupState, ServerState, StreamState, mesh_state
from penstock.metrics.report import WindowQuery, WindowReport, report
from penstock.metrics.windows import LONG, SHORT
from penstock.redis.connection import AsyncRedis
from penstock.schemas import Severity
from penstock.single_flight import SingleFlight
from penstock.streams.lag import LagCounter
from penstock.times import rfc3339
from penstock.topology import Topology

_LOOK_BACK = {SHORT: "2m", LONG: "5m"}  # where the newest closed window is, unless the metrics service lags
_MOST_NAMED = 10  # alerts named one by one among the reasons
_WORST: tuple[Status, ...] = ("healthy", "warning", "critical")
_WEIGHT: dict[Severity, Status] = {"info": "healthy", "warning": "warning", "critical": "critical"}

Reason = tuple[Status, str]


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """A declared service. `processes` counts those alive.

    Both are null where Redis cannot tell: a service that reads no stream leaves no sign of life there.
    """

    name: str
    alive: bool | None
    processes: int | None


class MeshStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the mesh is: in one word, the worst of its `reasons`, which are sentences; none if it is healthy."""

    status: Status
    reasons: list[str]
    as_of: str
    redis: ServerState
    streams: list[StreamState]
    groups: list[GroupState]
    services: list[ServiceState]


class MeshWindows(msgspec.Struct, frozen=True, kw_only=True):
    """The newest closed window of each length, the shortest first, of those that ended lately.

    Everything published before `watermark` is counted; null: this is not known now.
    """

    as_of: str
    watermark: str | None
    windows: list[WindowReport]


class OpenAlerts(msgspec.Struct, frozen=True, kw_only=True):
    """Alerts that fire or are about to, the latest change first in each list."""

    as_of: str
    firing: list[ShownAlert]
    pending: list[ShownAlert]


class MeshLooks:
    """Answers for the mesh."""

    def __init__(self, redis: AsyncRedis, keys: Keys, topology: Topology, *, answering: str = "") -> None:
        """`answering` is the service that answers, if it is one: of that it is known that it lives."""
        self._redis = redis
        self._keys = keys
        self._topology = topology
        self._answering = answering
        self._lags = LagCounter(redis)
        self._store = AlertStore(redis, keys)
        self.looks: dict[str, SingleFlight[MeshStatus] | SingleFlight[MeshWindows] | SingleFlight[OpenAlerts]] = {
            "status": SingleFlight(self._status),
            "metrics": SingleFlight(self._metrics),
            "alerts": SingleFlight(self._alerts),
        }
        """What can be asked, by name; each raises what redis-py does while Redis is away."""

    async def _status(self) -> MeshStatus:
        found = await mesh_state(self._redis, self._keys, self._topology, lags=self._lags)
        services = list(_services(self._topology, found.groups, answering=self._answering))
        reasons = [
            *_absences(services, found.groups),
            *_dead_letters(found.groups),
            *_breakers(await breakers_health(self._redis, self._keys)),
            *_firing(await self._store.alerts()),
        ]
        return MeshStatus(
            status=max((status for status, _ in reasons), key=_WORST.index, default="healthy"),
            reasons=[why for _, why in sorted(reasons, key=lambda reason: -_WORST.index(reason[0]))],
            as_of=rfc3339(time.time()),
            redis=found.redis,
            streams=found.streams,
            groups=found.groups,
            services=services,
        )

    async def _metrics(self) -> MeshWindows:
        newest = []
        for seconds, since in _LOOK_BACK.items():
            query = WindowQuery(seconds=seconds, since=since)
            newest_report = await report(self._redis, self._keys, self._topology, query)
            newest += [window for window in newest_report.windows if not window.open][-1:]
        return MeshWindows(as_of=newest_report.now, watermark=newest_report.watermark, windows=newest)

    async def _alerts(self) -> OpenAlerts:
        found = await self._store.alerts()
        return OpenAlerts(
            as_of=rfc3339(time.time()),
            firing=[present(record) for record in found if record.state == "firing"],
            pending=[present(record) for record in found if record.state == "pending"],
        )


def _services(topology: Topology, groups: Sequence[GroupState], *, answering: str) -> Iterator[ServiceState]:
    for name, spec in topology.services.items():
        if spec.consumes:
            processes = max(state.consumers for state in groups if state.group == name)
            yield ServiceState(name=name, alive=processes > 0, processes=processes)
        else:
            yield ServiceState(name=name, alive=True if name == answering else None, processes=None)


def _absences(services: Iterable[ServiceState], groups: Sequence[GroupState]) -> Iterator[Reason]:
    for service in services:
        if service.alive is not False:
            continue
        mine = [state for state in groups if state.group == service.name]
        waiting = sum(state.lag + state.pending + state.delayed + state.retry for state in mine)
        if waiting:
            yield "critical", f"no process of {service.name} is alive, and {waiting} events wait for it: start it"
        else:
            yield "warning", f"no process of {service.name} is alive: start it"


def _dead_letters(groups: Iterable[GroupState]) -> Iterator[Reason]:
    dead = sum(state.dead for state in groups)
    status = dead_letters_status(dead)
    if status != "healthy":
        yield status, f"{dead} dead letters wait for a decision: /health/dlq has their causes"


def _breakers(found: BreakersHealth) -> Iterator[Reason]:
    for name, breaker in found.circuit_breakers.items():
        if breaker.state == "open":
            yield "critical", f"circuit breaker {name} is open: events that need it wait"
        elif breaker.state == "half_open":
            yield "warning", f"circuit breaker {name} is half-open: it is being tried"


def _firing(alerts: Iterable[AlertRecord]) -> Iterator[Reason]:
    firing = [record for record in alerts if record.state == "firing" and _WEIGHT[record.severity] != "healthy"]
    firing.sort(key=lambda record: -_WORST.index(_WEIGHT[record.severity]))
    for record in firing[:_MOST_NAMED]:
        yield _WEIGHT[record.severity], f"alert {record.rule} fires: {record.summary or record.reason}"
    if len(firing) > _MOST_NAMED:
        worst = _WEIGHT[firing[_MOST_NAMED].severity]
        yield worst, f"{len(firing) - _MOST_NAMED} more alerts fire: /api/v1/orchestrator/alerts has them"
