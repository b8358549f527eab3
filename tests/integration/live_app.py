"""A web application with live streams, which tests run in uvicorn: whose it is, a header says."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from penstock.asgi import LiveStreams, lifespan
from penstock.asgi.types import Scope, header
from penstock.live.topic import Topic, Viewer


async def authorize(scope: Scope) -> Viewer | None:
    user = header(scope, b"x-user")
    return None if user is None else Viewer(name=user, tenant=header(scope, b"x-tenant"), all_tenants=user == "staff")


async def sees(viewer: Viewer, topic: Topic) -> bool:
    return viewer.name == "staff" or topic.subject != "secret"


async def home(_: Request) -> PlainTextResponse:
    return PlainTextResponse("home")


app = Starlette(
    routes=[
        Route("/", home),
        Mount("/live", LiveStreams(authorize, sees=sees, origins=["https://shop.example"])),
    ],
    lifespan=lifespan(source="shop-web"),
)
