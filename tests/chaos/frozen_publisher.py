"""A publisher that is frozen, by itself, before it tries a second time; it says what came of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from penstock.errors import Unavailable
from penstock.event import encode
from penstock.keys import Keys
from penstock.redis.connection import client
from penstock.streams import publish, rows


class Freezing:
    """The script that publishes; the process stops before its second call."""

    def __init__(self, script: Any) -> None:
        self._script = script
        self._calls = 0

    async def __call__(self, *arguments: Any) -> Any:
        self._calls += 1
        if self._calls == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        return await self._script(*arguments)


async def main(url: str, token_seconds: int) -> None:
    publish._TOKEN_SECONDS, publish._MARGIN = token_seconds, 1
    redis = client(url)
    async with publish.Publisher(redis, Keys()) as publisher:
        await publisher.publish("events", encode("first", "0"))  # so that the server has the script
        vars(publish)["publish"] = Freezing(rows.publish)
        try:
            published = await publisher.publish("ingest", encode("order.placed", "1"))
        except Unavailable as error:
            sys.stdout.write(str(error))
        else:
            sys.stdout.write(published.entry_id)
    await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
