"""The notification log: what was sent of each alert on each channel, and when more may be. All replicas share it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from penstock.event import Event
from penstock.mesh.deliveries import SERVICE, address, log_name, record_name
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Argument, Script
from penstock.schemas import Alert, Notification
from penstock_services.notifier.channels import Channel, Receipt

LIFETIME_MS = 30 * 86_400_000  # an alert that fires longer is resolved with a message of its own
_LONGEST_PAUSE = 1.0
T = TypeVar("T")
_admit = Script("penstock_services.notifier.delivery", "admit")
_confirm = Script("penstock_services.notifier.delivery", "confirm")
_release = Script("penstock_services.notifier.delivery", "release")


class Sent(msgspec.Struct, frozen=True):
    """This delivery was confirmed before its process died; what was lost is only the word of it."""

    receipt: Receipt


class Superseded(msgspec.Struct, frozen=True):
    """A newer change of the alert stands for this one."""


class Wait(msgspec.Struct, frozen=True):
    """Not yet: come back in so many seconds; `asked`: the other side wants it so."""

    seconds: float
    asked: bool = False


class EndBefore(msgspec.Struct, frozen=True):
    """The end of an episode whose beginning has arrived, and which the next one must not get ahead of.

    `event_id` is its own delivery, which has yet to come to it; `previous` as for Go.
    """

    event_id: str
    order: str
    alert: Alert
    previous: str | None


class Go(msgspec.Struct, frozen=True):
    """Send it now; nobody else sends about this alert on this channel meanwhile.

    `previous` is the reference of the last message of the same episode; `superseded` names the changes that this
    message stands for as well, oldest first. `unrecorded`: an earlier one of the episode has arrived, or may have, and
    the log of that is lost. `before` is to be sent first.
    """

    previous: str | None
    superseded: tuple[str, ...]
    unrecorded: bool = False
    before: EndBefore | None = None


Admission = Sent | Superseded | Wait | Go


def delivery_id(event: Event) -> str:
    """Return what tells a delivery from every other one.

    Of the notifier's own that is the event's id, by which they are sent again, too; anybody else who publishes
    notifications may have used the same.
    """
    return event.id if event.source == SERVICE else event.unique_id


def receipt_field(delivery: str) -> str:
    """Return where a notification log keeps the receipt of a delivery until that is settled."""
    return f"receipt:{delivery}"


def blocked_name(channel: Channel) -> str:
    """Return where it says until when a channel's target is not to be used."""
    return f"blocked:{channel.scope}"


def gate_names(channel: Channel) -> list[str]:
    """Return where the slots given for a channel's limits lie."""
    return [f"gate:{limit.scope}" for limit in channel.limits]


class NotificationLog:
    """One alert on one channel (and for one recipient): what has been said, and whose turn it is."""

    def __init__(
        self, client: AsyncRedis, key: Callable[[str], str], notification: Notification, channel: Channel
    ) -> None:
        """Use `client`; `key` gives the full name of a key of this service's state."""
        self._client = client
        self._hold_ms = round((2 * channel.timeout + 10) * 1000)  # the end of the episode before may have to go first
        self._limits = channel.limits
        alert = notification.alert
        self._change = (notification.order, alert.status, alert.since)
        self._end = msgspec.json.encode(alert) if alert.status == "resolved" else b""
        self._told_of_ends = notification.channel if channel.send_resolved else ""
        self._address = address(notification)
        self.name = log_name(self._address, alert.fingerprint)
        """Its name among this service's state."""
        self._keys = [key(self.name), key(blocked_name(channel))]
        self._record = key(record_name(alert.fingerprint))
        self._gates = [key(name) for name in gate_names(channel)]

    async def admit(self, delivery: str, name: str) -> Admission:
        """Ask whether the change may be sent now; `name` is what to call it when a later one stands for it."""
        limits = [part for limit in self._limits for part in (limit.count, round(limit.seconds * 1000))]
        word, *rest = await _admit(
            self._client,
            [*self._keys, self._record, *self._gates],
            [
                delivery,
                *self._change,
                name,
                self._hold_ms,
                LIFETIME_MS,
                self._told_of_ends,
                self._end,
                self._address,
                *limits,
            ],
        )
        if word == b"sent":
            return Sent(msgspec.json.decode(rest[0], type=Receipt))
        if word == b"superseded":
            return Superseded()
        if word == b"wait":
            return Wait(rest[0] / 1000, asked=bool(rest[1]))
        previous, unrecorded, *end = rest[:6]
        superseded = tuple(part.decode() for part in rest[6:])
        return Go(previous.decode() or None, superseded, unrecorded=bool(unrecorded), before=_end_before(*end))

    async def confirm(self, delivery: str, receipt: Receipt, end: EndBefore | None = None) -> None:
        """Record that the message has arrived, or `end`; keeps trying while Redis is away, for only now is it known."""
        change = self._change if end is None else (end.order, end.alert.status, end.alert.since)
        arguments: list[Argument] = [
            delivery,
            *change,
            msgspec.json.encode(receipt),
            receipt.reference or "",
            math.ceil(receipt.pause * 1000),
            LIFETIME_MS,
            self._address,
        ]
        await insist(lambda: _confirm(self._client, [*self._keys, self._record], arguments))

    async def release(self, delivery: str, after: float | None) -> float:
        """Record that the attempt failed; return in how many seconds the next is due if `after` was asked for."""
        wait = -1 if after is None else math.ceil(after * 1000)
        keys = [*self._keys, *self._gates]
        reply: int = await insist(lambda: _release(self._client, keys, [delivery, wait]))
        return reply / 1000


def _end_before(event_id: bytes, order: bytes, alert: bytes, reference: bytes) -> EndBefore | None:
    if not event_id:
        return None
    end = msgspec.json.decode(alert, type=Alert)
    return EndBefore(event_id.decode(), order.decode(), end, reference.decode() or None)


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """Await `call()` again and again while Redis is away; it must be safe to send twice."""
    pause = 0.05
    while True:
        try:
            return await call()
        except Exception as error:
            if unavailable(error) is None:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
