"""The event: what a stream entry means, and how it is written.

Fields are flat and named after CloudEvents 1.0 attributes (https://cloudevents.io), so that
`redis-cli XADD` and `XRANGE` are first-class ways in and out.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock import models
from penstock.errors import InvalidEvent
from penstock.text import number
from penstock.times import check_delay, entry_ms, entry_time, is_entry_id, seconds_of
from penstock.trace_context import LINKS, TraceContext, format_links

UNKNOWN_SOURCE = "redis-cli"
_KNOWN = frozenset(
    ("type", "data", "id", "source", "time", "subject", "tenant", "traceparent", "tracestate", "cause", "causesource")
)
# What Penstock puts behind an entry's own fields when it parks it in a group's retry stream; see encode_retry.
RETRY_ENTRY, RETRY_ATTEMPT, RETRY_CRASHES, RETRY_ERROR = "retry.entry", "attempt", "retry.crashes", "retry.error"
RETRY_FIELDS = "retry.fields"
AT, IN = "at", "in"

json_encoder = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical", enc_hook=models.dump)


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event as its readers see it.

    `id` is stable: retries, redeliveries and replays keep it; it is unique among the events of its `source`.
    `data` is raw JSON. `subject` is what the event is about and its ordering key. `cause` is the id of the event
    that led to this one and `causesource` the source of that, None if its producer did not say. `entry_id` is that
    of the stream entry it was first read as, so its first part is when the server took it, in ms. `traceparent` and
    `stated_time` are as its producer wrote them; `trace` and `time` say what they mean. `extra` holds every field
    this library does not know; it is passed on.
    """

    type: str
    id: str
    data: bytes = b"null"
    source: str = UNKNOWN_SOURCE
    stated_time: str | None = None
    subject: str | None = None
    tenant: str | None = None
    cause: str | None = None
    causesource: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    entry_id: str = "0-0"
    extra: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def unique_id(self) -> str:
        """What tells it from every other event, of whatever source."""
        return unique_id(self.source, self.id)

    @property
    def time(self) -> str:
        """When it happened, RFC 3339: as its producer said, else when the server took it."""
        return self.stated_time or entry_time(self.entry_id)

    @property
    def due(self) -> float | None:
        """When it is to be handled at the earliest, in seconds since the epoch, if its producer said so.

        `at` is a time (RFC 3339), `in` seconds from when the server took it: for those who have nothing but XADD.

        Raises:
            InvalidEvent: it says so in a way that makes no sense.
        """
        if AT not in self.extra and IN not in self.extra:
            return None
        if AT in self.extra and IN in self.extra:
            raise InvalidEvent(f"{AT} and {IN}: give one of them")
        name = AT if AT in self.extra else IN
        text = self.extra[name]
        try:
            if name == AT:
                return seconds_of(text)
            seconds = float(text)
            check_delay(IN, seconds)
        except ValueError as error:
            form = "a time such as 2026-11-22T10:00:00Z" if name == AT else "seconds such as 90"
            raise InvalidEvent(f"{name}: {text!r} is not {form}: {error}") from None
        return entry_ms(self.entry_id) / 1000 + seconds

    @property
    def trace(self) -> TraceContext:
        """The trace it belongs to and the span that published it; without a valid traceparent one begins here."""
        return trace_of(self.traceparent, self.source, self.id)

    def is_caused_by(self, source: str, event_id: str) -> bool:
        """Whether that event led to this one, as far as its producer says which one did."""
        return self.cause == event_id and self.causesource in (None, source)

    def json(self) -> Any:
        """Decode `data`.

        Raises:
            InvalidEvent: `data` is not JSON.
        """
        try:
            return msgspec.json.decode(self.data)
        except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
            raise InvalidEvent(f"data is not JSON: {error}") from None


class Origin(msgspec.Struct, frozen=True, gc=False):
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


def unique_id(source: str, event_id: str) -> str:
    """Return what tells an event from every other one: CloudEvents ids are unique for each source only.

    Source: CloudEvents 1.0, `id`. Colons of either part are written %3A, so that no two pairs make the same text.
    """
    text = f"{source}:{event_id}"
    plain = "%" not in text and text.count(":") == 1
    return text if plain else f"{_escaped(source)}:{_escaped(event_id)}"


def trace_of(traceparent: str | None, source: str, event_id: str) -> TraceContext:
    """Return the trace of an event; without a valid traceparent one begins, whose id follows from source and id.

    So every group that reads the event, and every redelivery of it, lands in the same trace. Without a source it
    follows from the id alone, as it always did.
    """
    known = TraceContext.parse(traceparent) if traceparent else None
    return known or TraceContext.for_text(
        _escaped(event_id) if source == UNKNOWN_SOURCE else unique_id(source, event_id)
    )


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace(":", "%3A") if "%" in part or ":" in part else part


