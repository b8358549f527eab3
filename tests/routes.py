"""The route table of every shipped service, without a process or a Redis."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from penstock.jobs.identities import Identities
from penstock.redis.lanes import Lanes
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.telemetry.measures import Measures
from penstock.topology import load
from penstock.web.health import common_routes
from penstock.web.routes import HttpRoute
from penstock_services.alerts import api as alerts
from penstock_services.gateway import service as gateway
from penstock_services.gateway.events import publishable
from penstock_services.gateway.upstream import Upstream
from penstock_services.metrics import api as metrics
from penstock_services.notifier import api as notifier


def _gateway(runtime: Runtime) -> list[HttpRoute]:
    streams = publishable(runtime.topology)
    return gateway.routes(runtime, Identities(runtime.redis, runtime.keys), Upstream(runtime, frozenset(streams)), {})


OWN: dict[str, Callable[[Runtime], list[HttpRoute]]] = {
    "gateway": _gateway,
    "metrics": metrics.routes,
    "alerts": alerts.routes,
    "notifier": notifier.routes,
    "worker": lambda _: [],  # as penstock_services.worker.service serves it
}


def routes(service: str) -> list[HttpRoute]:
    runtime = Runtime(
        service,
        settings=Settings(),
        topology=load(),
        lanes=Lanes("redis://127.0.0.1:1/0", name=service),
        publisher=cast(Any, None),
        telemetry=Measures(),
    )
    own = OWN[service](runtime)
    return [*own, *common_routes(runtime, own)]
