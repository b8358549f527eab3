"""Webhooks: `POST /webhooks/{source}`, from a signed request of a source of streams.yaml to an event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from aiohttp import web

from penstock.jobs.identities import Identities
from penstock.service.runtime import Runtime
from penstock.web import body
from penstock.web.problems import Problem, overloaded
from penstock.web.routes import HttpRoute, Request, get, post
from penstock_services.gateway import handshakes
from penstock_services.gateway.acceptance import DELIVERY, Acceptance, Draft, Sender
from penstock_services.gateway.events import answer
from penstock_services.gateway.schemes import Signed
from penstock_services.gateway.sources import IncomingWebhook, WebhookSource
from penstock_services.gateway.upstream import Upstream

_LARGE_AT_ONCE = 4  # bodies above the gateway's limit that are in memory at once: unsigned ones are, too


class Webhooks:
    """Takes webhooks. What may be refused without reading the body is; nothing is believed before it is verified."""

    def __init__(
        self, runtime: Runtime, identities: Identities, upstream: Upstream, sources: Mapping[str, WebhookSource]
    ) -> None:
        self._sources = sources
        self._upstream = upstream
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._acceptance = Acceptance(
            runtime.publisher, identities, lifetime=runtime.settings.dedupe_ttl, telemetry=runtime.telemetry
        )
        path = "/webhooks/{source}"
        self.routes = [
            post(path, self._take, scope="public"),
            get(path, self._greet, scope="public"),
            HttpRoute(method="OPTIONS", path=path, endpoint=self._allow, scope="public"),
        ]

    async def _take(self, request: Request) -> web.Response:
        source = self._source(request.rest)
        self._upstream.check_backlog(source.hook.stream)
        body.refuse_compressed(request.http)
        read = await self._read(request, source)
        incoming = source.receive(Signed(headers=request.headers, query=request.query, body=read, now=time.time()))
        if (reply := handshakes.answer(incoming, request.headers)) is not None:
            return reply
        try:
            async with asyncio.timeout(source.answer_within):
                return await self._accept(source, incoming, request)
        except TimeoutError:
            raise Problem(503, "Redis did not take it in time; send it again", headers={"Retry-After": "2"}) from None

    async def _read(self, request: Request, source: WebhookSource) -> bytes:
        # One that comes in chunks does not say how large it is: it counts as one of those that may be large.
        length = source.max_body if request.http.content_length is None else request.http.content_length
        if min(length, source.max_body) <= request.limits.body:
            return await request.read(most=min(source.max_body, request.limits.body))
        if self._large.locked():
            raise overloaded("too many large bodies at once", retry_after=1)
        async with self._large:
            return await request.read(most=source.max_body)

    async def _accept(self, source: WebhookSource, incoming: IncomingWebhook, request: Request) -> web.Response:
        verified = incoming.verified
        draft = Draft(
            type=source.event_type(request.headers, incoming.content),
            data=incoming.data,
            id=verified.key,
            tenant=source.hook.tenant,
            extra={DELIVERY: verified.delivery} if verified.delivery else {},
        )
        sender = Sender(source=f"webhook/{source.name}", tenant=source.hook.tenant)
        accepted = await self._acceptance.accept(source.hook.stream, draft, sender, request.span)
        return answer([accepted], accepted)

    async def _greet(self, request: Request) -> web.Response:
        return handshakes.challenge(self._source(request.rest), request.query)

    async def _allow(self, request: Request) -> web.Response:
        self._source(request.rest)
        return handshakes.allow(request.headers)

    def _source(self, name: str) -> WebhookSource:
        source = self._sources.get(name)
        if source is None:
            raise Problem(404, "there is no such webhook source; streams.yaml declares them under webhooks")
        return source
