"""One connection: what it follows, and what waits to be sent over it, which is bounded."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from penstock.live.topic import Filter, Viewer

_MOST_WAITING = 256  # messages that one connection may be behind
_MOST_DIRECT = 64  # messages to this connection alone that wait; more are lost
_MOST_BYTES = 4_000_000  # of those messages, but for a single one that is larger


class Message:
    """Something to send: `data` is JSON on one line. `position` is up to where all is told with it.

    It is the same for all who are sent it, and so is how it is written.
    """

    def __init__(self, name: str, data: bytes = b"{}", *, position: str | None = None, ends: bool = False) -> None:
        self.name = name
        self.data = data
        self.position = position
        self.ends = ends
        """Whether it is the end of a job."""

    @functools.cached_property
    def block(self) -> bytes:
        """The message as Server-Sent Events have it; one without a name of its own is a `message`."""
        lines = [f"id: {self.position}".encode()] if self.position else []
        if self.name != "message":
            lines.append(f"event: {self.name}".encode())
        return b"\n".join([*lines, b"data: " + self.data, b"\n"])

    @functools.cached_property
    def _members(self) -> bytes:
        position = f'"position":"{self.position}",' if self.position else ""
        return f'"event":"{self.name}",{position}"data":'.encode() + self.data + b"}"

    def frame(self, subscription: str | None) -> bytes:
        """Return the message as a WebSocket has it: with the name that the client gave what it subscribed to."""
        named = b"" if subscription is None else b'"sub":' + msgspec.json.encode(subscription) + b","
        return b"{" + named + self._members


class Connection:
    """A connection of somebody who is told what happens."""

    def __init__(self, viewer: Viewer | None = None, kind: Literal["sse", "websocket"] = "sse") -> None:
        self.viewer = viewer or Viewer()
        self.kind = kind
        self.since = time.time()
        self.id: str | None = None
        """Its name in the registry of connections, if there is one."""
        self.on_change: Callable[[], None] | None = None
        """What to call when it follows something else."""
        self.closed = False
        self.followers: dict[Follower, None] = {}
        """Those that are put into, in the order in which they came."""
        self._direct: deque[Message] = deque(maxlen=_MOST_DIRECT)
        self._waiting = 0
        self._size = 0
        self._ready = asyncio.Event()

    def put(self, message: Message) -> None:
        """Have a message sent that is for this connection."""
        self._direct.append(message)
        self.wake()

    def take(self) -> list[Message]:
        """Return the messages for this connection that wait."""
        taken = list(self._direct)
        self._direct.clear()
        return taken

    def changed(self) -> None:
        """Take note that it follows something else."""
        if self.on_change is not None:
            self.on_change()

    def wake(self) -> None:
        """Have whoever waits look."""
        self._ready.set()

    def close(self) -> None:
        """End it."""
        self.closed = True
        self.wake()

    async def wait(self) -> None:
        """Return once there is something: to send, that something was missed, or that it has ended."""
        if not self.closed:
            await self._ready.wait()
            self._ready.clear()

    def count(self, messages: int, size: int) -> bool:
        """Count what waits, or is taken; return whether that is too much."""
        self._waiting += messages
        self._size += size
        return self._waiting > _MOST_WAITING or (self._size > _MOST_BYTES and self._waiting > 1)


class Follower:
    """What waits of one subscription of a connection: events in their order, of each job's progress the last.

    What a connection falls behind by is bounded. Beyond that it is told that it missed something, instead of events.
    """

    def __init__(self, wanted: Filter, connection: Connection | None = None) -> None:
        self.filter = wanted
        self.connection = connection or Connection()
        self.missed = False
        self.after: dict[str, tuple[int, int]] = {}
        """Up to where it was told before it came here, by stream, if that is further than the feed has come."""
        self._events: deque[Message] = deque()
        self._size = 0  # bytes of these
        self._progress: dict[str, Message] = {}

    def put(self, message: Message, job_id: str | None) -> None:
        """Have an event sent; what was said of that job's progress before is of no use any more."""
        if job_id is not None:
            self._progress.pop(job_id, None)
        if self.missed:
            return
        self._events.append(message)
        self._size += len(message.data)
        self.connection.wake()
        if self.connection.count(1, len(message.data)):
            self.miss()

    def put_progress(self, message: Message, job_id: str) -> None:
        """Have progress sent, instead of what waits of that job's."""
        if job_id in self._progress or len(self._progress) < _MOST_WAITING:
            self._progress[job_id] = message
            self.connection.wake()

    def miss(self) -> None:
        """Take note that it misses events."""
        self.missed = True
        self.take()
        self.connection.wake()

    def begin_anew(self) -> None:
        """Forget what was missed: what happens from now on is put here again."""
        self.missed = False
        self.after = {}
        self.take()

    @property
    def is_level(self) -> bool:
        """Whether it has been told all that has been read, and no more."""
        return not (self._events or self.missed or self.after)

    def take(self) -> list[Message]:
        """Return what waits to be sent."""
        taken = [*self._events, *self._progress.values()]
        self.connection.count(-len(self._events), -self._size)
        self._events.clear()
        self._size = 0
        self._progress.clear()
        return taken
