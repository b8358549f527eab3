"""The client that handlers have: what it raises because Redis cannot serve now says so, whoever gets to see it.

So it is told from the errors of a handler's own clients, which are of the same types.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import redis.asyncio
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError, TimeoutError  # noqa: A004

from penstock.redis.connection import unavailable


class MarkingClient(redis.asyncio.Redis):
    """A client whose errors have the attribute `unavailable` if trying again later can help."""

    async def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Do what a client does."""
        with _marked(may_block=_blocks(arguments)):
            return await super().execute_command(*arguments, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline whose errors are marked too."""
        return _MarkingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _MarkingPipeline(Pipeline):
    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        with _marked():
            return await super().execute(raise_on_error)

    async def immediate_execute_command(self, *arguments: Any, **options: Any) -> Any:
        with _marked(may_block=_blocks(arguments)):
            return await super().immediate_execute_command(*arguments, **options)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _marked(*, may_block: bool = False) -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        away = unavailable(error)
        if away is not None and not (may_block and isinstance(error, TimeoutError)):
            error.unavailable = away  # type: ignore[attr-defined]
        raise


def _blocks(arguments: tuple[Any, ...]) -> bool:
    """Whether a command may wait for longer than a client does; then no reply is no trouble of the server's."""
    command = str(arguments[0]).upper()
    return command.startswith(("B", "WAIT")) or b"BLOCK" in arguments or "BLOCK" in arguments
