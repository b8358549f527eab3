"""The pool of a client's connections."""

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio


class Pool(redis.asyncio.ConnectionPool):
    """Callers for whom there is no connection wait for their turn; redis-py's own pool fails them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turns = asyncio.Semaphore(self.max_connections)

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """Return a connection to the server, once it is the caller's turn."""
        await self._turns.acquire()
        connection = self.get_available_connection()  # type: ignore[no-untyped-call]
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Take a connection back for the next in turn."""
        self._in_use_connections.remove(connection)
        try:
            if connection.should_reconnect():
                await connection.disconnect()
        finally:
            self._available_connections.append(connection)
            self._turns.release()
