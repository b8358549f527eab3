"""Standard Webhooks 1.0, and Svix, which is the same under its own header names.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import ClassVar

from penstock.topology import Webhook
from penstock_services.gateway.schemes.base import Plain, Signed, Verified, check_time, compare, header

_LEAST_KEY = 24  # bytes, by the specification


class StandardWebhooks(Plain):
    """`webhook-signature`: space-separated `v1,<base64 HMAC-SHA256 of id.timestamp.body>`."""

    prefix: ClassVar[str] = "webhook"

    def __init__(self, secret: str, hook: Webhook) -> None:
        encoded = secret.removeprefix("v1,").removeprefix("whsec_")  # some providers show it as v1,whsec_
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("it must be whsec_ and the key in base64; put several on a line each") from None
        if len(key) < _LEAST_KEY:
            raise ValueError(f"its key after whsec_ has {len(key)} bytes; at least {_LEAST_KEY} are safe")
        super().__init__(secret, hook)
        self._key = key

    def verify(self, request: Signed) -> Verified:
        """Verify id, time and body."""
        headers = request.headers
        prefix = "svix" if f"{self.prefix}-id" not in headers else self.prefix
        message_id = header(headers, f"{prefix}-id")
        timestamp = header(headers, f"{prefix}-timestamp")
        signatures = header(headers, f"{prefix}-signature").split(b" ")
        compare(self._signature(message_id, timestamp, request.body), *signatures)
        check_time(timestamp, request.now)
        return Verified(key=headers[f"{prefix}-id"], delivery=headers[f"{prefix}-id"])

    def sign(self, body: bytes, now: float) -> Signed:
        """Return a message."""
        message_id, timestamp = f"msg_trial{round(now)}", str(int(now))
        headers = {
            f"{self.prefix}-id": message_id,
            f"{self.prefix}-timestamp": timestamp,
            f"{self.prefix}-signature": self._signature(message_id.encode(), timestamp.encode(), body).decode(),
        }
        return Signed(headers=headers, body=body, now=now)

    def _signature(self, message_id: bytes, timestamp: bytes, body: bytes) -> bytes:
        digest = hmac.new(self._key, b"%b.%b.%b" % (message_id, timestamp, body), hashlib.sha256).digest()
        return b"v1," + base64.b64encode(digest)


class Svix(StandardWebhooks):
    """The same, as Svix sends it."""

    prefix: ClassVar[str] = "svix"
