"""Microsoft Teams, through a workflow "Post to a channel when a webhook request is received".

Rules: https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using (card and its
frame), .../add-incoming-webhook (28 KB, four requests a second), https://adaptivecards.io/explorer (elements).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt, checked_url
from penstock_services.notifier.channels.credentials import url_secrets
from penstock_services.notifier.channels.wire import request
from penstock_services.notifier.message.message import Message
from penstock_services.notifier.message.text import cut

_TITLE, _TEXT, _FACT, _LINE = 300, 6_000, 500, 1_000
_STYLES = {"info": "accent", "warning": "warning", "critical": "attention"}
_MARKUP = re.compile(r"([\\*_\[\]()#`~>|-])")
_FAILED = re.compile(r"HTTP error (\d{3})")  # what a connector's own URL answers with 200


class Teams(Channel, frozen=True, kw_only=True, tag="teams"):
    """Posts an Adaptive Card; a webhook cannot edit what it has posted."""

    url: str

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_url(self.url)

    @property
    def target(self) -> str:
        """The URL."""
        return self.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """The URL: whoever has it may post."""
        return url_secrets(self.url)

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """Four requests a second, of which some room is left to others."""
        return (Limit(self.scope, 1, 1.0),)

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return the card in its frame."""
        style = delivery.choose(_STYLES[delivery.alert.severity], "accent", "good")
        return {
            "type": "message",
            "attachments": [
                {
                    "contentType": "application/vnd.microsoft.card.adaptive",
                    "contentUrl": None,
                    "content": _card(delivery.message, style),
                }
            ],
        }

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Post it. 200 and 202 are success, unless the body says that Teams refused it."""
        body = msgspec.json.encode(self.payload(delivery))
        answer = await request("POST", self.url, body, timeout=self.timeout, allow_private=allow_private)
        refused = _FAILED.search(answer.body)
        if answer.status in (200, 202) and refused is None:
            return Receipt(code=answer.status, answer=answer.body, latency=answer.latency)
        if refused is not None:
            raise msgspec.structs.replace(answer, status=int(refused[1])).failure()
        raise answer.failure()


def _card(message: Message, style: str) -> dict[str, Any]:
    title = {
        "type": "TextBlock",
        "text": _escape(message.title, _TITLE),
        "weight": "Bolder",
        "size": "Medium",
        "wrap": True,
    }
    body: list[dict[str, Any]] = [{"type": "Container", "style": style, "bleed": True, "items": [title]}]
    if message.text:
        body.append(_text(message.body(_TITLE), _TEXT))
    facts = [{"title": fact.name, "value": _escape(fact.value, _FACT)} for fact in message.facts]
    body.append({"type": "FactSet", "facts": facts})
    for name, items in (("Labels", message.labels), ("Traces", message.traces)):
        if items:
            body.append(_text(f"{name}: {', '.join(items)}", _LINE, subtle=True))
    body += [_text(notice, _LINE, subtle=True) for notice in message.notices]
    body.append(_text(message.footer, _FACT, subtle=True))
    actions = [{"type": "Action.OpenUrl", "title": "Runbook", "url": message.runbook}] if message.runbook else []
    return {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": body,
        **({"actions": actions} if actions else {}),
    }


def _text(text: str, limit: int, *, subtle: bool = False) -> dict[str, Any]:
    return {"type": "TextBlock", "text": _escape(text, limit), "wrap": True, "isSubtle": subtle}


def _escape(text: str, limit: int) -> str:
    """Escape Markdown, which text blocks and facts understand, and cut."""
    return _MARKUP.sub(r"\\\1", cut(text, limit))
