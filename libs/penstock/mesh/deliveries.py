"""Deliveries: what became of every attempt to tell somebody of an alert, and those that failed for good."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from penstock.config import read_limit
from penstock.errors import UNREADABLE, ConfigurationError, InvalidEvent
from penstock.event import decode, encode, encode_data
from penstock.keys import DELIVERIES, NOTIFICATIONS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.redis.scripts import Script
from penstock.schemas import DeliveryAttempt, Notification, NotifyReloaded

SERVICE = "notifier"
DUE, TEST, UNBLOCK = "notification.due", "notification.test", "notification.unblock"
UNBLOCKED, RELOADED = "channel.unblocked", "notify.reloaded"
RELOAD = "reload"
"""Where the last request to read notify.yaml again lies."""
_STATUSES = ("sent", "failed", "dead")
UNDELIVERED, LATE, FAILING = "undelivered", "late", "failing"
MOST_FAILED = 1_000
_PAGE = 500
_MOST = 1_000
_resend = Script("penstock.mesh", "resend")


class ReloadRequest(msgspec.Struct, frozen=True):
    """Somebody wants notify.yaml to be read again; `id` is the cause of what follows."""

    id: str
    by: str


class RecordedAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt and when it was recorded, RFC 3339; `id` is its place in the stream."""

    id: str
    time: str
    attempt: DeliveryAttempt


