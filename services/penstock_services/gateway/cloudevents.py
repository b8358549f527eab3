"""CloudEvents 1.0 over HTTP: structured, batched and binary mode, with JSON data.

Source: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import unquote

import msgspec

from penstock.web.body import parse
from penstock.web.problems import Problem
from penstock_services.gateway.acceptance import Draft
from penstock_services.gateway.submission import MOST_EVENTS, Address, Name, Submission, decode, draft, invalid

BATCH = "application/cloudevents-batch+json"
MEDIA_TYPES = (BATCH, "application/cloudevents+json")
_PREFIX = "ce-"


class CloudEvent(Submission, frozen=True, kw_only=True):
    """A submission that keeps to CloudEvents; `data_base64` is refused, for data is JSON here."""

    specversion: Literal["1.0"]
    id: Name
    source: Address
    datacontenttype: Annotated[str, msgspec.Meta(pattern=r"^application/([\w.\-]+\+)?json\b")] | None = None
    data_base64: None = None


_event = msgspec.json.Decoder(CloudEvent)
_batch = msgspec.json.Decoder(Annotated[list[CloudEvent], msgspec.Meta(max_length=MOST_EVENTS)])


def is_binary(media_type: str, headers: Mapping[str, str]) -> bool:
    """Whether the attributes are in headers, and the body is the data."""
    return media_type not in MEDIA_TYPES and ("ce-specversion" in headers or "ce-type" in headers)


def read(media_type: str, body: bytes) -> list[Draft] | Draft:
    """Return the event, or the events, of a body in structured or batched mode.

    Raises:
        Problem: 400 it is not JSON; 422 it is no CloudEvent.
    """
    return decode(body, _batch if media_type == BATCH else _event)


def read_binary(headers: Mapping[str, str], body: bytes) -> Draft:
    """Return the event of a request in binary mode.

    Raises:
        Problem: as for `read`.
    """
    if body:
        parse(body)
    attributes = {name: _decoded(name, value) for name, value in _attributes(headers).items()}
    try:
        found = msgspec.convert({**attributes, "data": msgspec.Raw(body or b"null")}, CloudEvent)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    return draft(attributes, found)


def _attributes(headers: Mapping[str, str]) -> dict[str, str]:
    names = {
        name: name[len(_PREFIX) :].lower() for name in headers if name.isascii() and name.lower().startswith(_PREFIX)
    }
    return {attribute: headers[name] for name, attribute in names.items() if attribute != "data"}


def _decoded(name: str, value: str) -> str:
    """Undo quoting, then percent-encoding (3.1.3.2); bytes that are not UTF-8, overlong forms too, are refused."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        text = unquote(value, errors="strict")
        text.encode()
    except UnicodeError:
        raise Problem(422, f"ce-{name}: not percent-encoded UTF-8") from None
    return text
