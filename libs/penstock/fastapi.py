"""FastAPI: a client for the application's life, as a dependency; what to answer while Redis is away; the mesh's status.

```python
app = FastAPI(lifespan=lifespan(source="shop-web"), exception_handlers=exception_handlers)

@app.post("/orders", status_code=202)
async def order(order: Order, mesh: Mesh) -> dict[str, str]:
    job = await mesh.submit("order.placed", order.model_dump())
    return {"job": job.id}
```
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Annotated, Any

from penstock.asgi.lifespan import lifespan
from penstock.asgi.status import NAMES, Status
from penstock.asgi.trace import TraceMiddleware
from penstock.asgi.types import client_of
from penstock.client.client import Penstock
from penstock.errors import Unavailable
from penstock.extras import extra
from penstock.web.openapi import PROBLEM
from penstock.web.problems import away

with extra("fastapi"):
    from fastapi import APIRouter, Depends, Request, Response
    from fastapi.requests import HTTPConnection

__all__ = ["Mesh", "TraceMiddleware", "exception_handlers", "lifespan", "operations"]


def mesh_of(connection: HTTPConnection) -> Penstock:
    """Return the client that the lifespan has opened; override this dependency in tests."""
    mesh = client_of(connection.scope)
    if mesh is None:
        raise RuntimeError("no client is open: FastAPI(lifespan=penstock.fastapi.lifespan(...))")
    return mesh


Mesh = Annotated[Penstock, Depends(mesh_of)]
"""A parameter of this type is the client."""


async def _unavailable(_: Request, error: Unavailable) -> Response:
    problem = away(error)
    return Response(problem.body, problem.status, dict(problem.headers), PROBLEM)


exception_handlers: dict[Any, Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {Unavailable: _unavailable}
"""While Redis is away: 503, with Retry-After."""


def operations(prefix: str = "/api/v1/orchestrator", *, dependencies: Sequence[Any] = ()) -> APIRouter:
    """Return a router with the status, metrics and alerts of the mesh, as the gateway answers them.

    `dependencies` decide who may see them: without any, whoever reaches the application.
    """
    router = APIRouter(prefix=prefix, dependencies=list(dependencies), tags=["operations"])
    status = Status()
    for name in NAMES:
        router.add_api_route(f"/{name}", _endpoint(status, name), name=f"mesh_{name}", response_class=Response)
    return router


def _endpoint(status: Status, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def look(request: Request) -> Response:
        code, headers, body = await status.answer(request.scope, name)
        return Response(body, code, headers)

    look.__doc__ = f"The {name} of the mesh, at most 2 s old."
    return look
