"""Local servers that behave as Slack, Discord, Telegram, a webhook endpoint and a mail server do."""

from __future__ import annotations

import contextlib
import email
import email.policy
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from inspect import signature
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from aiosmtpd.controller import Controller
from slack_sdk import WebClient
from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block

from tests.servers import free_port

LOCALHOST = "127.0.0.1"


class Reply(msgspec.Struct):
    """What to answer. `cut`: promise more than is sent. `silent`: say nothing until the server stops."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = {}
    cut: bool = False
    silent: bool = False


class Received(msgspec.Struct):
    """A request; `at` is when it came, in seconds of the monotonic clock."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query)


class StandIn:
    """An HTTP server that answers from a script, and as the channel would once the script is over."""

    path = "/hook/secret-part-of-the-address"

    def __init__(self) -> None:
        self.script: deque[Reply] = deque()
        self.requests: list[Received] = []
        self.on_request: Callable[[Received], None] = lambda _: None
        self.answer: Callable[[], Reply | None] = lambda: None
        self._over = threading.Event()
        self._server = ThreadingHTTPServer((LOCALHOST, 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def base(self) -> str:
        return f"http://{LOCALHOST}:{self._server.server_port}"

    @property
    def url(self) -> str:
        return self.base + self.path

    def judge(self, request: Received) -> Reply:
        """Answer as the channel does."""
        return Reply(204)

    def take(self, request: Received) -> Reply:
        self.requests.append(request)
        reply = self.script.popleft() if self.script else self.answer() or self.judge(request)
        self.on_request(request)
        if reply.silent:
            self._over.wait()
        return reply

    @property
    def payloads(self) -> list[Any]:
        return [request.json for request in self.requests]

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = stand_in.take(Received(self.command, self.path, headers, body, time.monotonic()))
            with contextlib.suppress(ConnectionError):  # who asked may be dead by now
                self._give(reply)

        def _give(self, reply: Reply) -> None:
            if reply.silent:
                return
            content = reply.body.encode()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) + (100 if reply.cut else 0)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = _take  # noqa: N815 - names of the standard library

        def log_message(self, *_: object) -> None:
            pass

    return Handler


class Slack(StandIn):
    """An incoming webhook, and the Web API for the bot that is in the channel C1, called ops.

    Judged by slack_sdk (blocks, names of arguments) and the limits of the Block Kit reference. What is posted lies in
    `messages`.
    """

    token = "xoxb-1234567890-secret-of-the-bot"
    channel = "C1"
    names = ("C1", "ops", "#ops")

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Any] = []
        self.uneditable = ""

    @property
    def api(self) -> str:
        return f"{self.base}/api"

    @staticmethod
    def stamp(number: int) -> str:
        """Return the ts of a message."""
        return f"1713.{number:06}"

    def judge(self, request: Received) -> Reply:
        try:
            if request.path.startswith("/api/"):
                return self._call(request.path.removeprefix("/api/"), request)
            check_slack(request.json)
        except (SlackObjectFormationError, AssertionError) as error:
            return Reply(400, f"invalid_blocks {error}")
        self.messages.append(request.json)
        return Reply(200, "ok")

    def _call(self, method: str, request: Received) -> Reply:
        """https://docs.slack.dev/reference/methods/chat.postMessage and chat.update."""
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return slack_refusal("invalid_auth")
        told = request.json
        check_slack(told)
        stamps = [self.stamp(number) for number in range(len(self.messages))]
        if method == "chat.postMessage":
            assert told.keys() <= signature(WebClient.chat_postMessage).parameters.keys()
            if told["channel"] not in self.names:
                return slack_refusal("channel_not_found")
            stamp = self.stamp(len(self.messages))
            self.messages.append(told)
        else:
            assert method == "chat.update"
            assert told.keys() <= signature(WebClient.chat_update).parameters.keys()
            stamp = told["ts"]
            if told["channel"] != self.channel:  # it takes no name
                return slack_refusal("channel_not_found")
            if self.uneditable or stamp not in stamps:
                return slack_refusal(self.uneditable or "message_not_found")
            self.messages[stamps.index(stamp)] = told
        # as Slack does, what is not ASCII is escaped
        return Reply(200, json.dumps({"ok": True, "channel": self.channel, "ts": stamp, "message": told}))


class SlackBot(Slack):
    """The same, of which only the Web API is used."""


def slack_refusal(error: str) -> Reply:
    """Return an error as the Web API words it."""
    return Reply(200, json.dumps({"ok": False, "error": error}))


def check_slack(payload: dict[str, Any]) -> None:
    """Refuse what Slack would: https://docs.slack.dev/reference/block-kit/blocks."""
    assert payload["text"]
    blocks = payload["blocks"]
    assert 1 <= len(blocks) <= 50
    for given, block in zip(blocks, Block.parse_all(blocks), strict=True):
        block.validate_json()
        assert block.to_dict() == given, "nothing of it is unknown to Slack"
        for part in [given.get("text"), *given.get("fields", []), *given.get("elements", [])]:
            if part is not None and part["type"] != "button":
                limit = {"header": 150, "context": 2000}.get(given["type"], 3000 if "fields" not in given else 2000)
                assert 1 <= len(part["text"]) <= limit
                assert part["type"] == "plain_text" or "<!" not in part["text"]
    assert len(json.dumps(blocks, ensure_ascii=False)) < 16_000


