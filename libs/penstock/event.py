"""The event: what a stream entry means, and how it is written.

Fields are flat and named after CloudEvents 1.0 attributes (https://cloudevents.io), so that
`redis-cli XADD` and `XRANGE` are first-class ways in and out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from penstock.errors import InvalidEvent
from penstock.times import entry_time, is_entry_id
from penstock.trace_context import TraceContext

UNKNOWN_SOURCE = "redis-cli"
_KNOWN = frozenset({"type", "data", "id", "source", "time", "subject", "tenant", "traceparent", "tracestate", "cause"})
# What Penstock adds to an entry that it parks in a group's retry stream. The names are ours alone there;
# on any other stream a field of such a name is an unknown field like every other.
RETRY_ENTRY, RETRY_ATTEMPT, RETRY_CRASHES, RETRY_ERROR = "retry.entry", "attempt", "retry.crashes", "retry.error"

json_encoder = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event as its readers see it.

    `id` is stable: retries, redeliveries and replays keep it. `data` is raw JSON. `subject` is what the event is
    about and its ordering key. `cause` is the id of the event that led to this one. `entry_id` is that of the
    stream entry it was first read as, so its first part is when the server took it, in ms. `traceparent` and
    `stated_time` are as its producer wrote them; `trace` and `time` say what they mean. `extra` holds every
    field this library does not know; it is passed on.
    """

    type: str
    id: str
    data: bytes = b"null"
    source: str = UNKNOWN_SOURCE
    stated_time: str | None = None
    subject: str | None = None
    tenant: str | None = None
    cause: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    entry_id: str = "0-0"
    extra: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def time(self) -> str:
        """When it happened, RFC 3339: as its producer said, else when the server took it."""
        return self.stated_time or entry_time(self.entry_id)

    @property
    def trace(self) -> TraceContext:
        """The trace it belongs to and the span that published it; without a valid traceparent one begins here."""
        return TraceContext.parse(self.traceparent) or TraceContext.for_event(self.id)

    def json(self) -> Any:
        """Decode `data`.

        Raises:
            InvalidEvent: `data` is not JSON.
        """
        try:
            return msgspec.json.decode(self.data)
        except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
            raise InvalidEvent(f"data is not JSON: {error}") from None


class Origin(msgspec.Struct, frozen=True):
    """What a retry entry says of itself beyond the event: where it first lay and how it fared."""

    entry_id: str
    attempt: int = 1
    crashes: int = 0
    error: str | None = None


def identity(stream: str, entry_id: str) -> str:
    """Return the id of an event that was published without one."""
    return f"{stream}-{entry_id}"


def parse_identity(event_id: str) -> tuple[str, str] | None:
    """Return the stream and entry id that `identity` was made from, or None if it was not."""
    stream, _, entry_id = event_id.rpartition("-")
    stream, _, ms = stream.rpartition("-")
    entry_id = f"{ms}-{entry_id}"
    return (stream, entry_id) if stream and is_entry_id(entry_id) else None


def derived_id(group: str, cause: str, index: str) -> str:
    """Return the id of the `index`-th event that `group` publishes because of event `cause`.

    Publishing again after a crash gives the same id, which lets receivers outside the mesh deduplicate.
    """
    return hashlib.blake2b(f"{group}\0{cause}\0{index}".encode(), digest_size=16).hexdigest()


def encode_data(data: Any) -> str:
    """Encode a payload as JSON text.

    Raises:
        InvalidEvent: the payload holds what JSON cannot.
    """
    try:
        return json_encoder.encode(data).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"data cannot be written as JSON: {error}") from None


