"""A notifier in simulated time: its real handlers on a real Redis, and channels that fail as they are told to.

Only the clock, the network and what moves events between streams are not real. So hours pass in seconds, and whatever
is seen can be seen again.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, Literal
from unittest import mock

import msgspec

from penstock.keys import DELIVERIES, NOTIFICATIONS, Keys
from penstock.mesh.deliveries import SERVICE
from penstock.redis.scripts import Argument
from penstock.schemas import Alert
from penstock.service.outcome import Dead, Retried
from penstock.testing import Emitted, Harness
from penstock.times import rfc3339
from penstock_services.notifier.channels import console, telegram, webhook
from penstock_services.notifier.channels.wire import Answer, SendFailed
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery import notification_log
from penstock_services.notifier.delivery.channel_health import REVIEW
from penstock_services.notifier.service import build

RESCUE = 2.0
"""Seconds after which another process takes over what one had in flight that died."""
# The server's clock does not know of ours: a script is given the time, and nothing it writes ends by itself.
_PREAMBLE = """
local simulated, server = tonumber(table.remove(ARGV)), redis
local redis = {call = function(command, ...)
  if command == 'TIME' then return {math.floor(simulated / 1000), simulated % 1000 * 1000} end
  if command == 'PEXPIRE' then return 1 end
  if command == 'SET' then return server.call(command, (...), (select(2, ...))) end
  return server.call(command, ...)
end}
"""
Health = Literal["up", "down", "busy", "slow", "gone"]
FAILURES: tuple[Health, ...] = ("down", "busy", "slow", "gone")


class Clock:
    """The time of a simulation, in ms since the epoch."""

    def __init__(self, start: float) -> None:
        self.ms = round(start * 1000)

    def time(self) -> float:
        """Return it in seconds, as time.time does."""
        return self.ms / 1000


class _TimedScript:
    """A script of the notifier whose time is a clock's."""

    def __init__(self, clock: Clock, name: str) -> None:
        text = resources.files("penstock_services.notifier.delivery").joinpath(f"{name}.lua").read_text()
        self._text, self._clock = _PREAMBLE + text, clock

    async def __call__(self, client: Any, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        return await client.execute_command("EVAL", self._text, len(keys), *keys, *arguments, self._clock.ms)


class Request(msgspec.Struct, frozen=True):
    """What came to a channel."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Endpoint:
    """The other side of a channel. `slow`: it takes what comes, and its answer comes too late.

    `since`: from when on its health has been what it is. `on_request` sees each request with whether it was taken.
    """

    def __init__(self, clock: Clock, answer: str = "") -> None:
        self._clock = clock
        self._answer = answer
        self.health: Health = "up"
        self.since = clock.time()
        self.retry_after: float = 0.0
        self.on_request: Callable[[Request, bool], None] = lambda request, taken: None

    def __repr__(self) -> str:
        return f"{self.health} since {self.since:.0f}, Retry-After {self.retry_after:g}"

    def become(self, health: Health, *, retry_after: float = 0.0) -> None:
        """Fail in this way from now on, or work again."""
        self.health, self.since, self.retry_after = health, self._clock.time(), retry_after

    def ask(self, request: Request) -> Answer:
        """Answer a request.

        Raises:
            SendFailed: there is no answer.
        """
        self.on_request(request, self.health in ("up", "slow"))
        match self.health:
            case "up":
                return Answer(200, {}, self._answer, 0.01)
            case "busy":
                return Answer(429, {"Retry-After": f"{self.retry_after:g}"}, "", 0.01)
            case "gone":
                return Answer(410, {}, "", 0.01)
            case "down" | "slow":
                raise SendFailed("no answer within 10 s", latency=10.0)


class _Entry(msgspec.Struct, kw_only=True):
    """An event on its way to a handler; `time` is when it was published."""

    stream: str
    type: str
    data: bytes
    id: str
    time: str
    source: str | None = None
    attempt: int = 1


class SimulatedNotifier:
    """One notifier. `endpoints` are what is reached by URLs that begin so.

    `on_published` sees each event that a handler leads to, after type and data of the one that it was handed. `dies`
    says whether the process dies now, with an event of a stream handled and nothing of it committed.
    """

    def __init__(self, redis: Any, config: Config, clock: Clock, endpoints: Mapping[str, Endpoint]) -> None:
        self._redis = redis
        self._keys = Keys()
        self._clock = clock
        self._endpoints = endpoints
        self._waiting: list[tuple[int, int, _Entry]] = []
        self._numbers = itertools.count(1)
        self._objection: AssertionError | None = None
        self.dead: list[tuple[str, Dead]] = []
        self.on_published: Callable[[str, bytes, Emitted], None] = lambda event_type, data, made: None
        self.dies: Callable[[str], bool] = lambda stream: False
        self.use(config)

    def use(self, config: Config) -> None:
        """Go on with this configuration, as a process that was just started."""
        self._harness = Harness(build(config), redis=self._redis)
        self.publish(NOTIFICATIONS, REVIEW, None)

    @contextlib.contextmanager
    def simulated(self) -> Iterator[None]:
        """Let this process, and scripts that the notifier runs, live by the clock; let requests go to the endpoints."""
        with contextlib.ExitStack() as patches:
            patches.enter_context(mock.patch.object(time, "time", self._clock.time))
            for name in ("admit", "confirm", "release"):
                timed = _TimedScript(self._clock, name)
                patches.enter_context(mock.patch.object(notification_log, f"_{name}", timed))
            patches.enter_context(mock.patch.object(console, "_log"))  # hours of it would bury what a test has to say
            for channel in (webhook, telegram):
                patches.enter_context(mock.patch.object(channel, "request", self._request))
            yield

    async def _request(
        self, method: str, url: str, body: bytes, *, headers: Mapping[str, str] | None = None, **_: object
    ) -> Answer:
        (name,) = (name for name in self._endpoints if url.startswith(name))
        try:
            return self._endpoints[name].ask(Request(url.removeprefix(name), headers or {}, body))
        except AssertionError as error:  # the notifier takes whatever is raised for a failure of the channel
            self._objection = error
            raise

    def publish(self, stream: str, event_type: str, data: msgspec.Struct | None) -> None:
        """Publish an event now."""
        entry = _Entry(
            stream=stream,
            type=event_type,
            data=msgspec.json.encode(data),
            id=f"given-{next(self._numbers)}",
            time=rfc3339(self._clock.time()),
        )
        self._put(entry, 0.0)

    def _put(self, entry: _Entry, delay: float) -> None:
        due = self._clock.ms + math.ceil(delay * 1000)
        heapq.heappush(self._waiting, (due, next(self._numbers), entry))

    async def run(self, until: float) -> None:
        """Handle all that is due until then, each at its time."""
        while self._waiting and self._waiting[0][0] <= round(until * 1000):
            self._clock.ms, _, entry = heapq.heappop(self._waiting)
            await self._handle(entry)
        self._clock.ms = round(until * 1000)

    @property
    def idle(self) -> bool:
        """Whether nothing is due, now or later."""
        return not self._waiting

    async def _handle(self, entry: _Entry) -> None:
        run = await self._harness.send(
            entry.stream,
            entry.type,
            entry.data,
            id=entry.id,
            source=entry.source,
            time=entry.time,
            attempt=entry.attempt,
        )
        if self._objection is not None:
            raise self._objection
        if self.dies(entry.stream):
            self._put(entry, RESCUE)
            return
        if isinstance(run.outcome, Retried):
            attempt = entry.attempt + (not run.outcome.snoozed)
            self._put(msgspec.structs.replace(entry, attempt=attempt), run.outcome.delay)
        elif isinstance(run.outcome, Dead):
            self.dead.append((entry.stream, run.outcome))
        for name, field, value in run.guards:
            found = await self._redis.hget(self._keys.state(SERVICE, name), field)
            assert (found.decode() if found else None) == value, f"{name} {field} changed, and nobody else is here"
        for command, name, *arguments in run.state:
            await self._redis.execute_command(command, self._keys.state(SERVICE, name), *arguments)
        for made in run.events:
            self.on_published(entry.type, entry.data, made)
            if made.stream != DELIVERIES:
                self._put(self._entry(made), made.delay)

    def _entry(self, made: Emitted) -> _Entry:
        event = made.event
        when = rfc3339(self._clock.time() + made.delay)
        return _Entry(stream=made.stream, type=event.type, data=event.data, id=event.id, source=event.source, time=when)


def alert_in(body: Any) -> Alert:
    """Return the alert in the body of a webhook."""
    return msgspec.convert({name: value for name, value in body.items() if name in Alert.__struct_fields__}, Alert)
