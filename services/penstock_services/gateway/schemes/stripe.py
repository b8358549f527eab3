"""Stripe: https://docs.stripe.com/webhooks/signature (verify manually)."""

from __future__ import annotations

import hashlib
import hmac

from penstock_services.gateway.schemes.base import (
    BadSignature,
    Plain,
    Signed,
    Verified,
    check_time,
    compare,
    header,
    in_body,
)


class Stripe(Plain):
    """`Stripe-Signature: t=<seconds>,v1=<hex HMAC-SHA256 of t.body>,...`; the key is the whole whsec_ text."""

    def verify(self, request: Signed) -> Verified:
        """Verify time and body; the event's id is in the body, and what has none is known by its signature."""
        pairs = [part.strip().partition(b"=") for part in header(request.headers, "Stripe-Signature").split(b",")]
        times = [value for name, _, value in pairs if name == b"t"]
        if len(times) != 1:
            raise BadSignature("Stripe-Signature has not one t")
        signatures = [value for name, _, value in pairs if name == b"v1"]
        expected = self._signature(times[0], request.body)
        compare(expected, *signatures)
        check_time(times[0], request.now)
        event_id = in_body(request.body, "id")
        return Verified(key=event_id or expected.decode(), delivery=event_id)

    def sign(self, body: bytes, now: float) -> Signed:
        """Return an event."""
        timestamp = str(int(now)).encode()
        signature = f"t={timestamp.decode()},v1={self._signature(timestamp, body).decode()}"
        return Signed(headers={"Stripe-Signature": signature}, body=body, now=now)

    def _signature(self, timestamp: bytes, body: bytes) -> bytes:
        return hmac.new(self._key, b"%b.%b" % (timestamp, body), hashlib.sha256).hexdigest().encode()
