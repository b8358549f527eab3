"""A connection that one owner has for itself, for what is on the hot path or blocks."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import Any

from penstock.redis.connection import AsyncRedis

_PATIENCE = 5.0  # seconds that a reply may take where the client bounds none


class DedicatedConnection:
    """One connection, one call at a time.

    It spares the pool and the locks of a shared client, which cost more than the rest of a small call. A blocked read
    must not be cut short by a client's own time limit, and nothing must be repeated behind the caller's back. What
    the server says of "this connection" (WAIT, WAITAOF) holds for the calls of its owner.
    """

    def __init__(self, client: AsyncRedis, *, patience: float = math.inf) -> None:
        """Take a client that says where to connect; a reply may take what it says, and `patience` seconds at most."""
        from hiredis import pack_command  # noqa: PLC0415 - see penstock.redis.connection
        from redis import exceptions  # noqa: PLC0415 - see penstock.redis.connection

        self._exceptions = exceptions
        self._pack = pack_command  # in C: redis-py's own for asyncio takes longer than a small call's way and back
        self._client = client
        bound = client.connection_pool.connection_kwargs.get("socket_timeout") or _PATIENCE
        self._patience: float = min(patience, bound)
        self._connection: Any = None

    async def execute_command(self, *command: Any, timeout: float | None = None) -> Any:
        """Send a command and return its reply, within `timeout` seconds, or those that the client has for a reply.

        Raises:
            redis.exceptions.RedisError: it failed; unless the server has answered, it may have been carried out.
        """
        (reply,) = await self.execute_commands([command], timeout=timeout)
        return reply

    async def execute_commands(self, commands: Sequence[Sequence[Any]], *, timeout: float | None = None) -> list[Any]:
        """Send commands that the server carries out one after another, and return their replies.

        Raises:
            redis.exceptions.RedisError: as for one; the others may have been carried out all the same.
        """
        if self._connection is None:
            self._connection = self._client.connection_pool.make_connection()
            self._connection.socket_timeout = None  # a call is bounded below, as a whole; one more costs a task
        connection = self._connection
        try:
            async with asyncio.timeout(self._patience if timeout is None else timeout):
                await connection.send_packed_command([self._pack(tuple(command)) for command in commands])
                replies = [await self._reply(connection) for _ in commands]
        except BaseException as error:  # a half-read reply: this connection cannot be trusted any more
            await self.disconnect()
            if isinstance(error, TimeoutError):
                raise self._exceptions.TimeoutError("no reply in time") from None
            raise
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _reply(self, connection: Any) -> Any:
        try:
            return await connection.read_response()
        except self._exceptions.ResponseError as error:
            return error

    async def disconnect(self) -> None:
        """Drop the connection; the next call opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(self._exceptions.RedisError, OSError):
                await connection.disconnect(nowait=True)