class Discord(StandIn):
    """A webhook with the limits of https://discord.com/developers/docs/resources/message#embed-object."""

    path = "/api/webhooks/1234567890/token-of-this-webhook"

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[str, Any] = {}

    def judge(self, request: Received) -> Reply:
        try:
            check_discord(request.json)
        except AssertionError as error:
            return Reply(400, json.dumps({"code": 50035, "message": f"Invalid Form Body {error}"}))
        path = urlsplit(request.path).path
        if not path.startswith(f"/api/v10{self.path.removeprefix('/api')}"):  # without a version it is one that changes
            return Reply(404, json.dumps({"code": 10015, "message": "Unknown Webhook"}))
        if request.method == "PATCH":
            return self._edit(path.rpartition("/")[2], request.json)
        if request.query.get("wait") != ["true"]:
            return Reply(204)
        number = str(1000 + len(self.messages))
        self.messages[number] = request.json
        return Reply(200, json.dumps({"id": number, "type": 0}))

    def _edit(self, number: str, payload: Any) -> Reply:
        if number not in self.messages:
            return Reply(404, json.dumps({"code": 10008, "message": "Unknown Message"}))
        self.messages[number] = payload
        return Reply(200, json.dumps({"id": number, "type": 0}))


def check_discord(payload: dict[str, Any]) -> None:
    """Refuse what Discord would."""
    assert payload["allowed_mentions"] == {"parse": []}
    assert len(payload["embeds"]) <= 10
    total = 0
    for embed in payload["embeds"]:
        texts = [
            (embed["title"], 256),
            (embed["description"], 4096),
            (embed["footer"]["text"], 2048),
            *((field["name"], 256) for field in embed["fields"]),
            *((field["value"], 1024) for field in embed["fields"]),
        ]
        assert len(embed["fields"]) <= 25
        assert all(field["name"] and field["value"] for field in embed["fields"])
        assert all(len(text) <= limit for text, limit in texts)
        assert 0 <= embed["color"] <= 0xFFFFFF
        total += sum(len(text) for text, _ in texts)
    assert total <= 6000


class Telegram(StandIn):
    """The Bot API: sendMessage and editMessageText, with its limits and its HTML."""

    path = ""
    token = "123456:secret-of-the-bot"

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[int, Any] = {}

    def judge(self, request: Received) -> Reply:
        method = request.path.removeprefix(f"/bot{self.token}/")
        if method not in ("sendMessage", "editMessageText"):
            return refusal(401, "Unauthorized")
        told = request.json
        try:
            text = shown(told["text"]) if told.get("parse_mode") == "HTML" else told["text"]
        except AssertionError as error:
            return refusal(400, f"Bad Request: can't parse entities: {error}")
        if not text or len(text.encode("utf-16-le")) // 2 > 4096:
            return refusal(400, "Bad Request: message is too long")
        number = told.get("message_id", 100 + len(self.messages))
        if method == "editMessageText" and number not in self.messages:
            return refusal(400, "Bad Request: message to edit not found")
        self.messages[number] = told
        return Reply(200, json.dumps({"ok": True, "result": {"message_id": number}}))


def refusal(code: int, description: str, **parameters: Any) -> Reply:
    """Return an error as the Bot API words it."""
    body: dict[str, Any] = {"ok": False, "error_code": code, "description": description}
    return Reply(code, json.dumps(body | ({"parameters": parameters} if parameters else {})))


class _Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in ("b", "i", "a", "code", "pre"), f"Unsupported start tag {tag!r}"
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"Unexpected end tag {tag!r}"
        assert self.open.pop() == tag, f"Unmatched end tag {tag!r}"

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(markup: str) -> str:
    """Return a text of Telegram's HTML as people see it."""
    parser = _Markup()
    parser.feed(markup)
    parser.close()
    assert not parser.open, f"Can't find end tag of {parser.open}"
    return parser.text


class Mail(msgspec.Struct):
    """A mail that was accepted."""

    sender: str
    recipients: list[str]
    message: EmailMessage
    content: bytes


class MailServer:
    """aiosmtpd; `refusals` says what it answers to RCPT for an address, the first answer first."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.refusals: dict[str, deque[str]] = {}
        self.port = free_port()
        self._controller = Controller(self, hostname=LOCALHOST, port=self.port)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        answers = self.refusals.get(address)
        if answers:
            return answers.popleft()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append(Mail(envelope.mail_from, envelope.rcpt_tos, message, envelope.content))
        return "250 2.0.0 queued as 4711"


@contextlib.contextmanager
def mail_server() -> Iterator[MailServer]:
    """Run a mail server for the length of the context."""
    server = MailServer()
    server._controller.start()
    try:
        yield server
    finally:
        server._controller.stop()
