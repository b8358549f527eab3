"""Server spans: one for each request with the status that it was answered, of what is refused as well.

Names and attributes are those of OpenTelemetry's HTTP conventions
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/). Probes and scrapes have none: they come every few
seconds and are about no event.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from penstock.redaction import hide_query
from penstock.telemetry.measures import Measures
from penstock.telemetry.spans import Attributes, Span
from penstock.trace_context import TraceContext

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_OTHER = "_OTHER"  # what the conventions have for any other method, and for one that could not be read
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request as its span tells it; `path` and `query` are as they were sent, `host` is the header."""

    method: str
    scheme: str
    path: str
    query: str
    version: str
    host: str


class ServerSpan:
    """The span of one request, in the trace of its sender if it named one.

    A failure of the service is kept even where the trace is not sampled, as handlers' failures are.
    """

    __slots__ = ("_describe", "_parent", "_start", "_telemetry", "context", "continued", "quiet", "route", "tracestate")

    def __init__(
        self,
        telemetry: Measures,
        describe: Callable[[], HttpRequest],
        *,
        traceparent: str | None,
        tracestate: str | None,
    ) -> None:
        """`describe` is asked only if the span is kept; the other two are headers."""
        self._telemetry = telemetry
        self._describe = describe
        self._start = time.time_ns()
        sender = TraceContext.parse(traceparent)
        self.continued = sender is not None
        """Whether the sender named its trace."""
        self.tracestate = tracestate if sender and tracestate and tracestate.isascii() else None
        """What the sender's own tracing wants to be passed on."""
        parent = sender or telemetry.begin(TraceContext.new())
        self._parent = parent.span_id
        self.context = parent.child()
        """The span: what the request brings about belongs below it."""
        self.route = ""
        """The path of its route, once that is found."""
        self.quiet = False
        """Whether it is a probe or a scrape."""

    def end(self, status: int | None, *, error: str = "", why: str = "") -> None:
        """Record it with the status of its answer, None if none was given.

        `error` names what went wrong in the service, `why` says it in words.
        """
        failed = status is None or status >= 500
        if self.quiet or not self._telemetry.enabled or not (self.context.sampled or failed):
            return
        request = self._describe()
        attributes = _attributes(request)
        method = request.method if request.method in _METHODS else "HTTP"
        if self.route:
            attributes["http.route"] = self.route
        if status is not None:
            attributes["http.response.status_code"] = status
        if failed:
            attributes["error.type"] = error or str(status)
        self._telemetry.record(
            Span(
                name=f"{method} {self.route}".rstrip(),
                kind="server",
                context=self.context,
                parent=self._parent,
                start=self._start,
                end=time.time_ns(),
                attributes=attributes,
                error=why if failed else None,
            )
        )


def record_unread(telemetry: Measures, status: int, *, since: int) -> None:
    """Record the refusal of a request that could not be read, or not in time; `since` in nanoseconds of the epoch.

    Method, path and trace are what could not be read.
    """
    trace = telemetry.begin(TraceContext.new())
    if trace.sampled:
        telemetry.record(
            Span(
                name="HTTP",
                kind="server",
                context=trace.child(),
                parent="",
                start=since,
                end=time.time_ns(),
                attributes={
                    "http.request.method": _OTHER,
                    "url.scheme": "http",
                    "http.response.status_code": status,
                },
            )
        )


def _attributes(request: HttpRequest) -> Attributes:
    method = request.method
    attributes: Attributes = {
        "http.request.method": method if method in _METHODS else _OTHER,
        "url.scheme": request.scheme,
        "url.path": request.path,
        "network.protocol.version": request.version,
    }
    if method not in _METHODS:
        attributes["http.request.method_original"] = method
    if request.query:
        attributes["url.query"] = hide_query(request.query)
    try:
        host = urlsplit(f"//{request.host}")
        if host.hostname:
            attributes |= {"server.address": host.hostname, "server.port": host.port or _PORTS[request.scheme]}
    except (KeyError, ValueError):  # it is no address, or of a scheme that we do not know
        pass
    return attributes
