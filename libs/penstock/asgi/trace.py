"""Requests as part of a trace: what one publishes belongs below its span."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from penstock.asgi.types import App, Message, Receive, Scope, Send, client_of, header
from penstock.telemetry.current import Parent, parent, request
from penstock.telemetry.measures import Measures
from penstock.telemetry.server_spans import HttpRequest, ServerSpan
from penstock.text import described

_SWITCHED, _REFUSED, _FAILED = 101, 403, 500  # what a server answers of itself
_MOST_TEXT = 2_000  # characters of an error


class TraceMiddleware:
    """Continues the trace of whoever sends a request, or begins one, over HTTP and WebSocket.

    What is submitted and published while it is answered belongs to the trace. Its span goes where those of the
    client go that a lifespan has opened; the span of a WebSocket is that of its handshake. Where OpenTelemetry's own
    instrumentation has made a span already, that one serves.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the server."""
        if scope["type"] not in ("http", "websocket") or parent() is not None:
            await self._app(scope, receive, send)
            return
        mesh = client_of(scope)
        root = scope.get("root_path", "")
        span = ServerSpan(
            mesh.telemetry if mesh else Measures(),
            lambda: _described(scope),
            traceparent=header(scope, b"traceparent"),
            tracestate=header(scope, b"tracestate"),
        )
        exchange = _Exchange(scope, root, span)

        async def watched(message: Message) -> None:
            exchange.see(message)
            await send(message)

        with _below(Parent(span.context, span.tracestate)):
            try:
                await self._app(scope, receive, watched)
            except BaseException as error:
                exchange.end(_FAILED if isinstance(error, Exception) else None, error)
                raise
        exchange.end(_FAILED, None)  # unless it has answered


class _Exchange:
    """A request and what is answered to it; the span ends once."""

    def __init__(self, scope: Scope, root: str, span: ServerSpan) -> None:
        self._scope = scope
        self._root = root
        self._span = span
        self._status: int | None = None
        self._is_over = False

    def see(self, message: Message) -> None:
        """Take note of what is sent."""
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                self._status = message["status"]
            case "websocket.accept":
                self.end(_SWITCHED, None)
            case "websocket.close" if self._status is None:
                self.end(_REFUSED, None)

    def end(self, status: int | None, error: BaseException | None) -> None:
        """Record the span with the status that was sent, else with this one."""
        if self._is_over:
            return
        self._is_over = True
        self._span.route = _route(self._scope, self._root)
        why = described(error, most=_MOST_TEXT) if error else ""
        self._span.end(self._status or status, error=type(error).__name__ if error else "", why=why)


@contextlib.contextmanager
def _below(span: Parent) -> Iterator[None]:
    """Have what is published here belong below a span, and what OpenTelemetry's own API makes."""
    before = request.set(span)
    otel = sys.modules.get("opentelemetry.trace")
    context = sys.modules.get("opentelemetry.context")
    token = None
    if otel is not None and context is not None:
        ours = otel.SpanContext(
            int(span.trace.trace_id, 16),
            int(span.trace.span_id, 16),
            is_remote=False,
            trace_flags=otel.TraceFlags(int(span.trace.flags, 16)),
            trace_state=otel.TraceState.from_header([span.tracestate or ""]),
        )
        token = context.attach(otel.set_span_in_context(otel.NonRecordingSpan(ours)))
    try:
        yield
    finally:
        if token is not None and context is not None:
            context.detach(token)
        request.reset(before)


def _described(scope: Scope) -> HttpRequest:
    raw = scope.get("raw_path") or scope["path"].encode()
    return HttpRequest(
        method=scope.get("method", "GET"),  # a WebSocket begins with one
        scheme=scope.get("scheme", "http"),
        path=raw.decode("latin-1"),
        query=scope.get("query_string", b"").decode("latin-1"),
        version=scope.get("http_version", "1.1"),
        host=header(scope, b"host") or "",
    )


def _route(scope: Scope, root: str) -> str:
    """Return the path of the route as the framework has found it, from the root of the application."""
    path = getattr(scope.get("route"), "path", "")
    return scope.get("root_path", "").removeprefix(root) + path if path else ""
