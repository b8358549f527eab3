"""Clients of live streams: one of Server-Sent Events, as a browser's EventSource is one, and one of WebSockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp

DEADLINE = 20.0


class Told(NamedTuple):
    """One event of a stream; `data` is JSON."""

    name: str
    data: Any


class EventSource:
    """One connection; `last_id` is what the next one begins with."""

    def __init__(self, response: aiohttp.ClientResponse, last_id: str) -> None:
        self.response = response
        self.last_id = last_id

    async def next(self) -> Told | None:
        """Return what comes next, None at the end."""
        async with asyncio.timeout(DEADLINE):
            name, data = "message", None
            while line := (await self.response.content.readline()).decode():
                field, _, value = line.rstrip("\n").partition(": ")
                if field == "id":
                    self.last_id = value
                elif field == "event":
                    name = value
                elif field == "data":
                    assert data is None, "one line"
                    data = value
                elif not field and data is not None:
                    return Told(name, json.loads(data))
        return None

    async def take(self, count: int) -> list[Told]:
        """Return the next few."""
        taken = [await self.next() for _ in range(count)]
        assert None not in taken, taken
        return [one for one in taken if one is not None]

    async def rest(self) -> list[Told]:
        """Return all until the end."""
        told = []
        while (one := await self.next()) is not None:
            told.append(one)
        return told


@asynccontextmanager
async def event_source(
    port: int, path: str, *, last_id: str = "", headers: Mapping[str, str] | None = None, buffer: int = 2**16
) -> AsyncIterator[EventSource]:
    asks = {**(headers or {}), **({"Last-Event-ID": last_id} if last_id else {})}
    async with (
        aiohttp.ClientSession(read_bufsize=buffer) as session,
        session.get(f"http://127.0.0.1:{port}{path}", headers=asks) as response,
    ):
        yield EventSource(response, last_id)


class Socket:
    """A WebSocket; `positions` has the last of each subscription, `id` is its name in the registry."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.positions: dict[str, str] = {}
        self.id = ""

    async def say(self, command: str, sub: str, **more: Any) -> None:
        await self.socket.send_json({"type": command, "sub": sub, **more})

    async def next(self) -> dict[str, Any] | None:
        """Return what comes next, None at the end."""
        async with asyncio.timeout(DEADLINE):
            message = await self.socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            return None
        told: dict[str, Any] = message.json()
        if "position" in told:
            self.positions[told["sub"]] = told["position"]
        return told

    async def take(self, count: int) -> list[dict[str, Any]]:
        """Return the next few."""
        taken = [await self.next() for _ in range(count)]
        assert None not in taken, (taken, self.socket.close_code)
        return [one for one in taken if one is not None]

    async def ask(self, command: str, sub: str, **more: Any) -> dict[str, Any]:
        """Say something, and return what comes next."""
        await self.say(command, sub, **more)
        (told,) = await self.take(1)
        return told


@asynccontextmanager
async def web_socket(
    port: int, path: str = "/v1/ws", *, headers: Mapping[str, str] | None = None, **how: Any
) -> AsyncIterator[Socket]:
    async with (
        aiohttp.ClientSession(read_bufsize=how.pop("buffer", 2**16)) as session,
        session.ws_connect(f"http://127.0.0.1:{port}{path}", headers=headers, **how) as socket,
    ):
        one = Socket(socket)
        if (welcome := await one.next()) is not None:
            assert welcome["event"] == "welcome"
            one.id = welcome["data"]["connection"]
        yield one
