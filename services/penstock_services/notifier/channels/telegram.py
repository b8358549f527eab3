"""Telegram, through a bot.

Rules: https://core.telegram.org/bots/api (sendMessage, editMessageText, answerCallbackQuery, ResponseParameters,
HTML style) and https://core.telegram.org/bots/faq (limits).
"""

from __future__ import annotations

import html
from typing import Any, NamedTuple

import msgspec

from penstock.net import seconds
from penstock.redaction import forms
from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt, checked_url
from penstock_services.notifier.channels.wire import Answer, SendFailed, request
from penstock_services.notifier.message.message import Message
from penstock_services.notifier.message.text import cut, utf16_units

BOT_API = "https://api.telegram.org"
_MOST = 4_096  # UTF-16 units, counted after the markup is read
_TITLE, _LINE, _NOTICE = 256, 600, 400
_LINK = 1_000
_ANSWER = 200


class Telegram(Channel, frozen=True, kw_only=True, tag="telegram"):
    """Sends a message to a chat; what follows about the alert edits it.

    `api` is the base URL of a Bot API server of one's own. `topic` is the id of a forum topic. With `buttons` the
    bot's updates are read (getUpdates), which nobody else may do then.
    """

    token: str
    chat_id: str
    topic: int | None = None
    api: str = BOT_API
    buttons: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_url(self.api)
        if not self.token or not self.chat_id:
            raise ValueError("token and chat_id must not be empty; @BotFather gives the token")

    @property
    def target(self) -> str:
        """Bot and chat."""
        return f"{self.token}/{self.chat_id}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The token, which stands in every URL."""
        return forms((self.token, self.token.partition(":")[2]))

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """One message a second to a chat, 20 a minute to a group, 30 a second in all."""
        group = self.chat_id.startswith(("-", "@"))
        chat = Limit(self.scope, 20, 60.0) if group else Limit(self.scope, 1, 1.0)
        return (chat, Limit(_bot(self.token), 30, 1.0))

    @property
    def presses(self) -> str | None:
        """The chat."""
        return f"chat {self.chat_id}" if self.buttons else None

    def method(self, name: str) -> str:
        """Return the URL of a method of the Bot API."""
        return f"{self.api.rstrip('/')}/bot{self.token}/{name}"

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return what sendMessage takes."""
        told: dict[str, Any] = {
            "chat_id": delivery.moved_to or self.chat_id,
            "text": _markup(delivery.message),
            "parse_mode": "HTML",
            "link_preview_options": {"is_disabled": True},
        }
        button = delivery.button if self.buttons else None
        if button is not None:  # an edit without it takes it away
            shown = {"text": button.label, "callback_data": button.encode()}
            told["reply_markup"] = {"inline_keyboard": [[shown]]}
        return told if self.topic is None else {**told, "message_thread_id": self.topic}

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Edit the alert's message if there is one, else send one."""
        told = self.payload(delivery)
        if delivery.previous:
            told_anew = {key: value for key, value in told.items() if key != "message_thread_id"}
            edit = {**told_anew, "message_id": int(delivery.previous)}
            answer = await self._call("editMessageText", edit, delivery.message, allow_private)
            if is_ok(answer) or "message is not modified" in answer.body:
                return Receipt(code=answer.status, answer="edited", latency=answer.latency, reference=delivery.previous)
            if answer.status != 400:
                raise failure(answer)
            delivery = delivery.anew()
            told = self.payload(delivery)
        return await self._send(told, delivery.message, allow_private)

    async def _send(self, told: dict[str, Any], message: Message, allow_private: bool) -> Receipt:
        answer = await self._call("sendMessage", told, message, allow_private)
        moved_to = _parameters(answer).get("migrate_to_chat_id")
        if moved_to is not None:  # the group became a supergroup
            answer = await self._call("sendMessage", {**told, "chat_id": str(moved_to)}, message, allow_private)
        if not is_ok(answer):
            raise failure(answer)
        number = answer.json().get("result", {}).get("message_id")
        return Receipt(
            code=answer.status,
            answer=f"message {number}",
            latency=answer.latency,
            reference=None if number is None else str(number),
            moved_to=None if moved_to is None else str(moved_to),
        )

    async def answer_press(self, answer_to: str, text: str, *, allow_private: bool) -> None:
        """Show a text above the chat to whoever pressed."""
        told = {"callback_query_id": answer_to, "text": cut(text, _ANSWER, measure=utf16_units)}
        answer = await self._post(self.method("answerCallbackQuery"), told, allow_private)
        if not is_ok(answer):
            raise failure(answer)

    async def _call(self, method: str, told: dict[str, Any], message: Message, allow_private: bool) -> Answer:
        """Call a method of the Bot API; should Telegram not understand our markup, once more as plain text."""
        url = self.method(method)
        answer = await self._post(url, told, allow_private)
        if answer.status == 400 and "can't parse entities" in answer.body:
            plain = {**told, "text": _plain(message)}
            del plain["parse_mode"]
            answer = await self._post(url, plain, allow_private)
        return answer

    async def _post(self, url: str, told: dict[str, Any], allow_private: bool) -> Answer:
        body = msgspec.json.encode(told)
        return await request("POST", url, body, timeout=self.timeout, allow_private=allow_private)