class RecordedReload(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the notifier read notify.yaml again, at `time` (RFC 3339); with an `error` the one before stayed."""

    time: str
    by: str
    changes: list[str]
    error: str | None
    process: str


class FailedDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery that did not arrive in its first minute: it was given up, or is late and still tried."""

    delivery_id: str
    time: str
    attempts: int
    error: str
    notification: Notification


class ChannelTrouble(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel (and one of its recipients, where it has several) that does not deliver, since when and why."""

    channel: str
    recipient: str | None = None
    since: str
    reason: str


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
        limit, status = read_limit(parameters.get("limit", "50"), _MOST), parameters.get("status")
        if status is not None and status not in _STATUSES:
            raise ConfigurationError(f"status: {status!r} is none of {', '.join(_STATUSES)}")
        return cls(
            limit=limit,
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
    async for entry_id, fields in _newest_first(client, keys):
        recorded = read_attempt(entry_id, fields)
        if recorded is not None and query.wants(recorded.attempt):
            found.append(recorded)
            if len(found) == query.limit:
                break
    return found


async def reloads(client: AsyncRedis, keys: Keys, *, limit: int) -> list[RecordedReload]:
    """Return when notify.yaml was read again, by whom and with what result, the newest first."""
    found: list[RecordedReload] = []
    async for entry_id, fields in _newest_first(client, keys):
        if fields.get(b"type") == RELOADED.encode() and (recorded := _read_reload(entry_id, fields)) is not None:
            found.append(recorded)
            if len(found) == limit:
                break
    return found


async def _newest_first(client: AsyncRedis, keys: Keys) -> AsyncIterator[tuple[bytes, dict[bytes, bytes]]]:
    last = "+"
    while rows := await client.xrevrange(keys.stream(DELIVERIES), last, "-", count=_PAGE):
        for row in rows:
            yield row
        last = f"({rows[-1][0].decode()}"


def _read_reload(entry_id: bytes, fields: Mapping[bytes, bytes]) -> RecordedReload | None:
    try:
        event = decode(DELIVERIES, entry_id.decode(), [part for pair in fields.items() for part in pair])
        told = msgspec.json.decode(event.data, type=NotifyReloaded)
    except (InvalidEvent, *UNREADABLE):  # somebody else wrote it
        return None
    return RecordedReload(time=event.time, **msgspec.structs.asdict(told))


def read_attempt(entry_id: bytes, fields: Mapping[bytes, bytes]) -> RecordedAttempt | None:
    """Read an entry of `deliveries`; None if it is no attempt."""
    try:
        event = decode(DELIVERIES, entry_id.decode(), [part for pair in fields.items() for part in pair])
        attempt = msgspec.json.decode(event.data, type=DeliveryAttempt)
    except (InvalidEvent, *UNREADABLE):  # somebody else wrote it
        return None
    return RecordedAttempt(id=entry_id.decode(), time=event.time, attempt=attempt)


async def failed(client: AsyncRedis, keys: Keys, *, limit: int = MOST_FAILED) -> list[FailedDelivery]:
    """Return the deliveries that were given up and not sent again since, the newest first; of them the newest 1,000."""
    rows = await client.lrange(keys.state(SERVICE, UNDELIVERED), 0, limit - 1)
    return [msgspec.json.decode(row, type=FailedDelivery) for row in rows]


async def given_up(client: AsyncRedis, keys: Keys) -> list[FailedDelivery]:
    """Return of the deliveries that were given up those whose alert fires still, the newest of each, oldest first.

    What a later message about the alert has made up for, or may yet, is not among them.
    """
    tried = {_whose(one) for one in await late(client, keys)}
    newest: dict[tuple[str, str], FailedDelivery] = {}
    for one in await failed(client, keys):
        if _whose(one) not in tried:
            newest.setdefault(_whose(one), one)
    if not newest:
        return []
    async with client.pipeline(transaction=False) as pipeline:
        for to, fingerprint in newest:
            pipeline.hmget(keys.state(SERVICE, record_name(fingerprint)), ["status", "episode"])
            pipeline.hget(keys.state(SERVICE, log_name(to, fingerprint)), "delivered")
        replies = await pipeline.execute()
    found = [
        one
        for one, record, delivered in zip(newest.values(), replies[::2], replies[1::2], strict=True)
        if record == [b"firing", one.notification.alert.since.encode()]
        and (delivered or b"") < one.notification.order.encode()
    ]
    return sorted(found, key=lambda one: one.time)


def _whose(one: FailedDelivery) -> tuple[str, str]:
    return address(one.notification), one.notification.alert.fingerprint


def address(notification: Notification) -> str:
    """Name who is written to: the channel, and the recipient where there are several."""
    return notification.channel + (f"/{notification.recipient}" if notification.recipient else "")


def record_name(fingerprint: str) -> str:
    """Return where the record of an alert lies among the notifier's state: its newest change, and who was told."""
    return f"alert:{fingerprint}"


def log_name(to: str, fingerprint: str) -> str:
    """Return where the log of an alert and an address lies among the notifier's state."""
    return f"log:{to}:{fingerprint}"


async def late(client: AsyncRedis, keys: Keys) -> list[FailedDelivery]:
    """Return the deliveries that have not arrived so far but are still tried, the oldest first."""
    rows = (await client.hgetall(keys.state(SERVICE, LATE))).values()
    return sorted((msgspec.json.decode(row, type=FailedDelivery) for row in rows), key=lambda found: found.time)


async def troubles(client: AsyncRedis, keys: Keys) -> list[ChannelTrouble]:
    """Return the channels that do not deliver now, the first to fail first."""
    rows = (await client.hgetall(keys.state(SERVICE, FAILING))).values()
    return sorted((msgspec.json.decode(row, type=ChannelTrouble) for row in rows), key=lambda found: found.since)


async def send_again(client: AsyncRedis, keys: Keys, delivery: FailedDelivery) -> bool:
    """Give a delivery back to the notifier, as a first attempt; False if that was done before."""
    fields = encode(
        DUE,
        encode_data(delivery.notification),
        event_id=delivery.delivery_id,
        source=SERVICE,
        subject=delivery.notification.alert.fingerprint,
    )
    kept = msgspec.json.encode(delivery)
    where = [keys.state(SERVICE, UNDELIVERED), keys.stream(NOTIFICATIONS)]
    return bool(await _resend(client, where, [kept, *fields]))
