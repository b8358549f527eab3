"""The web application of the shop: it takes orders, hands them to the mesh and shows what becomes of them.

It runs in as many workers as one likes: `uvicorn web:app --workers 2`.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Query
from fastapi.responses import FileResponse
from pydantic import BaseModel

from penstock import JobCancelled, JobDead, NoRecord
from penstock.asgi import LiveStreams
from penstock.asgi.types import Scope
from penstock.fastapi import Mesh, TraceMiddleware, exception_handlers, lifespan, operations
from penstock.live.topic import Topic, Viewer

PAGE = Path(__file__).with_name("page.html")
Seconds = Annotated[float, Query(ge=0, le=60)]


class Order(BaseModel):
    """An order. Its id is the customer's: sent again it is the same order."""

    order_id: str
    total: float


class Progress(BaseModel):
    """What has become of an order so far."""

    job: str
    state: str
    result: Any = None
    error: str | None = None
    durability: str | None = None  # what has it, as it is taken: memory, aof or replica of Redis; process: nothing else


def staff(x_operations_key: Annotated[str, Header()] = "") -> None:
    """Let in whoever has the key of SHOP_OPERATIONS_KEY; nobody if there is none."""
    key = os.environ.get("SHOP_OPERATIONS_KEY", "")
    if not key or not hmac.compare_digest(key.encode(), x_operations_key.encode()):
        raise HTTPException(403, "this is for the staff")


async def anybody(_: Scope) -> Viewer:
    """Take whoever comes; in real life the one whose session cookie it is."""
    return Viewer()


async def is_an_order(_: Viewer, topic: Topic) -> bool:
    """Tell of an order whoever knows its job's id, which cannot be guessed; of all orders nobody."""
    return topic.job is not None


# While Redis is away `exception_handlers` answer 503 with Retry-After.
app = FastAPI(title="Shop", lifespan=lifespan(source="shop-web"), exception_handlers=exception_handlers)
app.add_middleware(TraceMiddleware)
app.include_router(operations(dependencies=[Depends(staff)]))
app.mount("/live", LiveStreams(anybody, sees=is_an_order))


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The page with the form."""
    return FileResponse(PAGE)


@app.post("/orders", status_code=202)
async def place(order: Order, mesh: Mesh) -> Progress:
    """Take an order: 202 says that Redis has it."""
    job = await mesh.submit("order.placed", order.model_dump(), subject=order.order_id, idempotency_key=order.order_id)
    return Progress(job=job.id, state="queued", durability=job.durability)


@app.get("/orders/{job_id}")
async def look(job_id: str, mesh: Mesh, wait: Seconds = 0) -> Progress:
    """Say what has become of an order; wait so many seconds for its end if there is none yet."""
    job = mesh.job(job_id)
    if wait:
        with contextlib.suppress(JobDead, JobCancelled, NoRecord, TimeoutError):  # its state says so
            await job.result(timeout=wait)
    status = await job.status()
    return Progress(job=job_id, state=status.state, result=status.result, error=status.error)
