"""Slack, through an incoming webhook.

Rules: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (answers), block-kit reference
(limits), "Formatting message text" (escaping). A webhook cannot edit what it has posted.
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

_HEADER, _SECTION, _FIELD, _CONTEXT, _FIELDS = 150, 3_000, 2_000, 2_000, 10
_FALLBACK = 300
_LINK = 2_000
_GONE = re.compile(r"no_service|no_active_hooks|no_team|team_disabled|invalid_token")  # whole hook, not one message


class Slack(Channel, frozen=True, kw_only=True, tag="slack"):
    """Posts blocks to an incoming webhook."""

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
        """Slack allows about one message a second."""
        return (Limit(self.scope, 1, 1.0),)

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return the text for notifications and the blocks."""
        message = delivery.message
        return {"text": escape(message.title, _FALLBACK), "blocks": _blocks(message)}

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Post it. Only 200 with the body `ok` is success; every 4xx but 429 is final."""
        answer = await request(
            "POST",
            self.url,
            msgspec.json.encode(self.payload(delivery)),
            timeout=self.timeout,
            allow_private=allow_private,
        )
        if answer.status == 200 and (answer.body.strip() == "ok" or not (answer.complete or answer.body)):
            return Receipt(code=200, answer="ok", latency=answer.latency)
        if 400 <= answer.status < 500 and _GONE.search(answer.body):
            raise answer.refused(gone=True)
        raise answer.failure()


def escape(text: str, limit: int) -> str:
    """Escape what Slack reads as markup, which also takes the life out of <!channel> and <@U...>, and cut."""
    return _escaped(cut(text, limit, measure=lambda part: len(_escaped(part))))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _blocks(message: Message) -> list[dict[str, Any]]:
    header = {"type": "plain_text", "text": escape(message.title, _HEADER), "emoji": True}
    blocks: list[dict[str, Any]] = [{"type": "header", "text": header}]
    if message.text:
        blocks.append({"type": "section", "text": _mrkdwn(escape(message.body(_HEADER), _SECTION))})
    fields = [_mrkdwn(f"*{escape(fact.name, 100)}*\n{escape(fact.value, _FIELD - 150)}") for fact in message.facts]
    if fields:
        blocks.append({"type": "section", "fields": fields[:_FIELDS]})
    for name, items in (("Labels", message.labels), ("Traces", message.traces)):
        if items:
            blocks.append(_context(f"*{name}*  {escape('  ·  '.join(items), _CONTEXT - 50)}"))
    if message.runbook and len(link := _link(message.runbook, "Runbook")) <= _LINK:
        blocks.append({"type": "section", "text": _mrkdwn(f":book: {link}")})
    blocks += [_context(escape(notice, _CONTEXT)) for notice in message.notices]
    blocks.append(_context(escape(message.footer, _CONTEXT)))
    return blocks


def _mrkdwn(text: str) -> dict[str, Any]:
    # verbatim: no bare URL, #channel or @name in an alert's text turns into a link or a ping.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _context(text: str) -> dict[str, Any]:
    return {"type": "context", "elements": [_mrkdwn(text)]}


def _link(url: str, text: str) -> str:
    return f"<{_escaped(url).replace('|', '%7C')}|{text}>"
