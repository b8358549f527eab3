"""Slack, through an incoming webhook.

Rules: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (answers), block-kit reference
(limits), "Formatting message text" (escaping). A webhook cannot edit what it has posted; whoever presses a button
under a message lends us a response_url that can, for 30 minutes and 5 times
(https://docs.slack.dev/interactivity/handling-user-interaction).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt, checked_url
from penstock_services.notifier.channels.credentials import forms, url_secrets
from penstock_services.notifier.channels.wire import Answer, request
from penstock_services.notifier.message.button import Button
from penstock_services.notifier.message.message import Message
from penstock_services.notifier.message.text import cut

_HEADER, _SECTION, _FIELD, _CONTEXT, _FIELDS = 150, 3_000, 2_000, 2_000, 10
_FALLBACK = 300
_LINK = 2_000
_GONE = re.compile(r"no_service|no_active_hooks|no_team|team_disabled|invalid_token")  # whole hook, not one message


WEB_API = "https://slack.com/api"
BUTTON = "penstock"
"""The action_id of our buttons."""
_WORKSPACE = re.compile(r"/services/([TE][A-Z0-9]+)/")


class Slack(Channel, frozen=True, kw_only=True, tag="slack"):
    """Posts blocks to an incoming webhook; with an `app_token` there are buttons, heard by Socket Mode.

    `workspace` is the id of the one whose presses count; by default it is that of the webhook. `api` is the base URL
    of the Web API, which is another one for GovSlack.
    """

    url: str
    app_token: str | None = None
    workspace: str = ""
    api: str = WEB_API

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_url(self.url)
        checked_url(self.api)
        if self.app_token is None:
            if self.workspace:
                raise ValueError(
                    "workspace: is for buttons, and without app_token there are none; give both or neither"
                )
            return
        if not self.app_token.startswith("xapp-"):
            raise ValueError(
                "app_token: expected an app-level token (xapp-...), from Basic Information > App-Level Tokens of the "
                "app, with the scope connections:write; a bot token is another one"
            )
        if not self.whose:
            raise ValueError(
                "workspace: the URL does not tell it; give the id of the one whose presses count, such as T0123ABCD"
            )

    @property
    def whose(self) -> str:
        """The id of the workspace whose presses count, empty if it is not known."""
        found = _WORKSPACE.search(self.url)
        return self.workspace or (found[1] if found else "")

    @property
    def presses(self) -> str | None:
        """The workspace."""
        return None if self.app_token is None else f"workspace {self.whose}"

    @property
    def target(self) -> str:
        """The URL."""
        return self.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """The URL: whoever has it may post."""
        return (*url_secrets(self.url), *forms((self.app_token,)))

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """Slack allows about one message a second."""
        return (Limit(self.scope, 1, 1.0),)

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return the text for notifications and the blocks."""
        message = delivery.message
        button = delivery.button if self.app_token is not None else None
        blocks = _blocks(message) + ([_actions(delivery.channel, button)] if button else [])
        return {"text": escape(message.title, _FALLBACK), "blocks": blocks}

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Replace the message under which somebody pressed a button lately, else post one.

        Only 200 with the body `ok` is success; every 4xx but 429 is final.
        """
        told = self.payload(delivery)
        edit = edit_url(delivery.previous, delivery.alert.since)
        if edit is not None:
            answer = await self._post(edit, {"replace_original": True, **told}, allow_private)
            if _ok(answer):
                return Receipt(code=200, answer="edited", latency=answer.latency, reference=delivery.previous)
            if not 400 <= answer.status < 500 or answer.status == 429:
                raise answer.failure()
        answer = await self._post(self.url, told, allow_private)
        if _ok(answer):
            return Receipt(code=200, answer="ok", latency=answer.latency)
        if 400 <= answer.status < 500 and _GONE.search(answer.body):
            raise answer.refused(gone=True)
        raise answer.failure()

    async def answer_press(self, answer_to: str, text: str, *, allow_private: bool) -> None:
        """Show a text to whoever pressed, and to nobody else."""
        told = {"response_type": "ephemeral", "replace_original": False, "text": escape(text, _SECTION)}
        answer = await self._post(answer_to, told, allow_private)
        if not _ok(answer):
            raise answer.failure()

    async def _post(self, url: str, told: dict[str, Any], allow_private: bool) -> Answer:
        body = msgspec.json.encode(told)
        return await request("POST", url, body, timeout=self.timeout, allow_private=allow_private)


def edit_reference(response_url: str, since: str) -> str:
    """Return what stands for a message of an episode that can be replaced by way of a response_url."""
    return f"{since} {response_url}"


def edit_url(reference: str | None, since: str) -> str | None:
    """Return where to replace a message, None if that is of another episode or cannot be replaced."""
    began, _, url = (reference or "").partition(" ")
    return url if url and began == since else None


def _ok(answer: Answer) -> bool:
    return answer.status == 200 and (answer.body.strip() == "ok" or not (answer.complete or answer.body))


def _actions(channel: str, button: Button) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "type": "button",
        "text": {"type": "plain_text", "text": button.label, "emoji": True},
        "action_id": BUTTON,
        "value": f"{channel} {button.encode()}",
    }
    return {"type": "actions", "elements": [{**shown, "style": "primary"} if button.action == "ack" else shown]}


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
