"""A shared secret as it is: in a header, or as a password (RFC 7617)."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from penstock.topology import TokenOptions, Webhook
from penstock_services.gateway.schemes.base import Plain, Signed, Verified, compare, header


class Token(Plain):
    """The secret in a header, after the prefix that `token` names; or that of a user, by basic authentication."""

    def __init__(self, secret: str, hook: Webhook) -> None:
        super().__init__(secret, hook)
        self._options = options = hook.token or TokenOptions()
        if options.user is not None:
            self._expected = b"Basic " + base64.b64encode(f"{options.user}:{secret}".encode())
        else:
            self._expected = options.prefix.encode() + self._key

    def verify(self, request: Signed) -> Verified:
        """Verify the sender."""
        compare(self._expected, header(request.headers, self._options.header))
        delivery = request.headers.get(self._options.id) if self._options.id else None
        return Verified(key=delivery or None, delivery=delivery)

    def sign(self, body: bytes, now: float) -> Mapping[str, str]:
        """Return the headers of a request."""
        headers = {self._options.header: self._expected.decode()}
        return headers | ({self._options.id: f"trial-{round(now)}"} if self._options.id else {})
