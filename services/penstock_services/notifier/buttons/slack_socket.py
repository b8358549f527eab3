"""Slack's presses, by Socket Mode: a WebSocket that we open, so that no address of ours need be public.

Rules: https://docs.slack.dev/apis/events-api/using-socket-mode (envelopes, hello, disconnect) and
https://docs.slack.dev/reference/interaction-payloads/block_actions-payload.
"""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
import structlog

from penstock.errors import UNREADABLE
from penstock.net import AddressGuard
from penstock.service.runtime import Runtime
from penstock_services.notifier.buttons.listener import FOREIGN, UNKNOWN, Listener
from penstock_services.notifier.channels import Slack
from penstock_services.notifier.channels.slack import BUTTON
from penstock_services.notifier.channels.wire import SendFailed, request
from penstock_services.notifier.message.button import Button
from penstock_services.notifier.reload import LiveConfig

_GREETING = 30.0  # seconds within which a connection says hello, and is over after it said that it ends
_PING = 20.0  # seconds between pings; without an answer in half of that the connection is gone
_PAUSE = 1.0  # seconds between two connections at least; the old one is read on meanwhile
_log = structlog.get_logger("notifier.buttons")


class _User(msgspec.Struct):
    id: str
    username: str = ""
    name: str = ""
    team_id: str = ""


class _Id(msgspec.Struct):
    id: str = ""


class _Action(msgspec.Struct):
    action_id: str = ""
    value: str = ""
    action_ts: str = ""


class _Container(msgspec.Struct):
    message_ts: str = ""


class _Press(msgspec.Struct):
    """What of a block_actions payload matters here."""

    user: _User
    type: str = ""
    team: _Id | None = None
    actions: list[_Action] = []
    container: _Container = msgspec.field(default_factory=_Container)
    response_url: str = ""

    @property
    def who(self) -> str:
        return self.user.username or self.user.name or self.user.id

    @property
    def workspaces(self) -> set[str]:
        """Where it was pressed, and where whoever pressed is at home: in a shared channel these are two."""
        return {one for one in (self.team.id if self.team else "", self.user.team_id) if one}


class Envelope(msgspec.Struct):
    """What of a message of Slack's matters here."""

    type: str = ""
    reason: str = ""
    envelope_id: str = ""
    payload: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))


def read_envelope(message: str | bytes) -> Envelope | None:
    """Read a message of the WebSocket, None if it is nothing for us."""
    try:
        return msgspec.json.decode(message, type=Envelope)
    except (*UNREADABLE, TypeError):  # the last of these where aiohttp yields what went wrong
        return None


class SlackSocket(Listener):
    """Listens to one Slack app."""

    def __init__(self, live: LiveConfig, runtime: Runtime, name: str, channel: Slack) -> None:
        super().__init__(live, runtime, name, channel)
        self._channel = channel
        self._tasks = asyncio.TaskGroup()

    async def listen(self) -> None:
        """Keep a connection; when Slack says that one ends, read it to its end beside the next."""
        async with self._tasks:
            while True:
                over: asyncio.Future[float] = asyncio.get_running_loop().create_future()
                self._tasks.create_task(self._connect(over))
                await asyncio.sleep(await over)

    async def _connect(self, over: asyncio.Future[float]) -> None:
        """Open a connection and read it; `over` gets in how many seconds the next is wanted."""
        reason, after = "the connection ended", None
        guard = AddressGuard(allow_private=self.allow_private)
        try:
            async with asyncio.timeout(_GREETING) as limit:
                url = await self._open()
                async with (
                    aiohttp.ClientSession(connector=guard.connector(), cookie_jar=aiohttp.DummyCookieJar()) as session,
                    session.ws_connect(url, heartbeat=_PING) as socket,
                ):
                    reason = await self._read(socket, over, limit)
        except SendFailed as error:
            reason, after = error.reason, error.after
        except TimeoutError:
            reason = f"it has not begun within {_GREETING:g} s"
        except aiohttp.WSServerHandshakeError as error:  # its text has the address, whose ticket is a secret
            reason = f"the WebSocket was refused: {error.status}"
        except (aiohttp.InvalidURL, ValueError):
            reason = "the address that Slack gave for the WebSocket is none"
        except (aiohttp.ClientError, OSError) as error:
            reason = str(guard.refusal) if guard.refusal is not None else f"{type(error).__name__}: {error}"
        if not over.done():
            over.set_result(self.failed(reason, after=after))

    async def _open(self) -> str:
        """Return the address of a new connection."""
        answer = await request(
            "POST",
            f"{self._channel.api.rstrip('/')}/apps.connections.open",
            b"",
            headers={"Authorization": f"Bearer {self._channel.app_token}"},
            timeout=self._channel.timeout,
            allow_private=self.allow_private,
        )
        said = answer.json()
        url = said.get("url")
        if said.get("ok") is True and isinstance(url, str):
            return url
        if answer.status != 200:
            raise answer.failure()
        raise answer.refused(
            f"Slack refuses the app_token of channels.{self.name}: {said.get('error')}; it has to be an app-level "
            "token with the scope connections:write, of an app with Socket Mode switched on"
        )

    async def _read(
        self, socket: aiohttp.ClientWebSocketResponse, over: asyncio.Future[float], limit: asyncio.Timeout
    ) -> str:
        """Read a connection to its end, and return why it ended."""
        greeted = False
        async for message in socket:
            envelope = read_envelope(message.data)
            if envelope is None:
                continue
            if envelope.type == "hello":
                greeted = True
                limit.reschedule(None)
                self.heard()
            elif envelope.type == "disconnect":
                if envelope.reason == "link_disabled":
                    return "Socket Mode was switched off for the app"
                limit.reschedule(asyncio.get_running_loop().time() + _GREETING)
                if greeted and not over.done():
                    over.set_result(_PAUSE)
            elif envelope.envelope_id and await self.take(envelope):
                await socket.send_json({"envelope_id": envelope.envelope_id})
        return "the connection ended"

    async def take(self, envelope: Envelope) -> bool:
        """Put the presses of an envelope on their way; False if it has to come again."""
        try:
            pressed = msgspec.json.decode(envelope.payload, type=_Press)
        except UNREADABLE:
            return True  # something that is not for us
        if envelope.type != "interactive" or pressed.type != "block_actions":
            return True
        results = [await self._take_one(pressed, one) for one in pressed.actions if one.action_id == BUTTON]
        return all(results)

    async def _take_one(self, pressed: _Press, action: _Action) -> bool:
        name, _, data = action.value.partition(" ")
        channel, button = self.config.channels.get(name), Button.decode(data)
        ours = isinstance(channel, Slack) and channel.app_token == self._channel.app_token
        whose = channel.whose if isinstance(channel, Slack) and ours else self._channel.whose
        if pressed.workspaces != {whose}:
            return self._refuse(pressed, FOREIGN)
        if not ours or button is None:
            return self._refuse(pressed, UNKNOWN)
        press_id = f"{whose}:{pressed.user.id}:{pressed.container.message_ts}:{action.action_ts}"
        return await self.publish(name, button, by=pressed.who, answer_to=pressed.response_url, press_id=press_id)

    def _refuse(self, pressed: _Press, text: str) -> bool:
        """Say so, while Slack is told that the press was heard: it waits for that for three seconds only."""
        where = ", ".join(sorted(pressed.workspaces))
        self._tasks.create_task(self.refuse(pressed.response_url, text, by=pressed.who, where=where))
        return True
