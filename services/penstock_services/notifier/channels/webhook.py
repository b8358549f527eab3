"""Any HTTP endpoint, signed after Standard Webhooks 1.0 (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from typing import Any

import msgspec

from penstock.redaction import forms
from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt, checked_url
from penstock_services.notifier.channels.credentials import header_secrets, url_secrets
from penstock_services.notifier.channels.wire import request

_PREFIX = "whsec_"
_TRANSIENT = frozenset({408, 425, 429})
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~\-]+")
_OURS = frozenset(
    [
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    ]
)
_GONE = 410  # the endpoint wants nothing any more


class Webhook(Channel, frozen=True, kw_only=True, tag="webhook"):
    """Posts the alert as JSON.

    `secret` is one secret, or several separated by commas while one replaces another: each signs.
    `headers` go along, such as one that authenticates us.
    """

    url: str
    secret: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_url(self.url)
        for secret in _split(self.secret):
            signing_key(secret)
        for name, value in self.headers.items():
            check_header(name, value)

    @property
    def target(self) -> str:
        """The URL."""
        return self.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """The URL, which may hold a token, the signing secrets and what authenticates us."""
        signing = [part for secret in _split(self.secret) for part in (secret, secret.removeprefix(_PREFIX))]
        return (*url_secrets(self.url), *forms(signing), *header_secrets(self.headers))

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """A rate no sound endpoint minds."""
        return (Limit(self.scope, 10, 1.0),)

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return type, time and data: the same for every attempt."""
        alert = delivery.alert
        fires = "unacknowledged" if alert.unacknowledged_by else "triggered"
        change = delivery.choose(fires, "acknowledged", "resolved")
        kind = "alert.test" if delivery.test else f"alert.{change}"
        told = {"title": delivery.message.title, "text": delivery.message.text, "notices": delivery.message.notices}
        return {"type": kind, "timestamp": delivery.message.time, "data": {**msgspec.to_builtins(alert), **told}}

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Post it. 2xx is success; 410 disables the channel; 408, 425, 429 and 5xx are tried again."""
        body = msgspec.json.encode(self.payload(delivery))
        headers = {**self.headers, **signed_headers(_split(self.secret), delivery.key, body, now=time.time())}
        answer = await request(
            "POST", self.url, body, headers=headers, timeout=self.timeout, allow_private=allow_private
        )
        if 200 <= answer.status < 300:
            return Receipt(code=answer.status, answer=answer.body, latency=answer.latency)
        if answer.status == _GONE:
            raise answer.refused(gone=True)
        raise answer.failure(transient=_TRANSIENT)


def check_header(name: str, value: str) -> None:
    """Refuse what cannot go along as a header (RFC 9110, 5.1 and 5.5), or is ours to set.

    Raises:
        ValueError: with the reason. The message does not repeat the value.
    """
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"headers: {name!r} is no name of a header; it holds letters, digits and hyphens")
    if name.lower() in _OURS:
        raise ValueError(f"headers: {name} says what is sent or how, and is ours to set; remove it")
    if not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError(
            f"headers: the value of {name} holds what no header can: use printable ASCII without edge blanks"
        )


def signing_key(secret: str) -> bytes:
    """Return the key that a secret stands for: `whsec_` and the base64 of 24 to 64 bytes.

    Raises:
        ValueError: it is of another form. The message does not repeat it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        raise ValueError(
            "secret: expected whsec_ and the base64 of 24 to 64 random bytes; `openssl rand -base64 32` makes "
            "what follows whsec_"
        )
    return key


def signed_headers(secrets: tuple[str, ...], key: str, body: bytes, *, now: float) -> dict[str, str]:
    """Return the headers of Standard Webhooks; without secrets all but the signature."""
    timestamp = str(int(now))
    headers = {"webhook-id": key, "webhook-timestamp": timestamp}
    signed = f"{key}.{timestamp}.".encode() + body
    signatures = [
        base64.b64encode(hmac.new(signing_key(secret), signed, hashlib.sha256).digest()).decode() for secret in secrets
    ]
    if signatures:
        headers["webhook-signature"] = " ".join(f"v1,{signature}" for signature in signatures)
    return headers


def _split(secret: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (secret or "").split(",") if part.strip())
