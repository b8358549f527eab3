"""Twilio: https://www.twilio.com/docs/usage/security#validating-requests."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import parse_qs, parse_qsl, urlsplit

from penstock.topology import Webhook
from penstock_services.gateway.schemes.base import BadSignature, Plain, Signed, Verified, compare, header

_HASH = "bodySHA256"


class Twilio(Plain):
    """`X-Twilio-Signature`: base64 HMAC-SHA1 of the address, and of each name and value of the form in order.

    Of a JSON body the address holds the hash. Nothing says when it was signed.
    """

    def __init__(self, secret: str, hook: Webhook) -> None:
        if not hook.url:
            raise ValueError("Twilio signs the address that it calls: give it as `url` of the source in streams.yaml")
        super().__init__(secret, hook)
        self._url = hook.url

    def verify(self, request: Signed) -> Verified:
        """Verify address and body."""
        given = header(request.headers, "X-Twilio-Signature")
        expected = self._signature(request.body)
        compare(expected, given)
        digest = parse_qs(urlsplit(self._url).query).get(_HASH)
        if digest and not hmac.compare_digest(digest[0], hashlib.sha256(request.body).hexdigest()):
            raise BadSignature("the body is not the one of which the address holds the hash")
        return Verified(key=expected.decode(), delivery=request.headers.get("I-Twilio-Idempotency-Token"))

    def sign(self, body: bytes, now: float) -> Mapping[str, str]:
        """Return the header of a request."""
        return {
            "X-Twilio-Signature": self._signature(body).decode(),
            "Content-Type": "application/x-www-form-urlencoded",
        }

    def _signature(self, body: bytes) -> bytes:
        pairs = [] if _HASH in self._url else parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
        text = self._url + "".join(name + value for name, value in sorted(set(pairs)))
        return base64.b64encode(hmac.new(self._key, text.encode(errors="replace"), hashlib.sha1).digest())
