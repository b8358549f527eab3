"""Tickets: what a browser comes in with where it cannot send a header, as EventSource and WebSocket cannot.

A page fetches one with whatever it is known by, and comes in with it at once: it is good for one connection. Only a
hash of it is kept.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Final

import msgspec

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.web.problems import Problem

LIFETIME: Final = 60  # seconds
_PREFIX = "ticket."


class Ticket(msgspec.Struct, frozen=True):
    """A ticket, for whoever has asked for it. `expires_in` is in seconds; it opens one connection."""

    ticket: str
    expires_in: int = LIFETIME


class Tickets:
    """Gives tickets, and takes each once, from whatever process."""

    def __init__(self, client: AsyncRedis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def give(self, holder: bytes) -> Ticket:
        """Return a ticket that stands for `holder`.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        ticket = secrets.token_urlsafe(32)
        await self._client.set(self._key(ticket), holder, ex=LIFETIME)
        return Ticket(ticket)

    async def take(self, ticket: str) -> bytes:
        """Return whom a ticket stands for; it is good no more.

        Raises:
            Problem: 401 it is none, or was used, or is too old.
            redis.exceptions.RedisError: Redis is away.
        """
        holder: bytes | None = await self._client.getdel(self._key(ticket))
        if holder is None:
            raise Problem(401, f"this is no ticket: it was used, or is older than {LIFETIME} s; fetch another")
        return holder

    def _key(self, ticket: str) -> str:
        return self._keys.ticket(hashlib.sha256(ticket.encode(errors="surrogateescape")).hexdigest())


def presented(parameter: str | None, protocols: str | None) -> str | None:
    """Return the ticket that a request comes with: `?ticket=`, or a subprotocol of a WebSocket, which no log has."""
    offered = (one.strip() for one in (protocols or "").split(","))
    return parameter or next((one.removeprefix(_PREFIX) for one in offered if one.startswith(_PREFIX)), None)
