"""What a signature scheme is: one class in a small file of its own."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import msgspec

from penstock.topology import Webhook

TOLERANCE = 300.0  # seconds, to both sides
_SECONDS = re.compile(rb"[0-9]{1,15}")


class BadSignature(Exception):
    """The request is not proven to come from the source. The reason is for our log, never for the sender."""


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A request to verify. `headers` ignores case, `query` is the address's, `now` in seconds since the epoch."""

    headers: Mapping[str, str]
    query: Mapping[str, str] = {}
    body: bytes
    now: float


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What is proven of a request.

    `key` is what a redelivery has in common with the first and nobody but the source can choose; None if there is
    nothing such. `delivery` is the source's own word for it, for people.
    """

    key: str | None
    delivery: str | None = None


class Scheme(Protocol):
    """Verifies requests that were signed with one secret.

    Compare in constant time, bytes with bytes; parse nothing of the sender's that can be compared as it is.
    """

    least: ClassVar[int]
    """Characters that a secret has at least."""
    largest: ClassVar[int]
    """Bytes of the largest body the source sends, unless streams.yaml says otherwise."""
    answer_within: ClassVar[float]
    """Seconds that the source is let wait, unless streams.yaml says otherwise: fewer than it waits by itself."""

    def __init__(self, secret: str, hook: Webhook) -> None:
        """Take a secret; ValueError says what is wrong with its form, or with what streams.yaml says."""

    def verify(self, request: Signed) -> Verified:
        """Return what is proven.

        Raises:
            BadSignature: whatever is wrong.
        """

    def sign(self, body: bytes, now: float) -> Signed:
        """Return the request in which the source would send a body, for a trial: with the type of what is not JSON."""


class Plain:
    """What most schemes have: a text as secret, bodies of a megabyte at most, and some 10 s of patience."""

    least: ClassVar[int] = 16
    largest: ClassVar[int] = 1_000_000
    answer_within: ClassVar[float] = 8.0

    def __init__(self, secret: str, hook: Webhook) -> None:
        self._key = secret.encode()
        self._hook = hook


def header(headers: Mapping[str, str], name: str) -> bytes:
    """Return a header's value as the bytes that were sent.

    Raises:
        BadSignature: it is missing or empty.
    """
    return _present(headers.get(name), f"{name} header")


def parameter(query: Mapping[str, str], name: str) -> bytes:
    """Return what the address says of a parameter.

    Raises:
        BadSignature: it is missing or empty.
    """
    return _present(query.get(name), f"{name} in the address")


def _present(value: str | None, what: str) -> bytes:
    if not value:
        raise BadSignature(f"no {what}")
    return value.encode(errors="surrogateescape")  # as aiohttp decoded it


def compare(expected: bytes, *candidates: bytes) -> None:
    """Refuse what is not as expected. Every candidate is compared: the time taken does not tell which one matched.

    Raises:
        BadSignature: none of them is.
    """
    if not sum(hmac.compare_digest(expected, candidate) for candidate in candidates):
        raise BadSignature("the signature does not match: is the secret the same on both sides?")


def check_time(timestamp: bytes, now: float, tolerance: float = TOLERANCE) -> None:
    """Refuse what was signed too long ago, or in the future.

    Raises:
        BadSignature: it was, or nobody can tell.
    """
    if not _SECONDS.fullmatch(timestamp) or abs(now - int(timestamp)) > tolerance:
        raise BadSignature(f"the timestamp is not within {tolerance:g} s: are both clocks right?")


def in_body(body: bytes, name: str) -> str | None:
    """Return a text at the top of a signed JSON body."""
    try:
        value: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    text = value.get(name) if isinstance(value, dict) else None
    return text if isinstance(text, str) and text else None