def derived_id(group: str, cause: str, index: str) -> str:
    """Return the id of the `index`-th event that `group` publishes because of `cause`, an event's `unique_id`.

    Publishing again after a crash gives the same id, which lets receivers outside the mesh deduplicate.
    """
    digest = _digest_of(group).copy()
    digest.update(f"\0{cause}\0{index}".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def _digest_of(group: str) -> hashlib.blake2b:
    return hashlib.blake2b(group.encode(), digest_size=16)


def encode_data(data: Any) -> str:
    """Encode a payload as JSON text.

    Raises:
        InvalidEvent: the payload holds what JSON cannot: objects without a form in it, NaN, Infinity.
    """
    try:
        encoded = json_encoder.encode(data)
        if b"null" in encoded:  # which is what msgspec makes of NaN and Infinity
            _check_finite(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(f"data cannot be written as JSON: {error}") from None
    return encoded.decode()


def _check_finite(data: Any) -> None:
    left = [msgspec.to_builtins(data, enc_hook=lambda part: None if type(part) is msgspec.Raw else models.dump(part))]
    while left:
        value = left.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"it holds {value}, which JSON has no form for")
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            left += value


def encode(  # noqa: C901 - attribute by attribute: it is on the path of every event that is published
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
    causesource: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the flat field list of a stream entry; absent attributes are left out.

    Raises:
        InvalidEvent: an attribute is no text, or none that UTF-8 can hold.
    """
    fields = ["type", event_type, "data", data]
    if event_id is not None:
        fields += ("id", event_id)
    if source is not None:
        fields += ("source", source)
    if time is not None:
        fields += ("time", time)
    if subject is not None:
        fields += ("subject", subject)
    if tenant is not None:
        fields += ("tenant", tenant)
    if traceparent is not None:
        fields += ("traceparent", traceparent)
    if tracestate is not None:
        fields += ("tracestate", tracestate)
    if cause is not None:
        fields += ("cause", cause)
    if causesource is not None:
        fields += ("causesource", causesource)
    if extra:
        fields += (part for name, value in extra.items() if name not in _KNOWN for part in (name, value))
    _check_writable(fields)
    return fields


def encode_caused(
    cause: Event,
    event_type: str,
    data: Any,
    *,
    event_id: str,
    source: str,
    trace: TraceContext,
    subject: str | None = None,
    tenant: str | None = None,
    links: Sequence[TraceContext] = (),
) -> list[str]:
    """Return the fields of an event that a service, `source`, publishes because of `cause`, as `encode` would.

    Subject and tenant are the cause's unless given.

    Raises:
        InvalidEvent: the type is empty, or the data cannot be written as JSON.
    """
    if not event_type:
        raise InvalidEvent("no type")
    fields = ["type", event_type, "data", encode_data(data), "id", event_id, "source", source]
    subject = cause.subject if subject is None else subject
    if subject is not None:
        fields += ("subject", subject)
    tenant = cause.tenant if tenant is None else tenant
    if tenant is not None:
        fields += ("tenant", tenant)
    fields += ("traceparent", trace.traceparent)
    if cause.tracestate is not None:
        fields += ("tracestate", cause.tracestate)
    fields += ("cause", cause.id, "causesource", cause.source)
    if links:
        fields += (LINKS, format_links(links))
    _check_writable(fields)
    return fields


def _check_writable(fields: list[str]) -> None:
    try:
        text = "".join(fields)
        if not text.isascii():
            text.encode()
    except (TypeError, UnicodeEncodeError):
        raise InvalidEvent(_unwritable(fields)) from None


def _unwritable(fields: list[Any]) -> str:
    """Say which field is no text, or none that UTF-8 can hold."""
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        for part in (name, value):
            if not isinstance(part, str):
                return f"{name} must be text, not {type(part).__name__}"
            if len(part.encode(errors="ignore")) != len(part.encode(errors="replace")):
                return f"{name} holds what UTF-8 cannot: {part!r}"
    return "a field holds what UTF-8 cannot"


def decode(stream: str, entry_id: str, fields: Iterable[bytes]) -> Event:
    """Read an entry of a stream that producers write to.

    Raises:
        InvalidEvent: the entry has no type, or an attribute is not UTF-8.
    """
    return _decode(stream, entry_id, fields)


def decode_retry(stream: str, entry_id: str, fields: Iterable[bytes]) -> tuple[Event, Origin]:
    """Read an entry of a group's retry stream; `stream` is the one it was first read from.

    Raises:
        InvalidEvent: as for `decode`.
    """
    own, added = split_retry(list(fields))
    origin = _origin(entry_id, added)
    if not is_entry_id(origin.entry_id):
        raise InvalidEvent(f"{RETRY_ENTRY} is no entry id: {origin.entry_id!r}")
    return _decode(stream, origin.entry_id, own), origin


def encode_retry(entry_id: str, *, attempt: int, error: str, crashes: int = 0) -> list[str]:
    """Return the fields that are put behind an entry's own when it is parked for attempt number `attempt`.

    `entry_id` is where the event first lay, `error` why the last attempt failed, `crashes` how many processes died
    with it in flight. They are always these four in this order, so that the last eight values of a parked entry
    are ours, whatever names its producer has given to fields of its own.
    """
    return [RETRY_ENTRY, entry_id, RETRY_ATTEMPT, str(attempt), RETRY_CRASHES, str(crashes), RETRY_ERROR, error]


def first_entry(values: list[bytes], entry_id: str) -> str:
    """Return where an entry first lay, by what parking it has put behind its own fields, if it was parked."""
    return values[-7].decode(errors="replace") if values[-8:-7] == [RETRY_ENTRY.encode()] else entry_id


def split_retry(values: list[bytes]) -> tuple[list[bytes], dict[bytes, bytes]]:
    """Return an entry's own fields, and those that parking it has put behind them."""
    added: dict[bytes, bytes] = {}
    if values[-8:-7] == [RETRY_ENTRY.encode()]:
        values, added = values[:-8], _pairs(values[-8:])
    return unfold(values), added


def own_fields(values: list[bytes], *, most: int, is_parked: bool) -> list[bytes]:
    """Return an entry's own fields as scripts copy them: more than `most` names and values are folded in one.

    `is_parked`: it lies on a retry stream, so what parking it has added is left out.
    """
    if is_parked and values[-8:-7] == [RETRY_ENTRY.encode()]:
        values = values[:-8]
    if len(values) > most:
        return [RETRY_FIELDS.encode(), b"".join(b"%d:%s" % (len(value), value) for value in values)]
    return values


def unfold(values: list[bytes]) -> list[bytes]:
    """Return the fields of an entry that had too many for a script to copy: they then travel in one.

    That one holds each name and value behind its length, as `4:type1:t`.

    Raises:
        InvalidEvent: somebody else wrote it, and otherwise.
    """
    if len(values) != 2 or values[0] != RETRY_FIELDS.encode():
        return values
    unfolded, packed = [], values[1]
    while packed:
        length, _, rest = packed.partition(b":")
        if not length.isdigit() or len(length) > 10 or int(length) > len(rest):
            raise InvalidEvent(f"{RETRY_FIELDS} holds no lengths")
        unfolded.append(rest[: int(length)])
        packed = rest[int(length) :]
    if len(unfolded) % 2:
        raise InvalidEvent(f"{RETRY_FIELDS} holds a name without a value")
    return unfolded


def _pairs(fields: Iterable[bytes]) -> dict[bytes, bytes]:
    parts = iter(fields)
    return dict(zip(parts, parts, strict=True))


def _origin(entry_id: str, added: dict[bytes, bytes]) -> Origin:
    text = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in added.items()}

    return Origin(
        entry_id=text.get(RETRY_ENTRY, entry_id),
        attempt=number(text.get(RETRY_ATTEMPT, ""), 1),
        crashes=number(text.get(RETRY_CRASHES, "")),
        error=text.get(RETRY_ERROR) or None,
    )


def _decode(stream: str, entry_id: str, fields: Iterable[bytes]) -> Event:
    data = b"null"
    text: dict[str, str] = {}
    parts = iter(fields)
    for name, value in zip(parts, parts, strict=True):
        if name == b"data":
            data = value
            continue
        try:
            text[name.decode()] = value.decode()
        except UnicodeDecodeError:
            raise InvalidEvent(f"field {name.decode(errors='replace')!r} is not UTF-8") from None
    take: Any = text.pop
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
        source=take("source", None) or UNKNOWN_SOURCE,
        stated_time=take("time", None) or None,
        subject=take("subject", None),
        tenant=take("tenant", None),
        cause=take("cause", None),
        causesource=take("causesource", None) or None,
        traceparent=traceparent,
        tracestate=tracestate,
        entry_id=entry_id,
        extra=text,
    )
