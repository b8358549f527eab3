"""`/api/v1/orchestrator/*`: the whole mesh at a glance."""

from __future__ import annotations

from penstock.mesh.status import MeshLooks
from penstock.service.runtime import Runtime
from penstock.web.health import answering
from penstock.web.routes import HttpRoute, get


def routes(runtime: Runtime) -> list[HttpRoute]:
    """Return the routes that answer for the mesh; `openapi.API` describes them."""
    mesh = MeshLooks(runtime.redis, runtime.keys, runtime.topology, answering=runtime.name)
    return [get(f"/api/v1/orchestrator/{name}", answering(look)) for name, look in mesh.looks.items()]
