"""Twilio: https://www.twilio.com/docs/usage/security#validating-requests."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import parse_qsl

from penstock.topology import Webhook
from penstock.web.body import FORM
from penstock_services.gateway.schemes.base import BadSignature, Plain, Signed, Verified, compare, header

_HASH = "bodySHA256"


class Twilio(Plain):
    """`X-Twilio-Signature`: base64 HMAC-SHA1 of the address, and of each name and value of the form in order.

    To the address of a JSON body Twilio adds its hash, in place of a form. Nothing says when it was signed.
    """

    def __init__(self, secret: str, hook: Webhook) -> None:
        if not hook.url:
            raise ValueError("Twilio signs the address that it calls: give it as `url` of the source in streams.yaml")
        super().__init__(secret, hook)
        self._url = hook.url

    def verify(self, request: Signed) -> Verified:
        """Verify address and body."""
        given, digest = header(request.headers, "X-Twilio-Signature"), request.query.get(_HASH)
        expected = self._signature(request.body, digest)
        compare(expected, given)
        if digest is not None and not hmac.compare_digest(
            digest.encode(errors="surrogateescape"), _digest(request.body).encode()
        ):
            raise BadSignature("the body is not the one of which the address holds the hash")
        return Verified(key=expected.decode(), delivery=request.headers.get("I-Twilio-Idempotency-Token"))

    def sign(self, body: bytes, now: float) -> Signed:
        """Return a request: a form, or JSON."""
        form = not body.lstrip().startswith((b"{", b"["))
        digest = None if form else _digest(body)
        headers = {"X-Twilio-Signature": self._signature(body, digest).decode()}
        headers |= {"Content-Type": FORM} if form else {}
        return Signed(headers=headers, query={_HASH: digest} if digest else {}, body=body, now=now)

    def _signature(self, body: bytes, digest: str | None) -> bytes:
        if digest is None:
            pairs = parse_qsl(body.decode(errors="replace"), keep_blank_values=True)
            text = self._url + "".join(name + value for name, value in sorted(set(pairs)))
        else:
            text = f"{self._url}{'&' if '?' in self._url else '?'}{_HASH}={digest}"
        return base64.b64encode(hmac.new(self._key, text.encode(errors="replace"), hashlib.sha1).digest())


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
