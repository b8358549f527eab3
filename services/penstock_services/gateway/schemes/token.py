"""A shared secret as it is: in a header, as a password (RFC 7617), or in the address."""

from __future__ import annotations

import base64

from penstock.topology import TokenOptions, Webhook
from penstock_services.gateway.schemes.base import Plain, Signed, Verified, compare, header, parameter


class Token(Plain):
    """The secret in a header, after the prefix that `token` names; as the password of a user; or in the query."""

    def __init__(self, secret: str, hook: Webhook) -> None:
        super().__init__(secret, hook)
        self._options = options = hook.token or TokenOptions()
        if options.query is not None and (options.user is not None or options.prefix):
            raise ValueError("token.query: what stands in the address has no prefix and no user; take one of them away")
        if options.user is not None:
            self._expected = b"Basic " + base64.b64encode(f"{options.user}:{secret}".encode())
        else:
            self._expected = options.prefix.encode() + self._key

    def verify(self, request: Signed) -> Verified:
        """Verify the sender."""
        options = self._options
        if options.query is not None:
            compare(self._expected, parameter(request.query, options.query))
        else:
            compare(self._expected, header(request.headers, options.header))
        delivery = request.headers.get(options.id) if options.id else None
        return Verified(key=delivery or None, delivery=delivery)

    def sign(self, body: bytes, now: float) -> Signed:
        """Return a request."""
        options, expected = self._options, self._expected.decode()
        headers = {options.header: expected} if options.query is None else {}
        headers |= {options.id: f"trial-{round(now)}"} if options.id else {}
        return Signed(headers=headers, query={options.query: expected} if options.query else {}, body=body, now=now)
