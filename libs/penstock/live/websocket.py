"""Live streams over a WebSocket: any number of topics on one connection.

The client sends `subscribe`, `resume` and `unsubscribe`; it names each subscription itself. What it is sent are the
messages of Server-Sent Events, with that name. docs/live.md has them all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
import structlog

from penstock.errors import UNREADABLE, Unavailable
from penstock.live.connection import Connection, Message
from penstock.live.live import Live
from penstock.live.subscription import Subscription
from penstock.live.topic import Topic
from penstock.redis.connection import telling_unavailable
from penstock.tasks import end
from penstock.web.problems import Problem, away

PROTOCOL: Final = "penstock.live"
"""The subprotocol, for clients that ask for one: browsers that send a ticket beside it have to."""
MOST_TEXT: Final = 16_384  # bytes of a message to us
PING = 15.0  # seconds of silence after which it is said how far all is told
_MOST_SUBSCRIPTIONS = 100  # of one connection
GOING_AWAY, FAILED, TRY_AGAIN = 1001, 1011, 1013  # why a connection is closed (RFC 6455)
_log = structlog.get_logger("penstock.live")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, tag="subscribe", forbid_unknown_fields=True):
    """Asks to be told of a job, or of all that happens of some types, about a subject; `sub` names that."""

    sub: Name
    job: Text | None = None
    source: Text | None = None
    subject: Text | None = None
    types: tuple[Text, ...] = ()
    tenant: Text | None = None


class Resume(Subscribe, frozen=True, kw_only=True, tag="resume", forbid_unknown_fields=True):
    """Asks for the same, from where it was left off: `position` is the last that came with it."""

    position: Text


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True, tag="unsubscribe", forbid_unknown_fields=True):
    """Asks to be told no more."""

    sub: Name


Command: TypeAlias = Subscribe | Resume | Unsubscribe
Receive = Callable[[], Awaitable[str | bytes | None]]
Send = Callable[[bytes], Awaitable[None]]
Admit = Callable[[Topic], Awaitable[None]]
_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


class _Named(msgspec.Struct, frozen=True):
    sub: str | None = None


class WebSocketSession:
    """One WebSocket, whatever carries it: `receive` returns None at its end, `send` returns once there is room."""

    def __init__(self, live: Live, connection: Connection, *, admit: Admit) -> None:
        """`admit` raises a Problem for a topic that the viewer is not to be told of, or not now."""
        self._live = live
        self._connection = connection
        self._admit = admit
        self._subscriptions: dict[str, Subscription] = {}
        self._answers: deque[bytes] = deque()
        self._answered = asyncio.Event()

    async def run(self, receive: Receive, send: Send) -> int:
        """Tell what is asked for until it ends; return with which code to close. The connection is open already."""
        listening = asyncio.create_task(self._listen(receive), name="live socket")
        try:
            with telling_unavailable(), contextlib.suppress(ConnectionError):  # which is that the client has gone
                await send(Message("welcome", msgspec.json.encode({"connection": self._connection.id})).frame(None))
                while not self._connection.closed:
                    await self._send_next(send)
            if listening.done():
                listening.result()
        except Unavailable:  # whoever wants more comes back, with its positions
            return TRY_AGAIN
        except Exception as error:  # noqa: BLE001 - it ends one connection
            _log.error("a live stream failed", exc_info=error)
            return FAILED
        finally:
            await end([listening])
        return GOING_AWAY

    # What comes

    async def _listen(self, receive: Receive) -> None:
        try:
            while (text := await receive()) is not None:
                self._answers.extend(await self._obey(text))
                self._answered.clear()
                self._connection.wake()
                await self._answered.wait()  # who does not read is not listened to
        finally:
            self._connection.close()

    async def _obey(self, text: str | bytes) -> list[bytes]:
        """Return the answer to a message."""
        try:
            with telling_unavailable():
                match read_command(text):
                    case Unsubscribe(sub=name):
                        return [self._unsubscribe(name)]
                    case Subscribe() as command:
                        return await self._subscribe(command)
        except Problem as problem:
            return [_error(text, problem)]
        except Unavailable as error:
            return [_error(text, away(error))]
        except TimeoutError:
            return [_error(text, Problem(503, "this takes too long just now; send it again later"))]

    async def _subscribe(self, command: Subscribe) -> list[bytes]:
        name = command.sub
        if name in self._subscriptions:
            raise Problem(409, f"{name!r} is subscribed to; unsubscribe first, or take another name")
        if len(self._subscriptions) >= _MOST_SUBSCRIPTIONS:
            raise Problem(429, f"a connection has at most {_MOST_SUBSCRIPTIONS} subscriptions")
        topic = Topic(
            job=command.job,
            source=command.source,
            subject=command.subject,
            types=command.types,
            tenant=command.tenant,
        )
        if topic.job is not None and (topic.types or topic.subject or topic.tenant):
            raise Problem(400, "job: what is told of one job has no types, subject or tenant to choose from")
        await self._admit(topic)
        subscription = await Subscription.open(self._live, self._connection, topic)
        try:
            first = await subscription.begin(command.position if isinstance(command, Resume) else None)
        except BaseException:
            subscription.close()
            raise
        self._subscriptions[name] = subscription
        return [*_frames(name, first), *self._end(name)]

    def _unsubscribe(self, name: str) -> bytes:
        subscription = self._subscriptions.pop(name, None)
        if subscription is None:
            raise Problem(404, f"nothing is subscribed to as {name!r}")
        subscription.close()
        return Message("unsubscribed").frame(name)

    # What goes

    async def _send_next(self, send: Send) -> None:
        try:
            async with asyncio.timeout(PING):
                await self._connection.wait()
        except TimeoutError:
            if not self._answers:  # nothing is told of a subscription before it is answered
                here = Message("position", position=self._live.position)
                level = [name for name, one in self._subscriptions.items() if one.is_level]
                for name in level:
                    await send(here.frame(name))
                return
        for message in self._connection.take():
            await send(message.frame(None))
        while self._answers:
            await send(self._answers.popleft())
        self._answered.set()
        for name, subscription in list(self._subscriptions.items()):
            messages = await subscription.next()
            if self._subscriptions.get(name) is subscription:  # and not unsubscribed meanwhile
                for frame in (*_frames(name, messages), *self._end(name)):
                    await send(frame)

    def _end(self, name: str) -> list[bytes]:
        """Return the last word of a subscription, if there is no more to come, and forget it."""
        if not self._subscriptions[name].over:
            return []
        self._subscriptions.pop(name).close()
        return [Message("end").frame(name)]


def read_command(text: str | bytes) -> Command:
    """Read a message of a client.

    Raises:
        Problem: 400 it is none.
    """
    if len(text) > MOST_TEXT:
        raise Problem(413, f"a message has at most {MOST_TEXT} bytes")
    try:
        return _decoder.decode(text)
    except UNREADABLE as error:
        raise Problem(400, f"this is no message to us: {error}") from None


def _error(text: str | bytes, problem: Problem) -> bytes:
    """Return what was wrong with a message, with the name in it, if there is one."""
    with contextlib.suppress(*UNREADABLE):
        return Message("error", problem.body).frame(msgspec.json.decode(text, type=_Named).sub)
    return Message("error", problem.body).frame(None)


def _frames(name: str, messages: Sequence[Message]) -> list[bytes]:
    return [message.frame(name) for message in messages]
