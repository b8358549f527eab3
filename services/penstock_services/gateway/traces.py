"""`/traces`: a page that draws traces, and the JSON behind it.

The page is one file without any other: its script and style are inside, and the policy it is sent with
allows nothing else. It puts what it shows into the document as text, never as markup.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from importlib import resources

import msgspec
from aiohttp import web

from penstock.errors import AmbiguousEvent
from penstock.service.runtime import Runtime
from penstock.traces import TraceList, Traces
from penstock.web.problems import Problem
from penstock.web.routes import Request, get

_NEWEST_LISTED, _NEWEST = 1_000, 5_000  # entries searched in every stream: for the list, for one trace
_LISTED = 50
_FRESH = 1.0  # seconds for which a list serves everybody who looks
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class TracePages:
    """Answers for traces. One look at the streams is under way at a time, so that viewers cannot slow intake."""

    def __init__(self, runtime: Runtime) -> None:
        self._traces = Traces(runtime.redis, runtime.keys, runtime.topology)
        self._open = runtime.settings.shows_traces(clients=bool(runtime.topology.clients))
        self._page, self._policy = _load()
        self._looking = asyncio.Lock()
        self._list: tuple[float, TraceList] | None = None
        self.routes = [
            *(get(path, self._page_of, navigable=True) for path in ("/traces", "/traces/", "/traces/{id}")),
            get("/v1/traces", self._recent),
            get("/v1/traces/{id}", self._find),
        ]

    async def _page_of(self, _: Request) -> web.Response:
        self._check()
        headers = {**_HEADERS, "Content-Security-Policy": self._policy, "Cross-Origin-Opener-Policy": "same-origin"}
        return web.Response(body=self._page, headers=headers, content_type="text/html", charset="utf-8")

    async def _recent(self, _: Request) -> web.Response:
        self._check()
        async with self._looking:
            if self._list is None or time.monotonic() - self._list[0] > _FRESH:
                found = await self._traces.recent(limit=_LISTED, newest=_NEWEST_LISTED)
                self._list = time.monotonic(), found
            return _json(self._list[1])

    async def _find(self, request: Request) -> web.Response:
        """Answer with one trace, named by its id or by that (and the source) of one of its events."""
        self._check()
        try:
            async with self._looking:
                found = await self._traces.find(request.rest, source=request.query.get("source"), newest=_NEWEST)
        except AmbiguousEvent as error:
            raise Problem(409, f"{error} with ?source=") from None
        if found is None:
            raise Problem(404, f"no trace or event of this id is among the newest {_NEWEST} entries of any stream")
        return _json(found)

    def _check(self) -> None:
        if not self._open:
            raise Problem(
                404,
                "traces are shown on a loopback address only; set PENSTOCK_GATEWAY_TRACES=true if everybody who "
                "reaches this gateway may see them",
            )


def _load() -> tuple[bytes, str]:
    """Return the page, and the policy that allows its own script and style and nothing else."""
    page = resources.files(__package__).joinpath("traces.html").read_text()
    policy = {
        "default-src": "'none'",
        "script-src": _digest(page, "script"),
        "style-src": _digest(page, "style"),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return page.encode(), "; ".join(f"{name} {value}" for name, value in policy.items())


def _digest(page: str, element: str) -> str:
    """Return the source expression of an inline element (CSP 3, 2.3.1)."""
    inside = page.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), headers=_HEADERS, content_type="application/json")
