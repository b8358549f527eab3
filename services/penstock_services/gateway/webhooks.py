"""Webhook sources of streams.yaml: who may send, and what event each request becomes."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from penstock.config import read_secret
from penstock.errors import ConfigurationError
from penstock.event import encode
from penstock.topology import Topology, Webhook
from penstock.web.problems import Problem
from penstock_services.gateway.acceptance import Draft
from penstock_services.gateway.body import parse
from penstock_services.gateway.schemes import SCHEMES, BadSignature, Scheme

_PLACEHOLDER = re.compile(r"\{(header|body):([^{}]+)\}")
_LONGEST_TYPE = 255
_QUIET = 10.0  # seconds between two log lines about refused requests of one source
_log = structlog.get_logger("penstock.gateway")


class Delivery(msgspec.Struct, frozen=True):
    """A verified request: its event, and the id that a redelivery of it bears again."""

    draft: Draft
    id: str | None


class Source:
    """One source. Without a secret it refuses everything: unsigned requests are never accepted."""

    def __init__(self, name: str, hook: Webhook, verifiers: list[Scheme]) -> None:
        self._name = name
        self._hook = hook
        self._verifiers = verifiers
        self._said = float("-inf")

    @property
    def stream(self) -> str:
        """The stream its events go to."""
        return self._hook.stream

    def warn(self) -> None:
        """Say so if it has no secret."""
        if not self._verifiers:
            variable = self._hook.secret
            _log.warning(f"its webhooks are refused until {variable} or {variable}_FILE is set", source=self._name)

    def receive(self, headers: Mapping[str, str], body: bytes) -> Delivery:
        """Verify a request and return what it delivers.

        Raises:
            Problem: 401 it is not proven to come from the source, 400 it is not JSON, 422 it has no type.
        """
        delivery_id = self._verify(headers, body)
        content = parse(body)
        fields = encode(
            event_type(self._hook.type, headers, content),
            body.decode(),
            source=f"webhook/{self._name}",
            tenant=self._hook.tenant,
            extra={"delivery": delivery_id} if delivery_id else None,
        )
        return Delivery(Draft(fields, f"webhook/{self._name}"), delivery_id)

    def _verify(self, headers: Mapping[str, str], body: bytes) -> str | None:
        reasons = [] if self._verifiers else [f"{self._hook.secret} is unset"]
        for verifier in self._verifiers:  # several while a secret is rotated
            try:
                delivery_id = verifier.verify(headers, body, time.time())
            except BadSignature as error:
                reasons.append(str(error))
            else:
                return _printable(delivery_id) if delivery_id else None
        self._say(" / ".join(dict.fromkeys(reasons)))
        raise Problem(401, "the signature of this request is not valid", headers={"WWW-Authenticate": "Signature"})

    def _say(self, reason: str) -> None:
        """Tell the operator, whom the sender's view does not help; not more often than helps."""
        now = time.monotonic()
        if now - self._said > _QUIET:
            self._said = now
            _log.warning("webhook refused", source=self._name, reason=reason)


def event_type(template: str, headers: Mapping[str, str], content: Any) -> str:
    """Fill in `{header:Name}` and `{body:key}`.

    Raises:
        Problem: 422 the request lacks one of them, or the type is too long.
    """

    def value(found: re.Match[str]) -> str:
        kind, name = found.groups()
        place = headers if kind == "header" else content
        text = place.get(name) if isinstance(place, Mapping) else None
        if not isinstance(text, str) or not text:
            raise Problem(422, f"the event's type cannot be told: there is no text at {kind} {name}")
        return _printable(text)

    filled = _PLACEHOLDER.sub(value, template)
    if len(filled) > _LONGEST_TYPE:
        raise Problem(422, f"the event's type is longer than {_LONGEST_TYPE} characters")
    return filled


def sources(topology: Topology) -> dict[str, Source]:
    """Return the declared sources by name.

    Raises:
        ConfigurationError: a scheme, type or secret cannot be used.
    """
    return {name: _source(name, hook) for name, hook in topology.webhooks.items()}


def _source(name: str, hook: Webhook) -> Source:
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
    value = read_secret(hook.secret) or hook.default_secret or ""
    secrets = [secret.strip() for secret in value.split(",") if secret.strip()]
    try:
        return Source(name, hook, [scheme(secret) for secret in secrets])
    except ValueError as error:
        raise ConfigurationError(f"{hook.secret}: not a secret of {hook.scheme}: {error}") from None


def _printable(value: str) -> str:
    """Return a header's text, with bytes that are not UTF-8 written out."""
    return value.encode(errors="backslashreplace").decode()
