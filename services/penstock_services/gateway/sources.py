"""Webhook sources of streams.yaml: who may send, and what each request says."""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import msgspec
import structlog

from penstock.config import read_secret
from penstock.errors import ConfigurationError
from penstock.topology import Topology, Webhook
from penstock.web.body import FORM, is_json, media_type_of, parse
from penstock.web.problems import Problem
from penstock_services.gateway.schemes import SCHEMES, BadSignature, Scheme, Signed, Verified
from penstock_services.gateway.submission import CONTROL

_PLACEHOLDER = re.compile(r"\{(header|body):([^{}]+)\}")
_CONTROL = re.compile(CONTROL)
_SURROGATES = re.compile(
    rb"(?P<pair>\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
_LONGEST_TYPE = 255
_QUIET = 10.0  # seconds between two log lines about refused requests of one source
_log = structlog.get_logger("penstock.gateway")


class IncomingWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """A verified request: its content, as far as it can be read, and the JSON text that becomes the event's data."""

    scheme: str
    verified: Verified
    content: Any
    data: str


class SignedBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the data of a webhook's event are where its body is not JSON (XML, text, a form, or anything else).

    `body` holds the very bytes that were signed, as UTF-8, or `body_base64` where they are not that; `content_type` is
    the header. `fields` are those of a form, decoded: a list of values where a name stands there several times.
    """

    content_type: str
    body: str | None = None
    body_base64: str | None = None
    fields: dict[str, str | list[str]] | None = None


class WebhookSource:
    """One source. Without a secret it refuses everything: unsigned requests are never accepted."""

    def __init__(self, name: str, hook: Webhook, secrets: list[str]) -> None:
        self.name = name
        self.hook = hook
        self.secrets = secrets
        kind = SCHEMES[hook.scheme]
        self.verifiers: list[Scheme] = [kind(secret, hook) for secret in secrets]
        self.verify_token = read_secret(hook.verify_token) if hook.verify_token else None
        self.max_body = hook.max_body or kind.largest
        self.answer_within = hook.answer_within or kind.answer_within
        self._said = float("-inf")

    def warn(self) -> None:
        """Say so if it has no secret."""
        if not self.verifiers:
            variable = self.hook.secret
            _log.warning(f"its webhooks are refused until {variable} or {variable}_FILE is set", source=self.name)

    def receive(self, request: Signed) -> IncomingWebhook:
        """Verify a request and return what it says.

        Raises:
            Problem: 401 it is not proven to come from the source, 400 its body says that it is JSON, and is not.
        """
        verified = self.verify(request)
        content, data = _read(request.headers, request.body)
        return IncomingWebhook(scheme=self.hook.scheme, verified=verified, content=content, data=data)

    def verify(self, request: Signed) -> Verified:
        """Return what is proven of a request.

        Raises:
            Problem: 401, with the same words for every reason.
        """
        reasons = [] if self.verifiers else [f"{self.hook.secret} is unset"]
        for verifier in self.verifiers:  # several while a secret is rotated
            try:
                verified = verifier.verify(request)
            except BadSignature as error:
                reasons.append(str(error))
            else:
                return Verified(key=_printable(verified.key), delivery=_printable(verified.delivery))
        self._say(" / ".join(dict.fromkeys(reasons)))
        raise Problem(401, "the signature of this request is not valid", headers={"WWW-Authenticate": "Signature"})

    def event_type(self, headers: Mapping[str, str], content: Any) -> str:
        """Fill in `{header:Name}` and `{body:key}` of the source's event type.

        Raises:
            Problem: 422 the request lacks one of them, or the type is too long.
        """

        def value(found: re.Match[str]) -> str:
            kind, name = found.groups()
            text = headers.get(name) if kind == "header" else _at(content, name)
            if not isinstance(text, str) or not text:
                raise Problem(422, f"there is no text at {kind} {name}, of which the event's type is made")
            return _printable(text) or ""

        filled = _PLACEHOLDER.sub(value, self.hook.type)
        if len(filled) > _LONGEST_TYPE:
            raise Problem(422, f"the event's type is longer than {_LONGEST_TYPE} characters")
        return filled

    def _say(self, reason: str) -> None:
        """Tell the operator, whom the sender's view does not help; not more often than helps."""
        now = time.monotonic()
        if now - self._said > _QUIET:
            self._said = now
            _log.warning("webhook refused", source=self.name, reason=reason)


def sources(topology: Topology, *, demo: bool) -> dict[str, WebhookSource]:
    """Return the declared sources by name; `demo`: secrets that everybody knows may be used.

    Raises:
        ConfigurationError: a scheme, type or secret cannot be used.
    """
    return {name: _source(name, hook, demo=demo) for name, hook in topology.webhooks.items()}


def _source(name: str, hook: Webhook, *, demo: bool) -> WebhookSource:
    scheme = SCHEMES.get(hook.scheme)
    if scheme is None:
        known = ", ".join(sorted(SCHEMES))
        raise ConfigurationError(
            f"streams.yaml: webhooks.{name}.scheme: there is no scheme {hook.scheme}; use one of {known}"
        )
    rest = _PLACEHOLDER.sub("", hook.type)
    if not hook.type or "{" in rest or "}" in rest:
        raise ConfigurationError(
            f"streams.yaml: webhooks.{name}.type: {hook.type!r} is not an event type; in braces it may have "
            "{header:Name} and {body:key}"
        )
    value = read_secret(hook.secret) or (hook.default_secret if demo else None) or ""
    secrets = [secret for secret in value.splitlines() if secret.strip()]
    for secret in secrets:
        if len(secret) < scheme.least:
            raise ConfigurationError(
                f"{hook.secret}: a secret of {hook.scheme} has at least {scheme.least} characters; this one has "
                f"{len(secret)}"
            )
    try:
        return WebhookSource(name, hook, secrets)
    except ValueError as error:
        raise ConfigurationError(
            f"{hook.secret}: cannot be used for webhooks.{name} ({hook.scheme}): {error}"
        ) from None


def _read(headers: Mapping[str, str], body: bytes) -> tuple[Any, str]:
    """Return the content of a body, and the JSON text for it: a JSON body's own, else a SignedBody's."""
    kind = media_type_of(headers)
    if is_json(kind):
        return _read_json(body)
    if not kind:  # it may be anything, and mostly is JSON
        with contextlib.suppress(Problem):
            return _read_json(body)
    fields: dict[str, str | list[str]] | None = None
    if kind == FORM:
        found = parse_qs(body.decode(errors="replace"), keep_blank_values=True)
        fields = {name: values[0] if len(values) == 1 else values for name, values in found.items()}
    data = SignedBody(content_type=_printable(headers.get("Content-Type")) or "", fields=fields, **_as_text(body))
    return fields, msgspec.json.encode(data).decode()


def _as_text(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def _read_json(body: bytes) -> tuple[Any, str]:
    try:
        content = parse(body)
    except Problem:
        # Half a character: RFC 8259 lets it be written, and no text can hold it. It is passed on as it was signed.
        if not _SURROGATES.search(body):
            raise
        content = parse(_SURROGATES.sub(lambda found: found["pair"] or rb"\ufffd", body))
    return content, body.decode()


def _at(content: Any, name: str) -> Any:
    """Return what is at a key, or at a path of keys."""
    if isinstance(content, dict) and name in content:
        return content[name]
    for part in name.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _printable(value: str | None) -> str | None:
    """Return a text of a request with bytes that are not UTF-8, and control characters, written out."""
    if not value:
        return None
    text = value.encode(errors="backslashreplace").decode()
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
