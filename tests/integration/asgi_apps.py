"""Web applications without a framework and with FastAPI, which tests run in uvicorn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

import fastapi
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

import penstock.fastapi
from penstock import Penstock
from penstock.asgi import Lifespan, Status, TraceMiddleware, lifespan

if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:  # an application that sends spans of its own
    _own_spans = TracerProvider()
    _own_spans.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(_own_spans)

MESH = "streams: {orders: {kind: work}, events: {}}\nservices: {shop: {consumes: {orders: {}}}}"


async def _answer(send: Any, status: int, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Publish what is asked for; it knows no lifespan."""
    assert scope["type"] != "lifespan"
    mesh: Penstock = scope["state"]["mesh"]
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/refused":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            job = await mesh.submit("order.placed", {"price": int(message["text"])})
            await send({"type": "websocket.send", "text": job.id})
        return
    match scope["path"]:
        case "/order":
            job = await mesh.submit("order.placed", {"price": 7})
            await _answer(send, 202, job.id.encode())
        case "/wrong":
            raise ValueError("this is wrong")
        case path if path.startswith("/mesh"):
            await status({**scope, "root_path": scope.get("root_path", "") + "/mesh"}, receive, send)
        case _:
            await _answer(send, 404)


async def lively(scope: Any, receive: Any, send: Any) -> None:
    """Have a lifespan of its own, in which the client is there already, and still there at the end."""
    if scope["type"] != "lifespan":
        await _answer(send, 200, scope["state"]["greeting"].encode())
        return
    await receive()
    if os.environ.get("FAIL_AT_START"):
        await send({"type": "lifespan.startup.failed", "message": "not today"})
        return
    scope["state"]["greeting"] = f"hello of {scope['state']['mesh'].topology.work}"
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await scope["state"]["mesh"].publish("events", "app.ended")
    await send({"type": "lifespan.shutdown.complete"})


async def place(request: Request) -> Response:
    """Answer for Starlette."""
    job = await request.state.mesh.submit("order.placed", {"price": 7})
    return Response(job.id, 202)


status = Status()
starlette = Starlette(
    routes=[
        Route("/orders/{name}", place, methods=["POST"]),
        Mount("/sub", routes=[Route("/orders/{name}", place, methods=["POST"])]),
    ],
    middleware=[Middleware(TraceMiddleware)],
    lifespan=lifespan(topology="streams.yaml", source="web"),
)
app = Lifespan(TraceMiddleware(bare), topology="streams.yaml", source="web")
lively_app = Lifespan(lively, topology="streams.yaml")


@contextlib.asynccontextmanager
async def own(app: fastapi.FastAPI) -> AsyncIterator[dict[str, Any]]:
    yield {"stock": len(app.state.mesh.topology.work)}
    await app.state.mesh.publish("events", "app.ended")


def key(key: str = "") -> None:
    if key != "secret":
        raise fastapi.HTTPException(403)


shop = fastapi.FastAPI(
    lifespan=penstock.fastapi.lifespan(own, topology="streams.yaml", source="web"),
    exception_handlers=penstock.fastapi.exception_handlers,
)
shop.add_middleware(penstock.fastapi.TraceMiddleware)
shop.include_router(penstock.fastapi.operations(dependencies=[fastapi.Depends(key)]))
shop.mount("/mesh", Status())
sub = fastapi.FastAPI()
shop.mount("/sub", sub)


@shop.get("/stock")
async def stock(request: fastapi.Request) -> int:
    found: int = request.state.stock
    return found


@shop.post("/orders/{name}", status_code=202)
async def order(name: str, mesh: penstock.fastapi.Mesh) -> str:
    job = await mesh.submit("order.placed", {"price": 7}, subject=name)
    return job.id


@shop.post("/wrong")
async def wrong() -> None:
    raise ValueError("this is wrong")


@sub.post("/own/{name}", status_code=202)
async def own_span(request: fastapi.Request) -> None:
    with trace.get_tracer("shop").start_as_current_span("packing"):
        await request.state.mesh.submit("order.placed", {"price": 7})