class _Piece(NamedTuple):
    """A paragraph and the markup around it."""

    text: str
    before: str = ""
    after: str = ""
    name: str = ""


def _pieces(message: Message) -> list[_Piece]:
    """Return the paragraphs; the body gets the room that the others leave."""
    title = _Piece(cut(message.title, _TITLE, measure=utf16_units), "<b>", "</b>\n\n")
    rest = [_Piece(cut(fact.value, _LINE, measure=utf16_units), after="\n", name=fact.name) for fact in message.facts]
    for name, items in (("Labels", message.labels), ("Traces", message.traces)):
        if items:
            rest.append(_Piece(cut(" · ".join(items), _LINE, measure=utf16_units), after="\n", name=name))
    if message.runbook and len(message.runbook) <= _LINK:
        rest.append(_Piece(message.runbook, after="\n", name="Runbook"))
    rest += [_Piece(cut(notice, _NOTICE, measure=utf16_units), "<i>", "</i>\n") for notice in message.notices]
    room = _MOST - sum(utf16_units(_shown(piece)) for piece in (title, *rest)) - len("\n\n")
    return [title, _Piece(cut(message.body(_TITLE), room, measure=utf16_units), after="\n\n"), *rest]


def _shown(piece: _Piece) -> str:
    return (f"{piece.name}: " if piece.name else "") + piece.text + piece.after[piece.after.find("\n") :]


def _markup(message: Message) -> str:
    return "".join(
        (f"<b>{piece.name}:</b> " if piece.name else "")
        + piece.before
        + html.escape(piece.text, quote=False)
        + piece.after
        for piece in _pieces(message)
    ).rstrip()


def _plain(message: Message) -> str:
    return "".join(_shown(piece) for piece in _pieces(message)).rstrip()


def is_ok(answer: Answer) -> bool:
    """Whether the Bot API has done it."""
    return answer.json().get("ok") is True or (answer.status == 200 and not answer.complete)


def _parameters(answer: Answer) -> dict[str, Any]:
    found = answer.json().get("parameters")
    return found if isinstance(found, dict) else {}


def failure(answer: Answer) -> SendFailed:
    """Return the error for an answer of the Bot API that is no success."""
    if answer.status in (401, 404):
        return answer.refused(gone=True)  # no bot has this token
    return answer.failure(after=seconds(_parameters(answer).get("retry_after")))


def _bot(token: str) -> str:
    """Name the bot by its public number."""
    return f"telegram:{token.partition(':')[0]}"
