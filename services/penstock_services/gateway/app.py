"""Routes: which function answers which request, and what every failure looks like."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

import msgspec
import structlog
from aiohttp import web

from penstock.errors import InvalidEvent, Unavailable
from penstock.keys import INGEST
from penstock.mesh.jobs import find_job
from penstock.redis.connection import unavailable
from penstock.service.runtime import Runtime
from penstock.web.problems import Problem, away
from penstock.web.server import Lively, Ready, json
from penstock_services.gateway import body, cloudevents, submission
from penstock_services.gateway.acceptance import Acceptance, Accepted, AcceptedBatch, Draft
from penstock_services.gateway.monitoring import Monitoring
from penstock_services.gateway.orchestrator import Orchestrator
from penstock_services.gateway.traces import TracePages
from penstock_services.gateway.upstream import Upstream
from penstock_services.gateway.webhooks import Source

Handler = Callable[[web.BaseRequest, str], Awaitable[web.Response]]
Methods = dict[str, Handler]

STREAM = INGEST  # where POST /v1/events goes
_log = structlog.get_logger("penstock.gateway")


class App:
    """Answers requests. Routes are few and fixed, so a table serves; a prefix takes the rest of the path."""

    def __init__(self, runtime: Runtime, sources: dict[str, Source], upstream: Upstream) -> None:
        self._runtime = runtime
        self._sources = sources
        self._upstream = upstream
        self._events = self._acceptance(STREAM, "/v1/events")
        self._webhooks = {
            stream: self._acceptance(stream, "/webhooks/{source}")
            for stream in {source.stream for source in sources.values()}
        }
        traces = TracePages(runtime)
        told = {**traces.paths, **Monitoring(runtime).paths, **Orchestrator(runtime).paths}
        self._paths: dict[str, Methods] = {
            "/v1/events": {"POST": self._take_events},
            "/livez": _reading(self._live),
            "/readyz": _reading(self._ready),
            **{path: _reading(handler) for path, handler in told.items()},
        }
        self._prefixes: dict[str, Methods] = {
            "/webhooks/": {"POST": self._take_webhook},
            "/v1/jobs/": _reading(self._tell_job),
            **{prefix: _reading(handler) for prefix, handler in traces.prefixes.items()},
        }

    def _acceptance(self, stream: str, route: str) -> Acceptance:
        runtime = self._runtime
        return Acceptance(
            runtime.publisher,
            stream,
            route=route,
            lifetime=runtime.settings.dedupe_ttl,
            telemetry=runtime.telemetry,
        )

    @property
    def routes(self) -> set[tuple[str, str]]:
        """Every method and path there is; a path that ends in `{}` takes the rest of the address."""
        paths = {**self._paths, **{f"{prefix}{{}}": methods for prefix, methods in self._prefixes.items()}}
        return {(method, path) for path, methods in paths.items() for method in methods}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer a request; every failure becomes a problem document."""
        try:
            methods, rest = self._resolve(request.rel_url.raw_path)
            return await _choose(methods, request.method)(request, rest)
        except Problem as problem:
            return problem.response()
        except Exception as error:  # noqa: BLE001 - it becomes an answer, and a log line if it is ours
            return _failure(error).response()

    def _resolve(self, path: str) -> tuple[Methods, str]:
        if methods := self._paths.get(path):
            return methods, ""
        for prefix, methods in self._prefixes.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return methods, _decoded(path[len(prefix) :])
        raise Problem(404, "there is nothing at this address; events go to /v1/events")

    async def _take_events(self, request: web.BaseRequest, _: str) -> web.Response:
        self._upstream.check_backlog(STREAM)
        found = await self._read_events(request)
        drafts = found if isinstance(found, list) else [found]
        accepted = await self._events.accept_all(drafts, request.headers)
        if isinstance(found, list):
            return _accepted(accepted, AcceptedBatch(jobs=accepted))
        return _accepted(accepted, accepted[0])

    async def _read_events(self, request: web.BaseRequest) -> list[Draft] | Draft:
        headers, kind = request.headers, body.media_type(request)
        binary = cloudevents.is_binary(kind, headers)
        if request.body_exists or not binary:
            body.require_json(request)
        content = await body.read(request, self._runtime.settings)
        if binary:
            return cloudevents.read_binary(headers, content)
        if kind in cloudevents.MEDIA_TYPES:
            return cloudevents.read(kind, content)
        return submission.read(content)

    async def _take_webhook(self, request: web.BaseRequest, name: str) -> web.Response:
        source = self._sources.get(name)
        if source is None:
            raise Problem(404, "there is no such webhook source; streams.yaml declares them under webhooks")
        self._upstream.check_backlog(source.stream)
        body.require_json(request)
        delivery = source.receive(request.headers, await body.read(request, self._runtime.settings))
        acceptance = self._webhooks[source.stream]
        once = [acceptance.once("webhook", [name, delivery.id])] if delivery.id else []
        accepted = await acceptance.accept(delivery.draft, request.headers, once)
        return _accepted([accepted], accepted)

    async def _tell_job(self, _: web.BaseRequest, job_id: str) -> web.Response:
        job = await find_job(self._runtime.redis, self._runtime.keys, job_id)
        if job is None:
            raise Problem(404, "nothing is known of this job: it never was, or its record has expired")
        return json({"job_id": job_id, **msgspec.to_builtins(job)})

    async def _live(self, _: web.BaseRequest, __: str) -> web.Response:
        return json(Lively())

    async def _ready(self, _: web.BaseRequest, __: str) -> web.Response:
        if not self._upstream.ready:
            raise Problem(503, f"not ready: {self._upstream.trouble}", headers={"Retry-After": "1"})
        return json(Ready())


def _reading(handler: Handler) -> Methods:
    return {"GET": handler, "HEAD": handler}


def _choose(methods: Methods, method: str) -> Handler:
    if handler := methods.get(method):
        return handler
    allowed = ", ".join(methods)
    raise Problem(405, f"this address takes {allowed}", headers={"Allow": allowed})


def _decoded(raw: str) -> str:
    try:
        text = unquote(raw, errors="strict")
        text.encode()
    except UnicodeError:
        raise Problem(404, "there is nothing at this address: it is not UTF-8") from None
    return text


def _accepted(accepted: list[Accepted], answer: Accepted | AcceptedBatch) -> web.Response:
    response = json(answer, 202)
    if accepted and all(one.duplicate for one in accepted):
        response.headers["Idempotency-Replayed"] = "true"
    return response


def _failure(error: Exception) -> Problem:
    reason = error if isinstance(error, Unavailable) else unavailable(error)
    if reason is None and isinstance(error, InvalidEvent):  # the keys in Redis are not what they should be
        reason = Unavailable(str(error))
    if reason is not None:
        return away(reason)
    _log.error("a request failed", exc_info=error)
    return Problem(500, "this is an error of the gateway; its log has the details")
