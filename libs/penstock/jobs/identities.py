"""Ids that are given to jobs on their way in: nobody can guess them; what is sent twice gets the same one twice."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock.jobs.ids import timed_id
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable

_SECRET_BYTES = 32
_ID_BYTES = 16


class Identities:
    """Makes ids, with a secret that all ways into a mesh share; the first one that needs it draws it."""

    def __init__(
        self, client: AsyncRedis, keys: Keys, *, copy: Path | None = None, secret: bytes | None = None
    ) -> None:
        """`copy` is a file of our own that knows the secret while Redis is away.

        Where the only way in is this program, `secret` is its own.
        """
        self._copy = copy
        self._redis = client
        self._key = keys.identity
        self._secret = secret

    async def prepare(self) -> None:
        """Learn the secret, so that `same` waits for nothing.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        if self._secret is None:
            self._secret = await (self._shared() if self._copy is None else self._copied(self._copy))

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

    async def _copied(self, copy: Path) -> bytes:
        try:
            known = await self._shared()
        except Exception as error:
            copied = _read(copy)
            if unavailable(error) is None or copied is None:
                raise
            return copied
        if _read(copy) != known:
            _write(copy, known)
        return known

    async def _shared(self) -> bytes:
        known: bytes | None = await self._redis.get(self._key)
        while not known:
            await self._redis.set(self._key, os.urandom(_SECRET_BYTES), nx=True)
            known = await self._redis.get(self._key)
        return known


def _read(copy: Path) -> bytes | None:
    return copy.read_bytes() if copy.exists() else None


def _write(copy: Path, secret: bytes) -> None:
    new = copy.with_suffix(f".{os.urandom(4).hex()}")
    new.touch(mode=0o600)
    new.write_bytes(secret)
    new.replace(copy)
