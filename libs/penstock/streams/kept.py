"""Kept events: what the spool holds, published by the script that publishes everything."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from penstock.errors import Unavailable
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, telling_unavailable, unavailable
from penstock.redis.dedicated import DedicatedConnection
from penstock.spool.segment import Record
from penstock.spool.spooling import State
from penstock.streams.durability import Durability, confirm
from penstock.streams.rows import CONFLICT, Row, pack, publish

_RETIRED = 86_400  # seconds for which a call that was lost on its way could still arrive


class KeptEvents:
    """Where a spool is emptied into: `penstock.spool.spooling.Outlet` says what its calls mean."""

    def __init__(self, client: AsyncRedis, keys: Keys, durability: Durability, durability_timeout: float) -> None:
        """It has a connection of its own, made as those of `client` are."""
        self._connection = DedicatedConnection(client)
        self._keys = keys
        self.durability: Durability = durability
        self._durability_timeout = durability_timeout

    async def publish(self, spool: str, records: Sequence[Record]) -> list[str]:
        """Publish records that come after the last one that was published; return why each never can be."""
        try:
            with telling_unavailable():
                return await self._publish(spool, records)
        except Exception as error:
            from redis.exceptions import ResponseError  # noqa: PLC0415 - see penstock.redis.connection

            if not isinstance(error, ResponseError) or unavailable(error) is not None:
                raise
            if len(records) == 1:  # it alone makes the script fail
                return [str(error)]
            return [why for record in records for why in await self.publish(spool, [record])]

    async def retire(self, spool: str) -> None:
        """Let the position of a spool that is empty for good expire."""
        try:
            with telling_unavailable():
                await self._connection.execute_command("HDEL", self._keys.spools, spool)
        except Unavailable as error:
            if not error.is_denial:  # else nothing was told there either
                raise
        with telling_unavailable():
            await self._connection.execute_command("EXPIRE", self._keys.spool(spool), _RETIRED)

    async def tell(self, spool: str, state: State) -> None:
        """Write down how a process stands with its spool, for the metrics service."""
        with telling_unavailable():
            if state.is_quiet:
                await self._connection.execute_command("HDEL", self._keys.spools, spool)
            else:
                text = msgspec.json.encode(state)
                await self._connection.execute_command("HSET", self._keys.spools, spool, text)

    async def disconnect(self) -> None:
        """Drop the connection."""
        await self._connection.disconnect()

    async def _publish(self, spool: str, records: Sequence[Record]) -> list[str]:
        now = round(time.time() * 1000)
        keys, packed = pack(
            Row(one.key, one.fields, max(1, one.due - now) if one.due else 0, one.guards) for one in records
        )
        sequences = msgspec.msgpack.encode([one.sequence for one in records])
        reply = await publish(self._connection, [self._keys.spool(spool), *keys], [0, 0, packed, sequences])
        await confirm(self._connection, self.durability, self._durability_timeout)
        _, answers = msgspec.msgpack.decode(reply)
        return [_refusal(outcome) for outcome in answers[1::2]]


def _refusal(outcome: int | str) -> str:
    if isinstance(outcome, str):
        return outcome
    return "its key was used before, for another payload" if outcome == CONFLICT else ""
