"""Submissions: what `POST /v1/events` takes, one event or an array of them, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec

from penstock.errors import InvalidEvent
from penstock.event import Event
from penstock.web.body import parse
from penstock.web.problems import Problem
from penstock_services.gateway.acceptance import RESERVED, Draft

MOST_EVENTS = 500
_MOST_EXTRA = 100
CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]"
"""What no type, id or subject holds: line breaks of Unicode too, which would forge lines wherever it is shown."""
_PRINTABLE = rf"^(?![\s\S]*{CONTROL})"

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=_PRINTABLE)]
Address = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, pattern=_PRINTABLE)]


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """An event as its sender describes it; penstock.event.Event says what the attributes mean.

    Its id and source are the sender's words for it: the gateway gives it an id of its own and a source that says who
    sent it, and keeps the sender's id as `sender_id`. Every other attribute is kept as text beside them.
    """

    type: Name
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    id: Name | None = None
    source: Address | None = None
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    subject: Address | None = None
    tenant: Name | None = None
    cause: Name | None = None
    causesource: Address | None = None
    traceparent: str | None = None
    tracestate: str | None = None


_decoder = msgspec.json.Decoder(
    Submission | Annotated[list[Submission], msgspec.Meta(min_length=1, max_length=MOST_EVENTS)]
)


def read(body: bytes) -> list[Draft] | Draft:
    """Return the event, or the events, in a body.

    Raises:
        Problem: 400 it is not JSON; 422 it is no event, naming its index and the attribute.
    """
    return decode(body, _decoder)


def decode(body: bytes, decoder: msgspec.json.Decoder[Any]) -> list[Draft] | Draft:
    """Return the event, or the events, that `decoder` finds in a body.

    Raises:
        Problem: as for `read`.
    """
    attributes = parse(body)
    try:
        found = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    if isinstance(found, Submission):
        return draft(attributes, found)
    return [draft(each, one, f"[{index}].") for index, (each, one) in enumerate(zip(attributes, found, strict=True))]


def draft(attributes: Mapping[str, Any], found: Submission, path: str = "") -> Draft:
    """Return the event to publish: what was `found` valid in `attributes`, and what else they hold.

    Raises:
        Problem: 422.
    """
    extra = _extra(attributes, found.__struct_fields__, path)
    try:
        Event(type=found.type, id="", extra=extra).due  # noqa: B018 - so that it is told now, not in a dead letter
    except InvalidEvent as error:
        raise Problem(422, f"{path}{error}") from None
    return Draft(
        type=found.type,
        data=bytes(found.data).decode(),
        id=found.id,
        source=found.source,
        time=attributes.get("time"),  # as it was written
        subject=found.subject,
        tenant=found.tenant,
        cause=found.cause,
        causesource=found.causesource,
        extra=extra,
        traceparent=found.traceparent,
        tracestate=found.tracestate,
    )


def invalid(error: msgspec.ValidationError) -> Problem:
    """Return the answer to an event that is not valid."""
    problem, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if "matching regex" in problem:
        problem = "holds control characters"
    return Problem(422, f"{path}: {problem}" if path else problem)


def _extra(attributes: Mapping[str, Any], known: Sequence[str], path: str) -> dict[str, str]:
    extra = {
        name: value if isinstance(value, str) else _as_text(value, path + name)
        for name, value in attributes.items()
        if name not in known and value is not None
    }
    for name in extra:
        if name in RESERVED or "." in name:
            raise Problem(422, f"{path}{name}: the mesh sets this itself; put it into data")
    if len(extra) > _MOST_EXTRA:
        raise Problem(422, f"{path}: more than {_MOST_EXTRA} attributes of your own; put them into data")
    return extra


def _as_text(value: Any, name: str) -> str:
    """Return a number or boolean in its JSON form, which is the one CloudEvents prescribes, too."""
    if isinstance(value, dict | list):
        raise Problem(422, f"{name}: an attribute of your own is a text or a number; put the rest into data")
    return msgspec.json.encode(value).decode()
