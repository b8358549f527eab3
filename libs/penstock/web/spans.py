"""The server span of a request to one of our services."""

from __future__ import annotations

from aiohttp import web

from penstock.telemetry.measures import Measures
from penstock.telemetry.server_spans import HttpRequest, ServerSpan


def server_span(telemetry: Measures, request: web.BaseRequest) -> ServerSpan:
    """Begin the span of a request."""

    def describe() -> HttpRequest:
        return HttpRequest(
            method=request.method,
            scheme=request.scheme,
            path=request.rel_url.raw_path,
            query=request.rel_url.raw_query_string,
            version=f"{request.version.major}.{request.version.minor}",
            host=request.headers.get("Host", ""),
        )

    headers = request.headers
    return ServerSpan(telemetry, describe, traceparent=headers.get("traceparent"), tracestate=headers.get("tracestate"))
