"""What goes into a Harness, and what comes out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.event import Event, decode, encode, encode_data
from penstock.service.outcome import Done, Outcome

_ids = itertools.count(1)


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """An event to hand to a service. `data` becomes JSON; bytes are taken as JSON as they are."""

    type: str
    data: Any = None
    id: str | None = None
    attempt: int = 1
    source: str | None = None
    time: str | None = None
    subject: str | None = None
    tenant: str | None = None
    traceparent: str | None = None
    cause: str | None = None
    causesource: str | None = None
    extra: Mapping[str, str] = {}


class Emitted(msgspec.Struct, frozen=True):
    """An event that a handler published to `stream`, there after `delay` seconds."""

    stream: str
    event: Event
    delay: float = 0.0

    @property
    def type(self) -> str:
        """Type of the event."""
        return self.event.type

    @property
    def data(self) -> Any:
        """The event's data, decoded."""
        return self.event.json()


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of a handler came to.

    `ids` are the events it settles: one, or those of a batch. `events` are emitted with the commit,
    `published` at once and whatever the outcome. `state` holds the state operations, such as
    `("HINCRBY", "counts", "new", "1")`, and `guards` what `ctx.state.expect` asked for. `steps` names the steps
    that really ran; one that was done on an earlier attempt is not among them. `progress` is what was said with
    `ctx.progress`, every word of it.
    """

    ids: tuple[str, ...]
    outcome: Outcome
    events: list[Emitted] = []
    published: list[Emitted] = []
    state: list[tuple[str, ...]] = []
    guards: list[tuple[str, str, str | None]] = []
    steps: list[str] = []
    progress: list[tuple[float, str]] = []

    @property
    def done(self) -> bool:
        """Whether the handler succeeded."""
        return isinstance(self.outcome, Done)

    @property
    def result(self) -> Any:
        """What the handler returned.

        Raises:
            AssertionError: it did not succeed; the message says what became of the event.
        """
        assert isinstance(self.outcome, Done), f"the handler is not done: {self.outcome}"
        return self.outcome.result


def read(stream: str, given: Given) -> Event:
    """Return the event that a reader of `stream` would see.

    Raises:
        InvalidEvent: it breaks the event format.
    """
    return decode(stream, _entry_id(), fields_of(given))


def fields_of(given: Given) -> list[bytes]:
    """Return the fields of the event's entry.

    Raises:
        InvalidEvent: it breaks the event format.
    """
    raw = given.data if isinstance(given.data, bytes) else encode_data(given.data).encode()
    fields = encode(
        given.type,
        "",
        event_id=given.id,
        source=given.source,
        time=given.time,
        subject=given.subject,
        tenant=given.tenant,
        traceparent=given.traceparent,
        cause=given.cause,
        causesource=given.causesource,
        extra=given.extra,
    )
    return [*(field.encode() for field in fields), b"data", raw]


def decoded(stream: str, fields: list[str]) -> Event:
    """Return an event that is about to be published as its readers will see it."""
    return decode(stream, _entry_id(), [field.encode() for field in fields])


def _entry_id() -> str:
    return f"{round(time.time() * 1000)}-{next(_ids)}"
