"""Redis as the gateway sees it: whether it is there, and how much lies in it that nobody has done yet."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from aiohttp import web
from redis.exceptions import ResponseError

from penstock.redis.connection import AsyncRedis, unavailable
from penstock.service.runtime import Runtime
from penstock.streams.lag import LagCounter
from penstock.web.health import Ready
from penstock.web.problems import Problem, overloaded
from penstock.web.routes import Request, json

_EVERY = 2.5  # seconds between two looks, and the most one may take
_COUNTED = 100_000  # entries counted in one look
_COME_BACK = 10  # seconds; a backlog does not vanish at once
_log = structlog.get_logger("penstock.gateway")


class Upstream:
    """Looks every few seconds, so that no request has to."""

    def __init__(self, runtime: Runtime, streams: frozenset[str]) -> None:
        self._runtime = runtime
        self._backlogs = dict.fromkeys(streams, 0)
        self._lags = LagCounter(runtime.redis, most=_COUNTED)
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why it takes no events: the process is about to end, or Redis did not answer when last asked."""
        if not self._runtime.ready:
            return "stopping"
        spooling = self._runtime.publisher.spooling
        if self._trouble and spooling is not None:
            return spooling.why_full and f"{self._trouble}, and {spooling.why_full}"
        return self._trouble

    @property
    def degraded(self) -> str:
        """Why events go to the spool, or do not reach Redis at once; nothing if they do."""
        spooling = self._runtime.publisher.spooling
        if spooling is None or not (self._trouble or spooling.waiting):
            return ""
        why = self._trouble or spooling.away
        return f"{spooling.waiting:,} events wait in the spool" + (f": {why}" if why else "")

    def check_backlog(self, stream: str) -> None:
        """Refuse an event for a stream whose readers are too far behind.

        Raises:
            Problem: 429.
        """
        most = self._runtime.settings.gateway_max_backlog
        if self._backlogs[stream] > most:
            raise overloaded(f"more than {most} events wait on {stream}: try again later", retry_after=_COME_BACK)

    async def answer_ready(self, _: Request) -> web.Response:
        """Answer whether it is ready."""
        if trouble := self.trouble:
            raise Problem(503, f"not ready: {trouble}", headers={"Retry-After": "1"})
        return json(Ready("degraded", self.degraded) if self.degraded else Ready("ready"))

    async def watch(self) -> None:
        """Look until the process is asked to stop."""
        stopping = self._runtime.stopping
        while not stopping.is_set():
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY):
                    await stopping.wait()

    async def look(self) -> None:
        """Ask once."""
        try:
            async with asyncio.timeout(_EVERY):
                read = {stream: self._runtime.topology.groups(stream) for stream in self._backlogs}
                if not any(read.values()):  # nothing else would ask Redis anything
                    await self._runtime.redis.ping()
                for stream, groups in read.items():
                    self._backlogs[stream] = await backlog(
                        self._runtime.redis, self._lags, self._runtime.keys.stream(stream), groups
                    )
        except TimeoutError:
            self._note("no reply in time")
        except Exception as error:
            away = unavailable(error)
            if away is None:
                raise
            self._note(away.reason)
        else:
            self._note("")

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            if trouble:
                spools = self._runtime.publisher.spooling is not None
                _log.warning(f"Redis is away: {'spooling' if spools else 'answering 503'}", reason=trouble)
            else:
                _log.info("Redis is back", after=self._trouble)
            self._trouble = trouble


async def backlog(redis: AsyncRedis, lags: LagCounter, key: str, groups: list[str]) -> int:
    """Return how many entries the group that is farthest behind has not done: not read yet, or in flight.

    A group that does not exist yet has all of them before it.
    """
    if not groups:
        return 0
    try:
        known = {row["name"].decode(): row for row in await redis.xinfo_groups(key)}
    except ResponseError as error:
        if "no such key" not in str(error):
            raise
        return 0
    if any(group not in known for group in groups):
        return int(await redis.xlen(key))
    rows = [known[group] for group in groups]
    lag = await lags.count(key, [row["last-delivered-id"] for row in rows])
    return max(lag[row["last-delivered-id"]] + int(row["pending"]) for row in rows)
