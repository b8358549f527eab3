"""What the alert manager tells over HTTP: alerts and their history; silences and acknowledgements are made here."""

from __future__ import annotations

from typing import Annotated, get_args

import msgspec
from aiohttp import web

from penstock.config import Duration, convert, read_limit
from penstock.errors import ConfigurationError
from penstock.mesh.alerts import MOST_HISTORY, AlertStore, LifecycleState, present
from penstock.service.runtime import Runtime
from penstock.web.body import parse
from penstock.web.problems import Problem
from penstock.web.routes import HttpRoute, Request, delete, get, json, post
from penstock.web.server import serve

Text = Annotated[str, msgspec.Meta(max_length=1_000)]


class NewSilence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a silence is made of: `duration` is a number of seconds or such as `2h`."""

    matchers: list[Text]
    duration: Duration
    author: Text
    comment: Text = ""


class NewAcknowledgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who takes an alert on, and what is being done; `alert` is its fingerprint, or how that begins."""

    alert: Annotated[Text, msgspec.Meta(min_length=1)]
    by: Annotated[Text, msgspec.Meta(min_length=1)]
    comment: Text = ""


async def serve_api(runtime: Runtime) -> None:
    """Serve `routes` until the service is asked to stop."""
    settings = runtime.settings
    await serve(
        runtime, routes(runtime), host=settings.alerts_host, port=settings.alerts_port, variable="PENSTOCK_ALERTS_PORT"
    )


def routes(runtime: Runtime) -> list[HttpRoute]:
    """Return what answers on /v1/alerts, /v1/acknowledgements and /v1/silences, as `openapi.API` describes it."""
    store = AlertStore(runtime.redis, runtime.keys)
    return [*_alerts(store), *_acknowledgements(store), *_silences(store)]


def _alerts(store: AlertStore) -> list[HttpRoute]:

    async def alerts(request: Request) -> web.Response:
        state = request.query.get("state")
        if state not in (None, *get_args(LifecycleState)):
            raise ConfigurationError(f"state: there is none called {state!r}; {', '.join(get_args(LifecycleState))}")
        return json({"alerts": [present(one) for one in await store.alerts() if state in (None, one.state)]})

    async def history(request: Request) -> web.Response:
        limit = read_limit(request.query.get("limit", "100"), MOST_HISTORY)
        return json({"history": [present(one) for one in await store.history(limit=limit)]})

    return [get("/v1/alerts", alerts), get("/v1/alerts/history", history)]


def _acknowledgements(store: AlertStore) -> list[HttpRoute]:
    async def acknowledge(request: Request) -> web.Response:
        asked = convert(parse(await request.read_json()), NewAcknowledgement, "acknowledgement")
        said = await store.acknowledge(asked.alert, by=asked.by, comment=asked.comment)
        if said is None:
            raise Problem(404, f"no alert that fires has a fingerprint that begins with {asked.alert}")
        return json(present(said), status=201 if said.by == asked.by else 200)

    async def withdraw(request: Request) -> web.Response:
        by, comment = request.query.get("by", ""), request.query.get("comment", "")
        if not by:
            raise ConfigurationError("by: who takes the acknowledgement back? Give ?by=NAME")
        if await store.withdraw(request.rest, by=by, comment=comment) is None:
            raise Problem(404, f"no alert that somebody has taken on has a fingerprint that begins with {request.rest}")
        return web.Response(status=204)

    return [
        post("/v1/acknowledgements", acknowledge, scope="operate"),
        delete("/v1/acknowledgements/{fingerprint}", withdraw, scope="operate"),
    ]


def _silences(store: AlertStore) -> list[HttpRoute]:
    async def silences(_: Request) -> web.Response:
        return json({"silences": [present(one) for one in await store.silences()]})

    async def add(request: Request) -> web.Response:
        asked = convert(parse(await request.read_json()), NewSilence, "silence")
        silence = await store.add_silence(
            asked.matchers, seconds=asked.duration, author=asked.author, comment=asked.comment
        )
        return json(present(silence), status=201)

    async def remove(request: Request) -> web.Response:
        if await store.remove_silence(request.rest):
            return web.Response(status=204)
        raise Problem(404, f"there is no silence {request.rest}")

    return [
        get("/v1/silences", silences),
        post("/v1/silences", add, scope="operate"),
        delete("/v1/silences/{id}", remove, scope="operate"),
    ]
