"""The trace of requests that come by WSGI; for ASGI there is `penstock.asgi.TraceMiddleware`, which has spans too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.telemetry.current import Parent, request


class TraceMiddleware:
    """What is submitted while a request is answered belongs to the trace of its sender."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, asked: Any) -> Any:
        """Answer a request."""
        headers = asked.headers
        before = request.set(Parent.of(headers.get("traceparent"), headers.get("tracestate")) or request.get())
        try:
            return self._get_response(asked)
        finally:
            request.reset(before)
