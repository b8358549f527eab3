"""Standard Webhooks 1.0, and Svix, which is the same under its own header names.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping

from penstock_services.gateway.schemes.base import BadSignature, header

_TOLERANCE = 300  # seconds, to both sides
_SECONDS = re.compile(rb"[0-9]{1,15}")


class StandardWebhooks:
    """`webhook-signature`: space-separated `v1,<base64 HMAC-SHA256 of id.timestamp.body>`."""

    def __init__(self, secret: str) -> None:
        encoded = secret.removeprefix("whsec_")
        try:
            self._key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("it must be whsec_ and the key in base64") from None
        if not self._key:
            raise ValueError("it holds no key after whsec_")

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        """Return webhook-id (svix-id)."""
        prefix = "webhook" if "webhook-id" in headers else "svix"
        message_id = header(headers, f"{prefix}-id")
        timestamp = header(headers, f"{prefix}-timestamp")
        signatures = header(headers, f"{prefix}-signature")
        digest = hmac.new(self._key, b"%b.%b.%b" % (message_id, timestamp, body), hashlib.sha256).digest()
        expected = b"v1," + base64.b64encode(digest)
        # Every signature is compared: the time taken does not tell which one matched.
        if not sum(hmac.compare_digest(expected, signature) for signature in signatures.split(b" ")):
            raise BadSignature("no signature matches: is the secret the same on both sides?")
        if not _SECONDS.fullmatch(timestamp) or abs(now - int(timestamp)) > _TOLERANCE:
            raise BadSignature(f"the timestamp is not within {_TOLERANCE} s: are both clocks right?")
        return headers[f"{prefix}-id"]
