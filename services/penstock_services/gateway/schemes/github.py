"""GitHub: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from penstock_services.gateway.schemes.base import BadSignature, header


class GitHub:
    """`X-Hub-Signature-256: sha256=<hex HMAC-SHA256 of the body>`; nothing says when it was signed."""

    def __init__(self, secret: str) -> None:
        self._key = secret.encode()

    def verify(self, headers: Mapping[str, str], body: bytes, now: float) -> str | None:
        """Return X-GitHub-Delivery."""
        signature = header(headers, "X-Hub-Signature-256")
        expected = b"sha256=" + hmac.new(self._key, body, hashlib.sha256).hexdigest().encode()
        if not hmac.compare_digest(expected, signature):
            raise BadSignature("the signature does not match: is the secret the same on both sides?")
        return headers.get("X-GitHub-Delivery")