def encode(
    event_type: str,
    data: str,
    *,
    event_id: str | None = None,
    source: str | None = None,
    time: str | None = None,
    subject: str | None = None,
    tenant: str | None = None,
    traceparent: str | None = None,
    tracestate: str | None = None,
    cause: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the flat field list of a stream entry; absent attributes are left out.

    Raises:
        InvalidEvent: an attribute is no text, or none that UTF-8 can hold.
    """
    fields = ["type", _checked("type", event_type), "data", data]
    for name, value in (
        ("id", event_id),
        ("source", source),
        ("time", time),
        ("subject", subject),
        ("tenant", tenant),
        ("traceparent", traceparent),
        ("tracestate", tracestate),
        ("cause", cause),
    ):
        if value is not None:
            fields.append(name)
            fields.append(_checked(name, value))
    if extra:
        for name, value in extra.items():
            if name not in _KNOWN:
                fields += (_checked(name, name), _checked(name, value))
    return fields


def _checked(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise InvalidEvent(f"{name} must be text, not {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidEvent(f"{name} holds what UTF-8 cannot: {value!r}") from None
    return value


def decode(stream: str, entry_id: str, fields: Iterable[bytes]) -> Event:
    """Read an entry of a stream that producers write to.

    Raises:
        InvalidEvent: the entry has no type, or an attribute is not UTF-8.
    """
    return _decode(stream, entry_id, _pairs(fields))


def decode_retry(stream: str, entry_id: str, fields: Iterable[bytes]) -> tuple[Event, Origin]:
    """Read an entry of a group's retry stream; `stream` is the one it was first read from.

    Raises:
        InvalidEvent: as for `decode`.
    """
    raw = _pairs(fields)
    origin = _origin(entry_id, raw)
    if not is_entry_id(origin.entry_id):
        raise InvalidEvent(f"{RETRY_ENTRY} is no entry id: {origin.entry_id!r}")
    return _decode(stream, origin.entry_id, raw), origin


def encode_retry(entry_id: str, *, attempt: int, error: str) -> list[str]:
    """Return the fields that are added to an entry that is parked for attempt number `attempt`.

    `entry_id` is where the event first lay, `error` why the last attempt failed.
    """
    return [RETRY_ENTRY, entry_id, RETRY_ATTEMPT, str(attempt), RETRY_ERROR, error]


def is_retry_field(name: str) -> bool:
    """Return whether a field is one that parking an entry adds."""
    return name == RETRY_ATTEMPT or name.startswith("retry.")


def _pairs(fields: Iterable[bytes]) -> dict[bytes, bytes]:
    parts = iter(fields)
    return dict(zip(parts, parts, strict=True))


def _origin(entry_id: str, raw: dict[bytes, bytes]) -> Origin:
    def take(name: str, default: str | None = None) -> str | None:
        value = raw.pop(name.encode(), None)
        return default if value is None else value.decode(errors="replace")

    def number(name: str, default: int) -> int:
        value = take(name) or ""
        return int(value) if value.isdecimal() else default

    return Origin(
        entry_id=take(RETRY_ENTRY, entry_id) or "",
        attempt=number(RETRY_ATTEMPT, 1),
        crashes=number(RETRY_CRASHES, 0),
        error=take(RETRY_ERROR),
    )


def _decode(stream: str, entry_id: str, raw: dict[bytes, bytes]) -> Event:
    take = raw.pop
    data = take(b"data", b"null")
    try:
        text = {name.decode(): value.decode() for name, value in raw.items()}
    except UnicodeDecodeError:
        raise InvalidEvent(f"field {_undecodable(raw)!r} is not UTF-8") from None
    return _event(stream, entry_id, data, text)


def _undecodable(raw: Mapping[bytes, bytes]) -> str:
    for name, value in raw.items():
        try:
            name.decode(), value.decode()
        except UnicodeDecodeError:
            return name.decode(errors="replace")
    return ""


def _event(stream: str, entry_id: str, data: bytes, text: dict[str, Any]) -> Event:
    take = text.pop
    event_type = take("type", "")
    if not event_type:
        raise InvalidEvent("no type")
    traceparent: str | None = take("traceparent", None)
    tracestate: str | None = take("tracestate", None)
    if tracestate and TraceContext.parse(traceparent) is None:
        tracestate = None  # it belongs to a traceparent; without one it means nothing
    return Event(
        type=event_type,
        id=take("id", None) or identity(stream, entry_id),
        data=data,
        source=take("source", UNKNOWN_SOURCE),
        stated_time=take("time", None) or None,
        subject=take("subject", None),
        tenant=take("tenant", None),
        cause=take("cause", None),
        traceparent=traceparent,
        tracestate=tracestate,
        entry_id=entry_id,
        extra=text,
    )
