"""For web applications over ASGI, of any framework or none.

Traces of requests, a client for the application's life, the status of the mesh. Nothing here needs a framework;
`penstock.fastapi` adds what FastAPI has words for.
"""

from penstock.asgi.lifespan import Lifespan, lifespan
from penstock.asgi.status import Status
from penstock.asgi.trace import TraceMiddleware

__all__ = ["Lifespan", "Status", "TraceMiddleware", "lifespan"]
