"""Any other HMAC: streams.yaml says in which header, of what, by which algorithm and in which encoding."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping

from penstock.topology import Webhook
from penstock_services.gateway.schemes.base import Plain, Signed, Verified, check_time, compare, header

_PART = re.compile(r"\{(body|timestamp|id)\}")


class Hmac(Plain):
    """`prefix` and the signature in `header`, as the source's `hmac` says."""

    def __init__(self, secret: str, hook: Webhook) -> None:
        super().__init__(secret, hook)
        if hook.hmac is None:
            raise ValueError("scheme hmac needs `hmac` with at least the header of the signature")
        self._options = options = hook.hmac
        self._parts = _PART.split(options.signed)  # texts and names in turn
        names = self._parts[1::2]
        if "body" not in names or "{" in "".join(self._parts[::2]):
            raise ValueError("hmac.signed: it is made of {body}, {timestamp} and {id}, and has {body}")
        for name in ("timestamp", "id"):
            if name in names and getattr(options, name) is None:
                raise ValueError(f"hmac.signed has {{{name}}}: say in hmac.{name} which header holds it")

    def verify(self, request: Signed) -> Verified:
        """Verify what `signed` names."""
        options, headers = self._options, request.headers
        values = {"body": request.body}
        for name in ("timestamp", "id"):
            place = getattr(options, name)
            if place is not None and name in self._parts:
                values[name] = header(headers, place)
        expected = self._signature(values)
        compare(expected, header(headers, options.header))
        if "timestamp" in values:
            check_time(values["timestamp"], request.now, options.tolerance)
        delivery = headers.get(options.id) if options.id else None
        # An id that is not signed could be chosen by whoever repeats a request that he has seen.
        return Verified(key=delivery if "id" in values else expected.decode(), delivery=delivery)

    def sign(self, body: bytes, now: float) -> Signed:
        """Return a request."""
        options = self._options
        values = {"body": body, "timestamp": str(int(now)).encode(), "id": f"trial-{round(now)}".encode()}
        headers = {options.header: self._signature(values).decode()}
        headers |= {options.timestamp: values["timestamp"].decode()} if options.timestamp else {}
        headers |= {options.id: values["id"].decode()} if options.id else {}
        return Signed(headers=headers, body=body, now=now)

    def _signature(self, values: Mapping[str, bytes]) -> bytes:
        pieces = [values[part] if index % 2 else part.encode() for index, part in enumerate(self._parts)]
        digest = hmac.new(self._key, b"".join(pieces), self._options.algorithm)
        encoded = digest.hexdigest().encode() if self._options.encoding == "hex" else base64.b64encode(digest.digest())
        return self._options.prefix.encode() + encoded
