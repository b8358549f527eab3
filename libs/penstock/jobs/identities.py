"""Ids that are given to jobs on their way in: nobody can guess them; what is sent twice gets the same one twice."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Sequence

import msgspec

from penstock.jobs.ids import timed_id
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis

_SECRET_BYTES = 32
_ID_BYTES = 16


class Identities:
    """Makes ids, with a secret that all ways into a mesh share; the first one that needs it draws it."""

    def __init__(self, client: AsyncRedis, keys: Keys) -> None:
        self._redis = client
        self._key = keys.identity
        self._secret: bytes | None = None

    async def prepare(self) -> None:
        """Learn the secret, so that `same` waits for nothing.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        if self._secret is None:
            self._secret = await self._shared()

    async def same(self, scope: str, key: Sequence[str | int]) -> str:
        """Return the id that belongs to a key, such as a sender's own id under its source.

        Raises:
            redis.exceptions.RedisError: the secret is not known yet, and Redis is away.
        """
        if self._secret is None:
            await self.prepare()
        assert self._secret is not None
        text = msgspec.json.encode([scope, *key])
        return hmac.new(self._secret, text, hashlib.sha256).digest()[:_ID_BYTES].hex()

    @staticmethod
    def fresh() -> str:
        """Return a new id; it begins with the time, which finds its entry in a long stream."""
        return timed_id(time.time(), os.urandom(_ID_BYTES))

    async def _shared(self) -> bytes:
        known: bytes | None = await self._redis.get(self._key)
        while not known:
            await self._redis.set(self._key, os.urandom(_SECRET_BYTES), nx=True)
            known = await self._redis.get(self._key)
        return known
