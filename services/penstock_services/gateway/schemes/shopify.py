"""Shopify: https://shopify.dev/docs/apps/build/webhooks/subscribe/https (validate the origin)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import ClassVar

from penstock_services.gateway.schemes.base import Plain, Signed, Verified, compare, header


class Shopify(Plain):
    """`X-Shopify-Hmac-SHA256: <base64 HMAC-SHA256 of the body>`; nothing says when it was signed.

    X-Shopify-Webhook-Id is not signed, so the signature itself is what a redelivery is known by.
    """

    answer_within: ClassVar[float] = 4.0  # Shopify waits 5 s

    def verify(self, request: Signed) -> Verified:
        """Verify the body."""
        expected = self._signature(request.body)
        compare(expected, header(request.headers, "X-Shopify-Hmac-SHA256"))
        return Verified(key=expected.decode(), delivery=request.headers.get("X-Shopify-Webhook-Id"))

    def sign(self, body: bytes, now: float) -> Signed:
        """Return an order."""
        headers = {
            "X-Shopify-Hmac-SHA256": self._signature(body).decode(),
            "X-Shopify-Topic": "orders/create",
            "X-Shopify-Webhook-Id": f"trial-{round(now)}",
        }
        return Signed(headers=headers, body=body, now=now)

    def _signature(self, body: bytes) -> bytes:
        return base64.b64encode(hmac.new(self._key, body, hashlib.sha256).digest())
