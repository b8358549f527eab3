"""The pool of a client's connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import redis.asyncio
from redis import exceptions


class Cancellable:
    """A connection that can be cancelled while it sends.

    redis-py sends within `asyncio.wait_for`. On Python 3.11 that returns as if nothing had been if it is cancelled just
    when its work is done: whoever is cancelled once goes on for ever.
    """

    async def send_packed_command(self: Any, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """Send what is packed, on a new connection if there is none; we have no health checks.

        Raises:
            redis.exceptions.ConnectionError: there is no connection to be had, or it is lost.
            redis.exceptions.TimeoutError: the server does not take it within `socket_timeout`.
        """
        if not self.is_connected:
            await self.connect()
        if isinstance(command, str):
            command = command.encode()
        try:
            async with asyncio.timeout(self.socket_timeout):
                self._writer.writelines([command] if isinstance(command, bytes) else command)
                await self._writer.drain()
        except BaseException as error:  # what was sent in part cannot be followed by anything
            await self.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise exceptions.TimeoutError("Timeout writing to socket") from None
            if isinstance(error, OSError):
                raise exceptions.ConnectionError(f"Error while writing to socket: {error}") from error
            raise


class Pool(redis.asyncio.ConnectionPool):
    """Callers for whom there is no connection wait for their turn; redis-py's own pool fails them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.connection_class = type("Connection", (Cancellable, self.connection_class), {})
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
