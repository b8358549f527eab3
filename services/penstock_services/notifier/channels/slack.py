"""Slack, through an incoming webhook or as a bot.

Rules: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks (answers), block-kit reference
(limits), "Formatting message text" (escaping). A webhook cannot edit what it has posted; whoever presses a button
under a message lends us a response_url that can, for 30 minutes and 5 times
(https://docs.slack.dev/interactivity/handling-user-interaction). A bot can edit its own messages:
https://docs.slack.dev/reference/methods/chat.postMessage and chat.update (errors, which come with status 200),
https://docs.slack.dev/apis/web-api/rate-limits (429).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from penstock.redaction import forms
from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt, checked_url
from penstock_services.notifier.channels.credentials import url_secrets
from penstock_services.notifier.channels.wire import Answer, SendFailed, request
from penstock_services.notifier.message.button import Button
from penstock_services.notifier.message.message import Message
from penstock_services.notifier.message.text import cut

_HEADER, _SECTION, _FIELD, _CONTEXT, _FIELDS = 150, 3_000, 2_000, 2_000, 10
_FALLBACK = 300
_LINK = 2_000
_GONE = re.compile(r"no_service|no_active_hooks|no_team|team_disabled|invalid_token")  # whole hook, not one message
_TOKEN_GONE = frozenset(("invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"))
_NOT_EDITABLE = frozenset(  # only the message is at fault, or where it lies: a name may have got another channel since
    ("message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found", "is_inactive")
)
_TRANSIENT = frozenset(
    (
        "ratelimited",
        "rate_limited",
        "fatal_error",
        "internal_error",
        "service_unavailable",
        "request_timeout",
        "update_failed",
        "external_channel_migrating",
        "org_login_required",
        "team_added_to_org",
    )
)
_REMEDIES = {
    "not_in_channel": "invite the bot to the channel, or give the app the scope chat:write.public",
    "channel_not_found": "give its id (C...), and invite the bot if the channel is private",
    "is_archived": "bring the channel back, or name another",
    "missing_scope": "the app needs the scope chat:write",
}
_BOT_CHANNEL = re.compile(r"#?[^\s#]+")
_MOST_ANSWER = 1_000_000  # bytes; it repeats the message, with what is not ASCII as \u escapes
_OK = re.compile(r'\s*\{\s*"ok"\s*:\s*true\b')

WEB_API = "https://slack.com/api"
BUTTON = "penstock"
"""The action_id of our buttons."""
_WORKSPACE = re.compile(r"/services/([TE][A-Z0-9]+)/")


class Slack(Channel, frozen=True, kw_only=True, tag="slack"):
    """Posts blocks, to the `url` of an incoming webhook or as the bot with `token` to `channel`; a bot edits then.

    With an `app_token` there are buttons, heard by Socket Mode. `channel` is an id or a name. `workspace` is the id of
    the one whose presses count; by default it is that of the webhook. `api` is the base URL of the Web API, which is
    another one for GovSlack.
    """

    url: str | None = None
    token: str | None = None
    channel: str | None = None
    app_token: str | None = None
    workspace: str = ""
    api: str = WEB_API

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_url(self.api)
        self._check_address()
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
                f"workspace: the {'URL' if self.token is None else 'token'} does not tell it; give the id of the one "
                "whose presses count, such as T0123ABCD"
            )

    def _check_address(self) -> None:
        if (self.url is None) == (self.token is None):
            raise ValueError(
                f"{'url or token is missing' if self.url is None else 'url and token are two ways'}; give one of them: "
                "the url of an incoming webhook, or the token (xoxb-...) of a bot and its channel, to edit messages"
            )
        if self.url is not None:
            checked_url(self.url)
            if self.channel is not None:
                raise ValueError("channel: goes with token; a webhook has a channel of its own, so take it away")
            return
        if not (self.token or "").startswith("xoxb-"):
            raise ValueError(
                "token: expected a bot token (xoxb-...), from OAuth & Permissions of the app, with the scope "
                "chat:write; the app-level token (xapp-...) for buttons goes under app_token"
            )
        if not _BOT_CHANNEL.fullmatch(self.channel or ""):
            raise ValueError(
                "channel: expected the id (C...) or the name of the one that the bot posts to; a # wants quotes"
            )

    @property
    def whose(self) -> str:
        """The id of the workspace whose presses count, empty if it is not known."""
        found = _WORKSPACE.search(self.url or "")
        return self.workspace or (found[1] if found else "")

    @property
    def presses(self) -> str | None:
        """The workspace."""
        return None if self.app_token is None else f"workspace {self.whose}"

    @property
    def target(self) -> str:
        """The URL, or bot and channel."""
        return self.url or f"{self.token}/{self.channel}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The URL, for whoever has it may post, and the tokens."""
        return (*url_secrets(self.url or ""), *forms((self.token, self.app_token)))

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """Slack allows about one message a second in a channel."""
        return (Limit(self.scope, 1, 1.0),)

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return the text for notifications and the blocks, and what else chat.postMessage takes."""
        message = delivery.message
        button = delivery.button if self.app_token is not None else None
        blocks = _blocks(message) + ([_actions(delivery.channel, button)] if button else [])
        told: dict[str, Any] = {"text": escape(message.title, _FALLBACK), "blocks": blocks}
        # parse: of itself chat.update, unlike chat.postMessage, would make links of what looks like one
        return told if self.token is None else {"channel": self.channel, **told, "parse": "none"}

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Edit the alert's message if there is one and we can, else post one."""
        if self.token is not None:
            return await self._send_as_bot(delivery, allow_private)
        return await self._send_to_webhook(self.url or "", delivery, allow_private)

    async def _send_as_bot(self, delivery: Delivery, allow_private: bool) -> Receipt:
        """Edit the alert's message if there is one, else post one; what is refused comes with 200, too."""
        why = ""
        sent = self._sent(delivery.previous)
        if sent is not None:
            answer = await self._call("chat.update", {**self.payload(delivery), **sent}, allow_private)
            if _done(answer):
                return Receipt(code=200, answer="edited", latency=answer.latency, reference=delivery.previous)
            if _error(answer) not in _NOT_EDITABLE:
                raise _failure(answer)
            why = f", for one that cannot be edited: {_error(answer)}"
            delivery = delivery.anew()
        answer = await self._call("chat.postMessage", self.payload(delivery), allow_private)
        if not _done(answer):
            raise _failure(answer)
        said = answer.json()
        place, number = said.get("channel"), said.get("ts")
        return Receipt(
            code=200,
            answer=f"message {number}{why}",
            latency=answer.latency,
            reference=f"{self.channel} {place} {number}" if place and number else None,
        )

    def _sent(self, reference: str | None) -> dict[str, str] | None:
        """Return where chat.update finds a message, by the id of its channel: it takes no name.

        None if the message was not posted by a bot, or notify.yaml names another channel by now.
        """
        configured, *found = (reference or "").split(" ")
        return (
            dict(zip(("channel", "ts"), found, strict=True)) if configured == self.channel and len(found) == 2 else None
        )

    async def _call(self, method: str, told: dict[str, Any], allow_private: bool) -> Answer:
        return await request(
            "POST",
            f"{self.api.rstrip('/')}/{method}",
            msgspec.json.encode(told),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json; charset=utf-8"},
            timeout=self.timeout,
            allow_private=allow_private,
            most=_MOST_ANSWER,
        )

    async def _send_to_webhook(self, url: str, delivery: Delivery, allow_private: bool) -> Receipt:
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
        answer = await self._post(url, told, allow_private)
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


def _done(answer: Answer) -> bool:
    """Whether the Web API has done it: the status does not say, and an answer that broke off says it at its start."""
    return answer.status == 200 and (answer.json().get("ok") is True or _OK.match(answer.body) is not None)


def _error(answer: Answer) -> str:
    """Return what the Web API calls the error, empty if it is none of its answers."""
    return str(answer.json().get("error", ""))


def _failure(answer: Answer) -> SendFailed:
    """Return the error for an answer of the Web API that is no success."""
    error = _error(answer)
    if error in _TOKEN_GONE:
        return answer.refused(f"Slack does not take the token: {error}", gone=True)
    if answer.status == 200 and error and error not in _TRANSIENT:
        return answer.refused("; ".join(filter(None, (f"Slack says {error}", _REMEDIES.get(error)))))
    return answer.failure()


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
