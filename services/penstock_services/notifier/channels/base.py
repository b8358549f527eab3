"""What every channel is: settings that know how to send a message."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Self, TypeVar

import msgspec

from penstock.config import Duration
from penstock.schemas import Alert
from penstock_services.notifier.message.button import Button, button_for
from penstock_services.notifier.message.message import Message, web_address
from penstock_services.notifier.message.templates import Templates

T = TypeVar("T")
_LONGEST_TIMEOUT = 300.0
_PERIODS = {"s": 1.0, "min": 60.0, "h": 3_600.0}
_ANEW = "Follows an earlier message about this alert that could not be edited: it was deleted, or is closed to edits."
_RATE = re.compile(r"([1-9]\d{0,2})/(s|min|h)")


class Rate(str):
    """So many messages in so much time: `1/s`, `20/min`, `100/h`."""

    __slots__ = ("most", "seconds")
    most: int
    seconds: float

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a rate.

        Raises:
            ValueError: it has not that form.
        """
        found = _RATE.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"expected a rate such as 1/s, 20/min or 100/h, got {value!r}")
        rate = cls(value)
        rate.most, rate.seconds = int(found[1]), _PERIODS[found[2]]
        return rate


class Limit(msgspec.Struct, frozen=True):
    """No more than `count` messages within `seconds`, counted for all who send under `scope`."""

    scope: str
    count: int
    seconds: float


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One message to one recipient of one channel.

    `key` is the same for every attempt to send it. `channel` is what notify.yaml calls the channel. `episode` is the
    same for all messages about an alert from its trigger to its resolve. `previous` is the receipt's `reference` of
    the last message of the episode that arrived. `recipient` is the one of several that it is for. `moved_to` is where
    the target is now, if an earlier receipt said that it has moved.
    """

    key: str
    channel: str
    alert: Alert
    message: Message
    episode: str
    previous: str | None = None
    recipient: str | None = None
    moved_to: str | None = None
    test: bool = False

    @property
    def resolved(self) -> bool:
        """Whether it says that the alert is over."""
        return self.alert.status == "resolved"

    @property
    def button(self) -> Button | None:
        """The button to show under it, where the channel has buttons."""
        return button_for(self.alert)

    def anew(self) -> Self:
        """Return it as it is posted where the message that it should have edited cannot be: it says so."""
        message = msgspec.structs.replace(self.message, notices=(*self.message.notices, _ANEW))
        return msgspec.structs.replace(self, message=message)

    def choose(self, fires: T, acknowledged: T, resolved: T) -> T:
        """Return what fits the change that it tells of."""
        if self.resolved:
            return resolved
        return acknowledged if self.alert.acknowledged_by else fires


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The other side has confirmed a message.

    `reference` is what it calls the message, for edits and threads. `pause` is how many seconds it wants to
    be left alone. `latency` is in seconds. `moved_to` is the target's new address, to be used from now on.
    """

    code: int | None = None
    answer: str = ""
    latency: float = 0.0
    reference: str | None = None
    pause: float = 0.0
    moved_to: str | None = None


class Channel(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """What can be set for each channel, whatever its kind.

    `timeout` bounds one attempt. `retry` lists the waits between the first attempts; without it notify.yaml's
    own holds. `give_up_after` bounds the growing pauses that follow. `rate` takes the place of the limit that is
    usual for the kind. `allow_private` lets the channel connect to addresses that are not public.
    """

    timeout: Duration = Duration(10)
    retry: tuple[Duration, ...] | None = None
    give_up_after: Duration = Duration(4 * 3_600)
    rate: Rate | None = None
    send_resolved: bool = True
    allow_private: bool = False
    templates: Templates = Templates()

    def __post_init__(self) -> None:
        """Check what holds for every kind; each kind goes on.

        Raises:
            ValueError: naming the key.
        """
        if not self.timeout <= _LONGEST_TIMEOUT:  # NaN is not, either
            raise ValueError(f"timeout: at most {_LONGEST_TIMEOUT:g} s, for one attempt; got {self.timeout:g} s")

    def __repr__(self) -> str:
        """Name the kind only: the rest may be secret."""
        return f"<{type(self).__name__} channel>"

    @property
    def target(self) -> str:
        """What it sends to, whole: two channels with the same target share its limits."""
        raise NotImplementedError

    @property
    def scope(self) -> str:
        """A name for the target that gives nothing away."""
        return hashlib.blake2b(f"{type(self).__name__}\0{self.target}".encode(), digest_size=8).hexdigest()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never appear in a record or a log."""
        return ()

    @property
    def recipients(self) -> tuple[str | None, ...]:
        """Those who each get a delivery of their own; (None,) where the target is one."""
        return (None,)

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """What the provider allows."""
        return ()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What may be sent through this channel."""
        return (Limit(self.scope, self.rate.most, self.rate.seconds),) if self.rate else self.usual_limits

    @property
    def presses(self) -> str | None:
        """Whose presses of buttons count, in words; None where it shows no buttons."""
        return None

    def payload(self, delivery: Delivery) -> Any:
        """Return what would be sent: JSON, or a text."""
        raise NotImplementedError

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Send a message and return once the other side has confirmed it.

        Raises:
            SendFailed: it did not; trying again may help.
            SendRefused: it will not.
        """
        raise NotImplementedError

    async def answer_press(self, answer_to: str, text: str, *, allow_private: bool) -> None:
        """Tell whoever pressed a button what became of it; `answer_to` came with the press.

        Raises:
            SendFailed: it did not arrive. It is a courtesy, and not tried again.
        """
        raise NotImplementedError


def fingerprint_key(delivery: Delivery) -> str:
    """Return a key for one episode of an alert, the same for all its changes, of at most 64 characters."""
    return f"penstock-{hashlib.blake2b(delivery.episode.encode(), digest_size=16).hexdigest()}"


def checked_url(url: str) -> None:
    """Refuse what is no URL of a web server.

    Raises:
        ValueError: with the form it must have.
    """
    if web_address(url) is None:
        raise ValueError("url: expected one such as https://example.com/path")
