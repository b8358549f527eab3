"""Handshakes: what providers ask of an address before they send events to it.

Sources: Slack url_verification (docs.slack.dev/reference/events/url_verification); GitHub ping; Meta and others
hub.challenge (WebSub 5.3); Azure Event Grid (endpoint validation with CloudEvents or its own schema); CloudEvents
HTTP webhook 1.0, 4 (abuse protection).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from penstock.web.problems import Problem
from penstock.web.routes import json
from penstock_services.gateway.sources import IncomingWebhook, WebhookSource

_EVENT_GRID = "SubscriptionValidation"
_NO_RATE = "*"
_PING = {"zen", "hook_id"}  # what a ping of GitHub's holds: the header that names the event is not signed


def answer(incoming: IncomingWebhook, headers: Mapping[str, str]) -> web.Response | None:
    """Return the answer to a verified request that is no event but a handshake; None for an event."""
    content = incoming.content
    if incoming.scheme == "github" and isinstance(content, dict) and content.keys() >= _PING:
        return json({"status": "pong"})
    if incoming.scheme == "slack" and isinstance(content, dict) and content.get("type") == "url_verification":
        return json({"challenge": _text(content, "challenge")})
    if headers.get("aeg-event-type") == _EVENT_GRID and isinstance(content, list) and content:
        data = content[0].get("data") if isinstance(content[0], dict) else None
        return json({"validationResponse": _text(data, "validationCode")})
    return None


def challenge(source: WebhookSource, query: Mapping[str, str]) -> web.Response:
    """Return the answer to `hub.challenge`: only to who knows the `verify_token` that the provider was given.

    Raises:
        Problem: 403 it is another token, 405 it is no challenge, or the source expects none.
    """
    if query.get("hub.mode") != "subscribe" or "hub.challenge" not in query or not source.verify_token:
        raise Problem(405, "this address takes POST", headers={"Allow": "POST, OPTIONS"})
    given = query.get("hub.verify_token", "").encode(errors="replace")
    if not hmac.compare_digest(source.verify_token.encode(), given):
        raise Problem(403, "hub.verify_token is not the one of this source")
    return web.Response(text=query["hub.challenge"], content_type="text/plain")


def allow(headers: Mapping[str, str]) -> web.Response:
    """Return the answer to who asks whether it may send CloudEvents here; what it sends is verified all the same.

    Raises:
        Problem: 405 it does not say who it is.
    """
    origin = headers.get("WebHook-Request-Origin")
    if not origin:
        raise Problem(405, "this address takes POST", headers={"Allow": "POST"})
    answers = {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": headers.get("WebHook-Request-Rate", _NO_RATE)}
    return web.Response(status=200, headers={**answers, "Allow": "POST"})


def _text(content: Any, name: str) -> str:
    text = content.get(name) if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise Problem(422, f"the handshake has no text at {name}")
    return text
