"""Telegram's presses, by long polling: we ask for them, so that no address of ours need be public.

Rules: https://core.telegram.org/bots/api (getUpdates, CallbackQuery). Telegram keeps what is not confirmed for a day;
asking for updates beyond one confirms it.
"""

from __future__ import annotations

import asyncio

import msgspec

from penstock.errors import UNREADABLE
from penstock.keys import Keys
from penstock.mesh.deliveries import SERVICE
from penstock.redis.connection import unavailable
from penstock.service.runtime import Runtime
from penstock_services.notifier.buttons.listener import FOREIGN, UNKNOWN, Listener
from penstock_services.notifier.channels import Telegram
from penstock_services.notifier.channels.telegram import failure, is_ok
from penstock_services.notifier.channels.wire import SendFailed, request
from penstock_services.notifier.delivery.deliver import MOVED
from penstock_services.notifier.message.button import Button
from penstock_services.notifier.reload import LiveConfig

_POLL = 25  # seconds that Telegram waits for something to tell
_MOST_UPDATES = 20
_MOST_BODY = 2_000_000  # bytes; each update carries the message that was under the button
_REDIS_AWAY = 1.0  # seconds


class _User(msgspec.Struct):
    id: int
    first_name: str = ""
    last_name: str = ""
    username: str = ""


class _Chat(msgspec.Struct):
    id: int
    username: str = ""

    @property
    def names(self) -> set[str]:
        """All that notify.yaml may call it."""
        return {str(self.id), f"@{self.username}".lower()}


class _Message(msgspec.Struct):
    chat: _Chat


class _Query(msgspec.Struct):
    """A CallbackQuery. `message` is absent where the button came from inline mode, which is not ours."""

    id: str
    sender: _User = msgspec.field(name="from")
    message: _Message | None = None
    data: str = ""

    @property
    def who(self) -> str:
        """The name that Telegram keeps unique, or else one that anybody may bear, with the number behind it."""
        if self.sender.username:
            return f"@{self.sender.username}"
        return f"{self.sender.first_name} {self.sender.last_name}".strip() + f" ({self.sender.id})"


class _Update(msgspec.Struct):
    update_id: int
    callback_query: _Query | None = None


class Updates(msgspec.Struct):
    """What of an answer of getUpdates matters here."""

    result: list[_Update]


class TelegramUpdates(Listener):
    """Listens to one bot."""

    def __init__(self, live: LiveConfig, runtime: Runtime, name: str, channel: Telegram) -> None:
        super().__init__(live, runtime, name, channel)
        self._channel = channel
        self._redis, self._keys = runtime.redis, Keys(runtime.settings.prefix)
        self._next: int | None = None

    async def listen(self) -> None:
        """Ask for updates, one question after the other."""
        while True:
            try:
                updates = await self._ask()
            except SendFailed as error:
                await asyncio.sleep(self.failed(error.reason, after=error.after))
                continue
            self.heard()
            for update in updates:
                if update.callback_query is not None and not await self.take(update.callback_query):
                    await asyncio.sleep(_REDIS_AWAY)
                    break
                self._next = update.update_id + 1

    async def _ask(self) -> list[_Update]:
        told = {"timeout": _POLL, "limit": _MOST_UPDATES, "allowed_updates": ["callback_query"]}
        if self._next is not None:
            told["offset"] = self._next
        answer = await request(
            "POST",
            self._channel.method("getUpdates"),
            msgspec.json.encode(told),
            timeout=_POLL + self._channel.timeout,
            allow_private=self.allow_private,
            most=_MOST_BODY,
        )
        if answer.status == 409:
            raise answer.failed(
                f"{answer.json().get('description')}; the bot of channels.{self.name} has to be Penstock's alone: no "
                "other program may read its updates, and deleteWebhook removes a webhook"
            )
        if not is_ok(answer):
            raise failure(answer)
        try:
            return msgspec.json.decode(answer.body, type=Updates).result
        except UNREADABLE:
            raise answer.failed("Telegram's answer is none, or too long") from None

    async def take(self, query: _Query) -> bool:
        """Put a press on its way; False if Redis is away, and it has to come again."""
        chat = query.message.chat if query.message is not None else None
        try:
            name = None if chat is None else await self._channel_of(chat)
        except Exception as error:
            if unavailable(error) is None:
                raise
            return False
        button = Button.decode(query.data)
        if name is None or button is None:
            text = FOREIGN if name is None else UNKNOWN
            await self.refuse(query.id, text, by=query.who, where=f"chat {chat.id}" if chat else "inline")
            return True
        return await self.publish(name, button, by=query.who, answer_to=query.id, press_id=query.id)

    async def _channel_of(self, chat: _Chat) -> str | None:
        """Return the channel whose chat this is, as configured or where Telegram says it has moved to."""
        for name, channel in self.config.channels.items():
            if not isinstance(channel, Telegram) or not channel.buttons or channel.token != self._channel.token:
                continue
            if channel.chat_id.lower() in chat.names:
                return name
            moved_to = await self._redis.hget(self._keys.state(SERVICE, MOVED), channel.scope)
            if moved_to is not None and moved_to.decode() in chat.names:
                return name
        return None
