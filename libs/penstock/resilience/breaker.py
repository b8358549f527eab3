"""Circuit breakers: while a dependency is down, the whole fleet knows, and waits instead of failing.

The pattern is Nygard's (Release It!, 2nd ed., chapter 5). The state lies in Redis and is shared; each process
looks at it once a second, so that a call through a closed breaker costs nothing.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Literal

import msgspec
import structlog

from penstock.errors import Directive, Snooze, trouble_of_redis
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.redis.scripts import Script
from penstock.text import described, writable
from penstock.times import LONGEST_DELAY

State = Literal["closed", "open", "half_open"]
Failure = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]

_breaker = Script("penstock.resilience", "breaker")
_LOOK = 1.0  # seconds between looks at the shared state
_MOST_TEXT = 300
_log = structlog.get_logger("penstock.breaker")


class CircuitOpen(Snooze):
    """The breaker is open: the event waits, without using up an attempt."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(seconds)
        self.name = name


class BreakerPolicy(msgspec.Struct, frozen=True):
    """When a breaker opens and how it closes again. Durations are in seconds.

    It opens after `failure_threshold` failures in a row over the whole fleet, none of them longer than
    `failure_window` after the one before; or when at least `failure_rate` (0 to 1) of the calls within
    `failure_window` failed, provided that there were `minimum_calls`.
    """

    failure_threshold: int = 5
    failure_window: float = 60.0
    failure_rate: float = 0.5
    minimum_calls: int = 20
    recovery_timeout: float = 60.0
    half_open_max_calls: int = 3


class BreakerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A breaker as an operator sees it. `failure_count` and `success_count` count from the beginning."""

    name: str
    state: State
    failure_count: int = 0
    success_count: int = 0
    since: float | None = None
    reason: str = ""

    @property
    def healthy(self) -> bool:
        """Whether calls pass."""
        return self.state == "closed"


class _Local(msgspec.Struct):
    """What this process knows of a breaker; no state means that it has not asked yet."""

    state: State | None = None
    retry_at: float = 0.0
    successes: int = 0


class Breakers:
    """The breakers that one process uses."""

    def __init__(
        self,
        client: AsyncRedis,
        keys: Keys,
        *,
        service: str,
        policies: Callable[[str], BreakerPolicy],
        events: str | None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """Publish transitions to stream key `events` if given. `clock` (seconds) is Redis' own unless given."""
        self._client = client
        self._keys = keys
        self._service = service
        self._policies = policies
        self._events = events
        self._clock = clock
        self._local: dict[str, _Local] = {}

    async def run(self) -> None:
        """Look at the shared states once a second until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await self.look()
            except Exception as error:
                if unavailable(error) is None:
                    raise

    async def look(self) -> None:
        """Refresh what this process knows of the breakers it uses."""
        for name in list(self._local):
            await self._ask("look", name)

    def watch(self, names: Iterable[str]) -> None:
        """Keep an eye on these breakers from now on."""
        for name in names:
            self._known(name)

    def waiting(self, names: Iterable[str]) -> float:
        """Return the seconds until all of these breakers may let calls pass again, as far as is known here."""
        now = self._now()
        return max(
            (local.retry_at - now for name in names if (local := self._local.get(name)) and local.state == "open"),
            default=0.0,
        )

    @asynccontextmanager
    async def guard(self, name: str, failures: Failure = Exception) -> AsyncIterator[None]:
        """Run a call through breaker `name`.

        `failures` says which exceptions count against the dependency: types, or a function that tells.
        What a handler raises to decide its event's fate never counts.

        Raises:
            CircuitOpen: the breaker does not let the call pass.
            Unavailable: Redis cannot tell now whether it does.
        """
        local = self._known(name)
        call_id = os.urandom(8).hex()
        asking = local.state != "closed"
        if asking and not await self._may_pass(name, call_id):
            raise CircuitOpen(name, min(max(0.05, local.retry_at - self._now()), LONGEST_DELAY))
        try:
            yield
        except BaseException as error:
            if _counts(error, failures):
                await self._report("failure", name, call_id, described(error, most=_MOST_TEXT))
            raise
        if asking:
            await self._report("success", name, call_id)
        else:
            local.successes += 1

    async def _may_pass(self, name: str, call_id: str) -> bool:
        try:
            return await self._ask("admit", name, call_id)
        except Exception as error:
            away = unavailable(error)
            if away is None:
                raise
            raise away from error

    async def _report(self, how: str, name: str, call_id: str, why: str = "") -> None:
        """Report how a call went; what came of it stands, also if Redis cannot be told."""
        try:
            await self._ask(how, name, call_id, why)
        except Exception as error:
            away = unavailable(error)
            if away is None:
                raise
            _log.warning("the breaker was not told of a call", breaker=name, call=how, reason=away.reason)

    async def force(self, name: str, *, is_open: bool, reason: str) -> None:
        """Open a breaker until it is closed by hand, or close it."""
        await self._ask("open" if is_open else "close", name, why=writable(reason))

    async def _ask(self, command: str, name: str, call_id: str = "", why: str = "") -> bool:
        local = self._known(name)
        policy = self._policies(name)
        base = self._keys.breaker(name)
        successes, local.successes = local.successes, 0
        try:
            state, wait_ms, allowed = await _breaker(
                self._client,
                [base, f"{base}:calls", f"{base}:probes", self._keys.breakers, self._events or base],
                [
                    *(command, name, "" if self._clock is None else round(self._clock() * 1000)),
                    policy.failure_threshold,
                    round(policy.failure_window * 1000),
                    round(policy.recovery_timeout * 1000),
                    policy.half_open_max_calls,
                    policy.failure_rate,
                    policy.minimum_calls,
                    *(call_id, successes, self._service, why, "1" if self._events else "0"),
                ],
            )
        except BaseException:
            local.successes += successes
            raise
        local.state = state.decode()
        local.retry_at = self._now() + wait_ms / 1000
        return bool(allowed)

    def _known(self, name: str) -> _Local:
        return self._local.setdefault(name, _Local())

    def _now(self) -> float:
        return time.monotonic() if self._clock is None else self._clock()


async def statuses(client: AsyncRedis, keys: Keys) -> list[BreakerStatus]:
    """Return every breaker of the mesh, by name."""
    names = sorted(name.decode() for name in await client.smembers(keys.breakers))
    found = []
    for name in names:
        fields = {field.decode(): value.decode() for field, value in (await client.hgetall(keys.breaker(name))).items()}
        found.append(
            BreakerStatus(
                name=name,
                state=msgspec.convert(fields.get("state", "closed"), State),
                failure_count=int(fields.get("failure_count", 0)),
                success_count=int(fields.get("success_count", 0)),
                since=float(fields["since"]) / 1000 if "since" in fields else None,
                reason=fields.get("why", ""),
            )
        )
    return found


def _counts(error: BaseException, failures: Failure) -> bool:
    if isinstance(error, Directive) or not isinstance(error, Exception) or trouble_of_redis(error):
        return False
    if isinstance(failures, type | tuple):
        return isinstance(error, failures)
    return failures(error)
