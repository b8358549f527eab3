"""Deliveries: what became of every attempt to tell somebody of an alert, and those that failed for good."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from penstock.dlq.dead_letter import DeadLetter
from penstock.dlq.queue import DeadLetters
from penstock.errors import ConfigurationError, InvalidEvent
from penstock.event import decode
from penstock.keys import DELIVERIES, NOTIFICATIONS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.schemas import DeliveryAttempt, Notification

SERVICE = "notifier"
DUE, TEST = "notification.due", "notification.test"
_STATUSES = ("sent", "failed", "dead")
_PAGE = 500
_MOST = 1_000


class RecordedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt and when it was recorded, RFC 3339; `id` is its place in the stream."""

    id: str
    time: str
    attempt: DeliveryAttempt


class FailedDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that was given up. It lies in the dead letter queue as `dead_letter`, from where it can go again."""

    delivery_id: str
    dead_letter: str
    time: str
    attempts: int
    error: str
    notification: Notification


class DeliveryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which attempts: the newest `limit` of a channel, an alert, a status; all where None."""

    limit: int = 50
    channel: str | None = None
    fingerprint: str | None = None
    status: str | None = None

    @classmethod
    def parse(cls, parameters: Mapping[str, str], *, known: Sequence[str] | None = None) -> DeliveryQuery:
        """Read a query from `limit`, `channel`, `fingerprint` and `status`, or from those of them that are `known`.

        Raises:
            ConfigurationError: a parameter is unknown or its value cannot be used.
        """
        names = cls.__struct_fields__ if known is None else known
        for name in parameters:
            if name not in names:
                raise ConfigurationError(f"{name}: there is no such parameter; there is {', '.join(names)}")
        limit, status = parameters.get("limit", "50"), parameters.get("status")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= _MOST:
            raise ConfigurationError(f"limit: {limit!r} is no number from 1 to {_MOST}")
        if status is not None and status not in _STATUSES:
            raise ConfigurationError(f"status: {status!r} is none of {', '.join(_STATUSES)}")
        return cls(
            limit=int(limit),
            channel=parameters.get("channel"),
            fingerprint=parameters.get("fingerprint"),
            status=status,
        )

    def wants(self, attempt: DeliveryAttempt) -> bool:
        """Whether an attempt is one of those asked for."""
        return all(
            wanted is None or wanted == value
            for wanted, value in (
                (self.channel, attempt.channel),
                (self.fingerprint, attempt.fingerprint),
                (self.status, attempt.status),
            )
        )


async def attempts(client: AsyncRedis, keys: Keys, query: DeliveryQuery) -> list[RecordedAttempt]:
    """Return the attempts that were asked for, the newest first."""
    found: list[RecordedAttempt] = []
    last = "+"
    while rows := await client.xrevrange(keys.stream(DELIVERIES), last, "-", count=_PAGE):
        for entry_id, fields in rows:
            recorded = read_attempt(entry_id, fields)
            if recorded is not None and query.wants(recorded.attempt):
                found.append(recorded)
                if len(found) == query.limit:
                    return found
        last = f"({rows[-1][0].decode()}"
    return found


def read_attempt(entry_id: bytes, fields: Mapping[bytes, bytes]) -> RecordedAttempt | None:
    """Read an entry of `deliveries`; None if it is no attempt."""
    try:
        event = decode(DELIVERIES, entry_id.decode(), [part for pair in fields.items() for part in pair])
        attempt = msgspec.json.decode(event.data, type=DeliveryAttempt)
    except (InvalidEvent, msgspec.DecodeError):  # somebody else wrote it
        return None
    return RecordedAttempt(id=entry_id.decode(), time=event.time, attempt=attempt)


async def failed(client: AsyncRedis, keys: Keys, *, limit: int | None = None) -> AsyncIterator[FailedDelivery]:
    """Yield the deliveries that were given up and not sent again since, the newest first."""
    given = 0
    async for dead in DeadLetters(client, keys).newest():
        found = _failed(dead)
        if found is None:
            continue
        yield found
        given += 1
        if given == limit:
            return


async def send_again(client: AsyncRedis, keys: Keys, delivery: FailedDelivery) -> bool:
    """Give a delivery back to the notifier, as a first attempt; False if that was done before."""
    dead_letters = DeadLetters(client, keys)
    dead = await dead_letters.get(delivery.dead_letter)
    return dead is not None and await dead_letters.replay(dead) is not None


def _failed(dead: DeadLetter) -> FailedDelivery | None:
    if (dead.stream, dead.group, dead.type) != (NOTIFICATIONS, SERVICE, DUE):
        return None
    try:
        notification = msgspec.json.decode(dead.event.get("data", ""), type=Notification)
    except msgspec.DecodeError:
        return None
    return FailedDelivery(
        delivery_id=dead.event_id,
        dead_letter=dead.letter,
        time=dead.time,
        attempts=dead.attempts,
        error=dead.error,
        notification=notification,
    )
