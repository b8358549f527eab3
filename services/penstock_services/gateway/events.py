"""`POST /v1/events`: events in, as JSON or CloudEvents; `/v1/jobs/{job_id}`: what became of one, and taking it back."""

from __future__ import annotations

from aiohttp import web

from penstock.errors import NotCancelled
from penstock.jobs.cancel import Canceller
from penstock.jobs.identities import Identities
from penstock.jobs.record import Job
from penstock.keys import INGEST
from penstock.service.runtime import Runtime
from penstock.topology import Topology
from penstock.web import body
from penstock.web.jobs import asked_job, present
from penstock.web.problems import Problem
from penstock.web.routes import Request, get, json, post
from penstock_services.gateway import cloudevents, submission
from penstock_services.gateway.acceptance import Acceptance, Accepted, AcceptedBatch, Draft, Sender
from penstock_services.gateway.upstream import Upstream

NAME = "gateway"
STREAM = INGEST  # where events go unless `?stream=` says otherwise


def publishable(topology: Topology) -> list[str]:
    """Return the streams that the gateway publishes to: those it declares, and all that carry work."""
    return list(dict.fromkeys([*topology.service(NAME).publishes, *topology.work]))


class Events:
    """Takes events for the streams that the gateway publishes to."""

    def __init__(self, runtime: Runtime, identities: Identities, upstream: Upstream) -> None:
        self._runtime = runtime
        self._upstream = upstream
        self._acceptance = Acceptance(
            runtime.publisher, identities, lifetime=runtime.settings.dedupe_ttl, telemetry=runtime.telemetry
        )
        self.routes = [
            post("/v1/events", self._take, scope="publish", own_tenant=True),
            get("/v1/jobs/{job_id}", self._job, own_tenant=True),
            post("/v1/jobs/{job_id}/cancel", self._cancel, scope="operate", own_tenant=True),
        ]

    async def _take(self, request: Request) -> web.Response:
        caller = request.caller
        stream = self._stream(request)
        self._upstream.check_backlog(stream)
        found = await _read(request)
        drafts = found if isinstance(found, list) else [found]
        for draft in drafts:
            caller.check_publishing(stream, draft.type)
        caller.spend(len(drafts) - 1)  # one was counted with the request
        sender = Sender(source=caller.source, tenant=caller.tenant)
        accepted = await self._acceptance.accept_all(stream, drafts, sender, request.span, request.headers)
        return answer(accepted, AcceptedBatch(jobs=accepted) if isinstance(found, list) else accepted[0])

    def _stream(self, request: Request) -> str:
        stream = request.query.get("stream", STREAM)
        known = publishable(self._runtime.topology)
        if stream not in known:
            raise Problem(422, f"stream: the gateway publishes to {', '.join(known)} only")
        return stream

    async def _job(self, request: Request) -> web.Response:
        return json(present(request.rest, await self._asked(request)))

    async def _cancel(self, request: Request) -> web.Response:
        await self._asked(request)
        runtime, source, tenant = self._runtime, request.query.get("source"), request.caller.tenant
        canceller = Canceller(runtime.redis, runtime.keys, runtime.topology, ttl=runtime.settings.job_ttl)
        try:
            job = await canceller.cancel(request.rest, source=source, tenant=tenant)
        except NotCancelled as error:
            raise Problem(409, str(error)) from None
        return json(present(request.rest, job))

    async def _asked(self, request: Request) -> Job:
        """Return what has become of the job that is asked for, if its caller may know."""
        runtime, source, tenant = self._runtime, request.query.get("source"), request.caller.tenant
        asked = runtime.redis, runtime.keys, runtime.topology, request.rest
        return await asked_job(*asked, source=source, tenant=tenant)


def answer(accepted: list[Accepted], content: Accepted | AcceptedBatch) -> web.Response:
    """Return the answer to a request whose events are all accepted."""
    response = json(content, status=202)
    if accepted and all(one.duplicate for one in accepted):
        response.headers["Idempotency-Replayed"] = "true"
    return response


async def _read(request: Request) -> list[Draft] | Draft:
    headers, kind = request.headers, body.media_type(request.http)
    binary = cloudevents.is_binary(kind, headers)
    # The data of a CloudEvent in binary mode may be absent, and then nothing says what it is.
    content = await request.read() if binary and not request.http.body_exists else await request.read_json()
    if binary:
        return cloudevents.read_binary(headers, content)
    if kind in cloudevents.MEDIA_TYPES:
        return cloudevents.read(kind, content)
    return submission.read(content)
