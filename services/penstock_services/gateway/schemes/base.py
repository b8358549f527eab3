"""What a signature scheme is: one class in a small file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class BadSignature(Exception):
    """The request is not proven to come from the source. The reason is for our log, never for the sender."""


class Scheme(Protocol):
    """Verifies requests that were signed with one secret.

    Compare in constant time, bytes with bytes; parse nothing of the sender's that can be compared as it is.
    """

    def __init__(self, secret: str) -> None:
        """Take a secret; ValueError says what is wrong with its form."""

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        """Return the delivery id (what a redelivery has in common with the first), None if there is none.

        `headers` ignores case; `now` is in seconds since the epoch.

        Raises:
            BadSignature: whatever is wrong.
        """


def header(headers: Mapping[str, str], name: str) -> bytes:
    """Return a header's value as the bytes that were sent.

    Raises:
        BadSignature: it is missing or empty.
    """
    value = headers.get(name)
    if not value:
        raise BadSignature(f"no {name} header")
    return value.encode(errors="surrogateescape")  # as aiohttp decoded it
