"""For web applications over ASGI, of any framework or none.

Traces of requests, a client for the application's life, the status of the mesh, and what happens as it happens.
Nothing here needs a framework; `penstock.fastapi` adds what FastAPI has words for.
"""

from penstock.asgi.lifespan import Lifespan, lifespan
from penstock.asgi.live import LiveStreams
from penstock.asgi.status import Status
from penstock.asgi.trace import TraceMiddleware

__all__ = ["Lifespan", "LiveStreams", "Status", "TraceMiddleware", "lifespan"]
