"""One topic on its way over a connection: first the state, with the position that it holds for, then what follows.

Whoever comes back with a position gets all that was told meanwhile, or `resync`: then what it knows is too old to go
on from, and it begins anew.
"""

from __future__ import annotations

import asyncio
from typing import Self

import msgspec

from penstock.live.connection import Connection, Follower, Message
from penstock.live.live import Live
from penstock.live.topic import Filter, Topic
from penstock.web.jobs import present
from penstock.web.problems import Problem

_CATCH_UP = 5.0  # seconds


class Subscription:
    """What a connection is told of one topic, from its beginning to its end."""

    def __init__(self, live: Live, connection: Connection, topic: Topic, wanted: Filter) -> None:
        """Use `open`."""
        self._live = live
        self._viewer = connection.viewer
        self._topic = topic
        self._follower = Follower(wanted, connection)
        self.over = False
        """Whether nothing more will come."""

    @classmethod
    async def open(cls, live: Live, connection: Connection, topic: Topic) -> Self:
        """Return the subscription of an open connection to a topic.

        Raises:
            Problem: as `Live.check` says.
            redis.exceptions.RedisError: Redis is away.
        """
        return cls(live, connection, topic, await live.check(topic, connection.viewer))

    def close(self) -> None:
        """Follow no more."""
        self._live.leave(self._follower)

    @property
    def is_level(self) -> bool:
        """Whether all is told up to the position of `live`."""
        return self._live.is_level(self._follower)

    async def begin(self, position: str | None) -> list[Message]:
        """Return what comes first, and if there is a position, what was told since; nothing if all is over and told.

        Raises:
            Problem: it is not known any more.
            redis.exceptions.RedisError: Redis is away.
            TimeoutError: what was told last takes too long to come here.
        """
        missed = None if position is None else await self._live.resume(self._follower, position)
        if missed is None:
            return await self._begin(resync=position is not None)
        snapshot = await self._look()
        if self.over:  # the last of what was told may still be under way to here
            async with asyncio.timeout(_CATCH_UP):
                await self._live.catch_up()
            missed += self._follower.take()
            if not missed:
                return []
        return [*missed, Message(*snapshot)]

    async def next(self) -> list[Message]:
        """Return what waits to be sent: maybe nothing.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        if self._follower.missed:
            try:
                return await self._begin(resync=True)
            except Problem:  # it is not known any more
                self.over = True
                return [Message("resync", position=self._live.position)]
        messages = self._follower.take()
        self.over = self._topic.job is not None and any(message.ends for message in messages)
        return messages

    async def _begin(self, *, resync: bool) -> list[Message]:
        self._live.follow(self._follower)
        position = self._live.position
        name, data = await self._look()
        begins = [Message("resync", position=position)] if resync else []
        return [*begins, Message(name, data, position=position)]

    async def _look(self) -> tuple[str, bytes]:
        """Return the name of how things are, and how they are."""
        if self._topic.job is None:
            return "ready", b"{}"
        job = await self._live.find(self._topic, self._viewer)
        self.over = job.is_over
        return "state", msgspec.json.encode(present(self._topic.job, job))
