"""Lanes: the one way in which anything here reaches a server.

A lane is a small whole mesh whose keys share a hash slot, so that one script may touch them all. With one lane, as
now, its server is the one of REDIS_URL and its keys are plain names. Commands, scripts and pipelines of a lane go
through `client`, reads that block through a `reader`, and a thread has a `blocking_client`; nothing else makes a
client. What each returns is bound to its lane and not to a server: where a lane may move, its connections move along.
"""

from __future__ import annotations

from typing import Any, Self

from penstock.redis.connection import AsyncRedis, blocking_client, client
from penstock.settings import Settings, redis_url


class Lanes:
    """The lanes of a mesh, as one program reaches them."""

    count = 1

    def __init__(self, url: str, *, name: str, connect_timeout: float = 5.0, reply_timeout: float = 5.0) -> None:
        """`name` is what the server calls the connections of this program. The timeouts are in seconds.

        Raises:
            ConfigurationError: the URL is not of a form that is understood.
        """
        self._url = url
        self._connect_timeout = connect_timeout
        self._clients = [client(url, timeout=reply_timeout, connect_timeout=connect_timeout, name=name)]

    @classmethod
    def of(cls, settings: Settings, *, name: str) -> Self:
        """Return the lanes that the environment says.

        Raises:
            ConfigurationError: as above, or there is no Redis.
        """
        return cls(
            redis_url(settings),
            name=name,
            connect_timeout=settings.redis_connect_timeout,
            reply_timeout=settings.redis_reply_timeout,
        )

    def client(self, lane: int = 0) -> AsyncRedis:
        """Return the client for commands, scripts and pipelines of a lane; all callers share it."""
        return self._clients[lane]

    def handlers_client(self, lane: int = 0) -> AsyncRedis:
        """Return what handlers get of `client`: its connections, and errors that say whose fault they are."""
        from penstock.redis.marking import MarkingClient  # noqa: PLC0415 - it needs the client library

        return MarkingClient(connection_pool=self._clients[lane].connection_pool)

    def reader(self, *, name: str, lane: int = 0) -> AsyncRedis:
        """Return a client of the caller's own for reads that block. It bounds no reply; the caller closes it."""
        return client(self._server(lane), timeout=None, connect_timeout=self._connect_timeout, name=name)

    def blocking_client(self, *, timeout: float, name: str, lane: int = 0) -> Any:
        """Return a client of the caller's own for a thread; `timeout` bounds each reply, in seconds."""
        return blocking_client(self._server(lane), timeout=timeout, name=name)

    async def aclose(self) -> None:
        """Close what `client` gave out."""
        for one in self._clients:
            await one.aclose()

    def _server(self, lane: int) -> str:
        if not 0 <= lane < self.count:
            raise ValueError(f"there is no lane {lane}")
        return self._url
