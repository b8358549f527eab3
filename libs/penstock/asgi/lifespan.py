"""A client for as long as the application lives: one for each worker process, opened before it serves."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from penstock.asgi.types import STATE, App, Message, Receive, Scope, Send
from penstock.client.client import Penstock
from penstock.errors import PenstockError
from penstock.settings import Settings
from penstock.topology import Topology

Own = Callable[[Any], contextlib.AbstractAsyncContextManager[Mapping[str, Any] | None]]
"""A lifespan as Starlette and FastAPI have it."""


def lifespan(
    own: Own | None = None,
    *,
    url: str | None = None,
    topology: Topology | str | None = None,
    source: str = "client",
    settings: Settings | None = None,
) -> Callable[[Any], contextlib.AbstractAsyncContextManager[dict[str, Any]]]:
    """Return a lifespan for Starlette, FastAPI and whatever takes theirs; around `own`, if there is one.

    `request.state.mesh` is the client, and so is `app.state.mesh`, in `own` too. What `own` yields is part of the
    state as well. The other arguments are those of `Penstock.connect`.
    """

    @contextlib.asynccontextmanager
    async def run(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with Penstock.connect(url, topology=topology, source=source, settings=settings) as mesh:
            setattr(app.state, STATE, mesh)
            async with own(app) if own else contextlib.nullcontext() as state:
                yield {**(state or {}), STATE: mesh}

    return run


class Lifespan:
    """An ASGI application with a client for its life, in `scope["state"]["mesh"]`; its own lifespan goes on as before.

    For an application that takes no lifespan of Starlette's. The arguments are those of `Penstock.connect`.
    """

    def __init__(
        self,
        app: App,
        *,
        url: str | None = None,
        topology: Topology | str | None = None,
        source: str = "client",
        settings: Settings | None = None,
    ) -> None:
        self._app = app
        self._connect = functools.partial(Penstock.connect, url, topology=topology, source=source, settings=settings)
        self._mesh: Penstock | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the server."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if self._mesh is not None:  # not every server keeps state
            scope["state"] = {**(scope.get("state") or {}), STATE: self._mesh}
        await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        startup = await receive()
        async with contextlib.AsyncExitStack() as stack:
            try:
                self._mesh = await stack.enter_async_context(self._connect())
            except PenstockError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            stack.callback(self._forget)
            scope.setdefault("state", {})[STATE] = self._mesh
            end = await _run(self._app, scope, startup, receive, send)
        await send(end)

    def _forget(self) -> None:
        self._mesh = None


async def _run(app: App, scope: Scope, startup: Message, receive: Receive, send: Send) -> Message:
    """Run the application's own lifespan; return its last word, or ours if it has none."""
    messages = [startup]
    said: list[Message] = []

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    async def pass_on(message: Message) -> None:
        said.append(message)
        if message["type"] == "lifespan.startup.complete":  # the last word waits until the client is closed
            await send(message)

    try:
        await app(scope, next_message, pass_on)
    except Exception:
        if said:
            raise
    if not said:  # it knows no lifespan, and says so by raising, or by returning
        await send({"type": "lifespan.startup.complete"})
        await receive()
    return said[-1] if len(said) > 1 or _has_failed(said) else {"type": "lifespan.shutdown.complete"}


def _has_failed(said: list[Message]) -> bool:
    return bool(said) and said[0]["type"] == "lifespan.startup.failed"
