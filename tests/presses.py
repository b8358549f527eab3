"""Slack's Socket Mode and Telegram's updates, as their documentation has them, and people who press buttons there."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections import deque
from typing import Any, Self

import aiohttp
from aiohttp import web

from tests import standins
from tests.processes import eventually
from tests.standins import LOCALHOST, Received, Reply

WORKSPACE, APP_TOKEN = "T024BE7LD", "xapp-1-A0123-456-abcdef"
_numbers = itertools.count(1)


class SlackApp(standins.Slack):
    """An app with Socket Mode: https://docs.slack.dev/apis/events-api/using-socket-mode.

    A response_url replaces one of `messages`, or shows something to one person (`whispers`).
    """

    path = f"/services/{WORKSPACE}/B01/secret-part-of-the-address"

    def __init__(self) -> None:
        super().__init__()
        self.whispers: list[str] = []
        self.acknowledged: list[str] = []
        self.opened = 0
        self.refusals: deque[Reply] = deque()
        self.lent: dict[str, int] = {}
        self.expired = False
        self._loop = asyncio.new_event_loop()
        self._sockets: list[web.WebSocketResponse] = []
        self._socket_port = 0
        self._own = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def notify(self) -> str:
        return f'{{type: slack, url: "{self.url}", api: "{self.api}", app_token: {APP_TOKEN}, rate: 100/s}}'

    @property
    def notify_as_bot(self) -> str:
        bot = f"token: {self.token}, channel: ops, workspace: {WORKSPACE}"
        return f'{{type: slack, {bot}, api: "{self.api}", app_token: {APP_TOKEN}, rate: 100/s}}'

    def __enter__(self) -> Self:
        self._own.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._own.join()
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/link", self._link)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOCALHOST, 0)
        await site.start()
        self._socket_port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def _link(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        hello = {"type": "hello", "num_connections": len(self._sockets) + 1, "connection_info": {"app_id": "A0123"}}
        await socket.send_json({**hello, "debug_info": {"host": "applink-1", "approximate_connection_time": 18060}})
        self._sockets.append(socket)
        async for message in socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.acknowledged.append(json.loads(message.data)["envelope_id"])
        self._sockets.remove(socket)
        return socket

    @property
    def connections(self) -> int:
        return len(self._sockets)

    def judge(self, request: Received) -> Reply:
        if request.path.endswith("/apps.connections.open"):
            return self._open(request)
        if request.path.startswith("/actions/"):
            return self._respond(request)
        return super().judge(request)

    def _open(self, request: Received) -> Reply:
        if self.refusals:
            return self.refusals.popleft()
        if request.headers.get("authorization") != f"Bearer {APP_TOKEN}":
            return Reply(200, json.dumps({"ok": False, "error": "invalid_auth"}))
        self.opened += 1
        return Reply(200, self.ticket("/link"))

    def ticket(self, path: str) -> str:
        """Return the answer that gives the address of a connection."""
        address = f"ws://{LOCALHOST}:{self._socket_port}{path}?ticket=s3cret&app_id=2"
        return json.dumps({"ok": True, "url": address})

    def _respond(self, request: Received) -> Reply:
        told = request.json
        if self.expired or request.path not in self.lent:
            return Reply(404, json.dumps({"ok": False, "error": "expired_url"}))
        if told.get("response_type") == "ephemeral":
            self.whispers.append(told["text"])
            return Reply(200, "ok")
        assert told["replace_original"] is True
        standins.check_slack(told)
        self.messages[self.lent[request.path]] = told
        return Reply(200, "ok")

    def button(self, number: int = -1) -> dict[str, Any] | None:
        """Return the button under a message."""
        rows = [block for block in self.messages[number]["blocks"] if block["type"] == "actions"]
        return rows[0]["elements"][0] if rows else None

    def press(self, number: int = -1, *, by: str = "ada", value: str | None = None, **payload: Any) -> dict[str, Any]:
        """Let somebody press the button under a message; return the envelope that Slack sends."""
        index = number % len(self.messages)
        response_url = f"/actions/{WORKSPACE}/{next(_numbers)}"
        self.lent[response_url] = index
        button = self.button(number)
        assert button is not None
        stamp = f"1714.{next(_numbers)}"
        envelope = {
            "envelope_id": f"envelope-{next(_numbers)}",
            "type": "interactive",
            "accepts_response_payload": True,
            "payload": {
                "type": "block_actions",
                "user": {"id": f"U{by}", "username": by, "name": by, "team_id": WORKSPACE},
                "api_app_id": "A0123",
                "token": "verification",
                "container": {"type": "message", "message_ts": self.stamp(index), "channel_id": "C1"},
                "trigger_id": "1.2.3",
                "team": {"id": WORKSPACE, "domain": "example"},
                "enterprise": None,
                "is_enterprise_install": False,
                "channel": {"id": "C1", "name": "ops"},
                "message": {"type": "message", "ts": self.stamp(index), "text": "..."},
                "response_url": self.base + response_url,
                "actions": [{**button, "value": value or button["value"], "block_id": "b1", "action_ts": stamp}],
                **payload,
            },
        }
        self.send(envelope)
        return envelope

    def send(self, envelope: dict[str, Any]) -> None:
        """Send an envelope over one of the connections, as Slack picks any."""
        eventually(lambda: self.connections > 0)
        asyncio.run_coroutine_threadsafe(self._sockets[0].send_json(envelope), self._loop).result()

    def disconnect(self, reason: str) -> None:
        """Say that a connection ends soon; `close` ends it."""
        self.send({"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-1"}})

    def close(self) -> None:
        """End the oldest connection."""
        asyncio.run_coroutine_threadsafe(self._sockets[0].close(), self._loop).result()


class TelegramBot(standins.Telegram):
    """A bot whose updates are asked for: https://core.telegram.org/bots/api#getting-updates."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, str] = {}
        self.conflicts = 0
        self.moved_to: str | None = None
        self._polls = 0
        self._told_last: list[dict[str, Any]] = []
        self._forgetful = False
        self._waiting: list[dict[str, Any]] = []
        self._changed = threading.Condition()

    @property
    def notify(self) -> str:
        return (
            f'{{type: telegram, token: "{self.token}", chat_id: "42", api: "{self.base}", buttons: true, rate: 100/s}}'
        )

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._over.set()
            self._changed.notify_all()
        super().__exit__()

    def judge(self, request: Received) -> Reply:
        method = request.path.rpartition("/")[2]
        if method == "getUpdates":
            return self._get_updates(request.json)
        if method == "answerCallbackQuery":
            assert len(request.json["text"]) <= 200
            self.answers[request.json["callback_query_id"]] = request.json["text"]
            return Reply(200, '{"ok": true, "result": true}')
        if self.moved_to and request.json["chat_id"] != self.moved_to:
            upgraded = "Bad Request: group chat was upgraded to a supergroup chat"
            return standins.refusal(400, upgraded, migrate_to_chat_id=int(self.moved_to))
        for row in request.json.get("reply_markup", {}).get("inline_keyboard", []):
            assert all(1 <= len(one["callback_data"].encode()) <= 64 and one["text"] for one in row)
        return super().judge(request)

    def _get_updates(self, told: dict[str, Any]) -> Reply:
        assert told["allowed_updates"] == ["callback_query"]
        with self._changed:
            self._polls += 1
            mine = self._polls
            self._changed.notify_all()
            if not self._forgetful:
                self._waiting = [one for one in self._waiting if one["update_id"] >= told.get("offset", 0)]
            enough = lambda: self._waiting or self._over.is_set() or self._polls != mine  # noqa: E731
            self._changed.wait_for(enough, timeout=told["timeout"])
            if self._polls != mine:  # the older of two is told so
                self.conflicts += 1
                return standins.refusal(409, "Conflict: terminated by other getUpdates request")
            self._forgetful = False
            found = self._waiting[: told["limit"]]
            self._told_last = found or self._told_last
        return Reply(200, json.dumps({"ok": True, "result": found}))

    def keyboard(self, number: int) -> dict[str, Any] | None:
        """Return the button under a message."""
        rows = self.messages[number].get("reply_markup", {}).get("inline_keyboard")
        return rows[0][0] if rows else None

    def press(self, number: int = 100, *, chat: int = 42, data: str | None = None, **sender: Any) -> str:
        """Let somebody press the button under a message; return the id of the query."""
        button = self.keyboard(number)
        query = f"query-{next(_numbers)}"
        told = {
            "id": query,
            "from": {"id": 7, "is_bot": False, "first_name": "Ada", "username": "ada", **sender},
            "message": {"message_id": number, "date": 1, "chat": {"id": chat, "type": "private"}, "text": "..."},
            "chat_instance": "1",
            "data": data or (button or {})["callback_data"],
        }
        with self._changed:
            self._waiting.append({"update_id": next(_numbers), "callback_query": told})
            self._changed.notify_all()
        return query

    def repeat(self) -> None:
        """Tell the last updates once more, as to somebody who does not know what was confirmed."""
        with self._changed:
            self._forgetful = True
            self._waiting = [*self._told_last, *self._waiting]
            self._changed.notify_all()

    @property
    def is_asked(self) -> bool:
        """Whether anybody has asked for updates yet."""
        return self._polls > 0

    @property
    def unconfirmed(self) -> int:
        return len(self._waiting)
