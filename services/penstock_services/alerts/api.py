"""What the alert manager tells over HTTP: alerts, their history, and the silences, which can be made here too."""

from __future__ import annotations

from typing import Annotated, Any, get_args

import msgspec
from aiohttp import web

from penstock.config import Duration, convert
from penstock.errors import ConfigurationError
from penstock.mesh.alerts import AlertStore, LifecycleState, present
from penstock.service.runtime import Runtime
from penstock.web.server import json, problem, serve

Text = Annotated[str, msgspec.Meta(max_length=1_000)]


class NewSilence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a silence is made of: `duration` is a number of seconds or such as `2h`."""

    matchers: list[Text]
    duration: Duration
    author: Text
    comment: Text = ""


async def serve_api(runtime: Runtime) -> None:
    """Serve `routes` until the service is asked to stop."""
    settings = runtime.settings
    await serve(
        runtime, routes(runtime), host=settings.alerts_host, port=settings.alerts_port, variable="PENSTOCK_ALERTS_PORT"
    )


def routes(runtime: Runtime) -> list[web.RouteDef]:
    """Return what answers on /v1/alerts, /v1/alerts/history and /v1/silences, as `openapi.API` describes it."""
    store = AlertStore(runtime.redis, runtime.keys)

    async def alerts(request: web.Request) -> web.Response:
        state = request.query.get("state")
        if state not in (None, *get_args(LifecycleState)):
            raise ConfigurationError(f"state: there is none called {state!r}; {', '.join(get_args(LifecycleState))}")
        return json({"alerts": [present(one) for one in await store.alerts() if state in (None, one.state)]})

    async def history(request: web.Request) -> web.Response:
        return json({"history": [present(one) for one in await store.history(limit=_limit(request))]})

    async def silences(_: web.Request) -> web.Response:
        return json({"silences": [present(one) for one in await store.silences()]})

    async def add(request: web.Request) -> web.Response:
        asked = convert(await _body(request), NewSilence, "silence")
        silence = await store.add_silence(
            asked.matchers, seconds=asked.duration, author=asked.author, comment=asked.comment
        )
        return json(present(silence), status=201)

    async def remove(request: web.Request) -> web.Response:
        if await store.remove_silence(request.match_info["id"]):
            return web.Response(status=204)
        return problem(404, f"there is no silence {request.match_info['id']}")

    return [
        web.get("/v1/alerts", alerts),
        web.get("/v1/alerts/history", history),
        web.get("/v1/silences", silences),
        web.post("/v1/silences", add),
        web.delete("/v1/silences/{id}", remove),
    ]


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "100")
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:6]) <= 1_000:
        raise ConfigurationError(f"limit: expected a number from 1 to 1000, got {text!r}")
    return int(text)


async def _body(request: web.Request) -> Any:
    try:
        return msgspec.json.decode(await request.read())  # aiohttp reads 1 MiB at most
    except ValueError as error:
        raise ConfigurationError(f"the body is not JSON: {error}") from None
