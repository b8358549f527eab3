"""Slack: https://docs.slack.dev/authentication/verifying-requests-from-slack."""

from __future__ import annotations

import hashlib
import hmac
from typing import ClassVar

from penstock_services.gateway.schemes.base import Plain, Signed, Verified, check_time, compare, header, in_body


class SlackScheme(Plain):
    """`X-Slack-Signature: v0=<hex HMAC-SHA256 of v0:timestamp:body>`; commands come as forms, events as JSON."""

    answer_within: ClassVar[float] = 2.0  # Slack waits 3 s

    def verify(self, request: Signed) -> Verified:
        """Verify time and body; an event has its id in the body, a command is known by its signature."""
        timestamp = header(request.headers, "X-Slack-Request-Timestamp")
        expected = self._signature(timestamp, request.body)
        compare(expected, header(request.headers, "X-Slack-Signature"))
        check_time(timestamp, request.now)
        event_id = in_body(request.body, "event_id")
        return Verified(key=event_id or expected.decode(), delivery=event_id)

    def sign(self, body: bytes, now: float) -> Signed:
        """Return an event."""
        timestamp = str(int(now))
        signature = self._signature(timestamp.encode(), body).decode()
        headers = {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": signature}
        return Signed(headers=headers, body=body, now=now)

    def _signature(self, timestamp: bytes, body: bytes) -> bytes:
        digest = hmac.new(self._key, b"v0:%b:%b" % (timestamp, body), hashlib.sha256).hexdigest()
        return b"v0=" + digest.encode()
