"""Live streams as Server-Sent Events.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from penstock.live.connection import Connection, Message
from penstock.live.live import Live
from penstock.live.subscription import Subscription
from penstock.live.topic import Topic

PING = 15.0  # seconds of silence after which a comment says that the connection is alive
_PAUSE_MS = (1_000, 3_000)  # after which a client comes back: not all at once
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Type": "text/event-stream",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


@contextlib.asynccontextmanager
async def event_stream(
    live: Live, connection: Connection, topic: Topic, position: str | None
) -> AsyncIterator[AsyncIterator[bytes] | None]:
    """Yield what is to be sent, piece by piece; None if all is over, and was told.

    With the answer 204 a browser stops coming back. It ends early when the connection is closed.

    Raises:
        Problem: the topic is none, or not for the viewer.
        redis.exceptions.RedisError: Redis is away; also once pieces were sent. Whoever wants more comes back.
    """
    async with live.open(connection):
        subscription = await Subscription.open(live, connection, topic)
        first = await subscription.begin(position)
        async with contextlib.aclosing(_pieces(live, connection, subscription, first)) as pieces:
            yield pieces if first else None


async def _pieces(
    live: Live, connection: Connection, subscription: Subscription, first: list[Message]
) -> AsyncGenerator[bytes, None]:
    yield b"retry: %d\n\n" % random.randint(*_PAUSE_MS) + _joined(first)  # noqa: S311 - no secret
    while not (subscription.over or connection.closed):
        try:
            async with asyncio.timeout(PING):
                await connection.wait()
        except TimeoutError:
            # A position without data is no event to anybody, and what a client comes back with.
            where = f"id: {live.position}\n" if subscription.is_level else ""
            yield f": alive\n{where}\n".encode()
        else:
            yield _joined([*connection.take(), *await subscription.next()])
    if subscription.over:
        yield Message("end").block


def _joined(messages: list[Message]) -> bytes:
    return b"".join([message.block for message in messages])
