"""GitHub: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries."""

from __future__ import annotations

import hashlib
import hmac
from typing import ClassVar

from penstock_services.gateway.schemes.base import Plain, Signed, Verified, compare, header


class GitHub(Plain):
    """`X-Hub-Signature-256: sha256=<hex HMAC-SHA256 of the body>`; nothing says when it was signed.

    Event name and delivery id are not signed, so the signature itself is what a redelivery is known by: whoever has
    seen one request cannot send it again as another.
    """

    largest: ClassVar[int] = 25 * 1024 * 1024  # GitHub sends no more, and does not try again

    def verify(self, request: Signed) -> Verified:
        """Verify the body."""
        expected = self._signature(request.body)
        compare(expected, header(request.headers, "X-Hub-Signature-256"))
        return Verified(key=expected.decode(), delivery=request.headers.get("X-GitHub-Delivery"))

    def sign(self, body: bytes, now: float) -> Signed:
        """Return a push."""
        headers = {
            "X-Hub-Signature-256": self._signature(body).decode(),
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": f"trial-{round(now)}",
        }
        return Signed(headers=headers, body=body, now=now)

    def _signature(self, body: bytes) -> bytes:
        return b"sha256=" + hmac.new(self._key, body, hashlib.sha256).hexdigest().encode()
