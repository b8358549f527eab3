"""Routes: which endpoint answers which request, what it asks of the caller, and how it is told of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from aiohttp import web

from penstock.telemetry.server_spans import ServerSpan
from penstock.web import body
from penstock.web.clients import Caller
from penstock.web.limits import Limits
from penstock.web.problems import Problem
from penstock.web.scopes import Scope


class Request(msgspec.Struct, frozen=True):
    """A request that may be answered: who sent it, and what its path has where the route's has `{...}`.

    What it brings about is traced below its span.
    """

    http: web.BaseRequest
    caller: Caller
    rest: str
    limits: Limits
    span: ServerSpan

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by name in any case."""
        return self.http.headers

    @property
    def query(self) -> Mapping[str, str]:
        """The parameters of the address."""
        return self.http.query

    async def read(self, *, most: int | None = None) -> bytes:
        """Return the body as it was sent; `most` bounds its bytes where the endpoint knows better than the limits.

        Raises:
            Problem: 413 it is too large, 408 it is too slow, 400 it breaks off.
        """
        most = self.caller.max_body or most or self.limits.body
        return await body.read(self.http, most=most, timeout=self.limits.body_timeout)

    async def read_json(self) -> bytes:
        """Return a body that must be declared to be JSON; `body.parse` decodes it.

        Raises:
            Problem: as for `read`, and 415.
        """
        body.require_json(self.http)
        return await self.read()


Endpoint = Callable[[Request], Awaitable[web.StreamResponse]]


class HttpRoute(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path; `{name}` in it takes what of the address nothing else there is for.

    `own_tenant`: the endpoint keeps callers to their tenant by itself. `ticketed`: a ticket opens it too.
    `navigable`: a page that links from elsewhere may open. `vital`: answered also when there is no room for anything
    else.
    """

    method: str
    path: str
    endpoint: Endpoint
    scope: Scope
    own_tenant: bool = False
    ticketed: bool = False
    navigable: bool = False
    vital: bool = False

    @property
    def quiet(self) -> bool:
        """Whether it is for probes and scrapes, which nobody traces."""
        return self.vital or self.scope == "scrape"


def get(path: str, endpoint: Endpoint, *, scope: Scope = "read", **how: bool) -> HttpRoute:
    """Return a route that reads; HEAD is answered as well."""
    return HttpRoute(method="GET", path=path, endpoint=endpoint, scope=scope, **how)


def post(path: str, endpoint: Endpoint, *, scope: Scope, **how: bool) -> HttpRoute:
    """Return a route that acts."""
    return HttpRoute(method="POST", path=path, endpoint=endpoint, scope=scope, **how)


def delete(path: str, endpoint: Endpoint, *, scope: Scope, **how: bool) -> HttpRoute:
    """Return a route that removes."""
    return HttpRoute(method="DELETE", path=path, endpoint=endpoint, scope=scope, **how)


def json(value: Any, status: int = 200) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


class RouteTable:
    """Every route of a port. They are few and fixed, so a table serves."""

    def __init__(self, routes: Iterable[HttpRoute]) -> None:
        self.routes = tuple(routes)
        self._exact: dict[str, dict[str, HttpRoute]] = {}
        self._open: dict[tuple[str, str], dict[str, HttpRoute]] = {}  # by what is before and behind the braces
        for route in sorted(self.routes, key=lambda route: route.path.endswith("}")):
            prefix, brace, behind = route.path.partition("{")
            suffix = behind.partition("}")[2]
            methods = self._open.setdefault((prefix, suffix), {}) if brace else self._exact.setdefault(prefix, {})
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route

    def find(self, method: str, path: str) -> tuple[HttpRoute, str]:
        """Return the route of a path as it was sent, and what stands for its `{...}`.

        Raises:
            Problem: 404, 405.
        """
        methods, rest = self._resolve(path)
        if method not in methods:
            allowed = ", ".join(methods)
            raise Problem(405, f"this address takes {allowed}", headers={"Allow": allowed})
        return methods[method], rest

    def _resolve(self, path: str) -> tuple[Mapping[str, HttpRoute], str]:
        if methods := self._exact.get(path):
            return methods, ""
        for (prefix, suffix), methods in self._open.items():
            if path.startswith(prefix) and path.endswith(suffix) and len(path) > len(prefix) + len(suffix):
                return methods, _decoded(path[len(prefix) : len(path) - len(suffix)])
        raise Problem(404, "there is nothing at this address; /openapi.json of the gateway describes what there is")


def _decoded(raw: str) -> str:
    try:
        text = unquote(raw, errors="strict")
        text.encode()
    except UnicodeError:
        raise Problem(404, "there is nothing at this address: it is not UTF-8") from None
    return text
