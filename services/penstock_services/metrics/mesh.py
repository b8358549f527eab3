"""The mesh itself as series: how each group stands with its stream, once for each window."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import structlog
from redis.exceptions import WatchError

from penstock.keys import Keys
from penstock.mesh.state import GroupState, mesh_state
from penstock.metrics.windows import KEPT, LONG, SERVICE, SHORT, gauges_encoder, mesh
from penstock.redis.connection import AsyncRedis
from penstock.schemas import Series
from penstock.spool.spooling import State
from penstock.streams.lag import LagCounter
from penstock.streams.memory import Memory, measure
from penstock.streams.position import Position, position
from penstock.times import rfc3339
from penstock.topology import Topology
from penstock_services.metrics.publish import add_window

_LOOK_BACK, _LEAST_PAST = 600_000, 60_000  # ms
_AHEAD = (
    "ids of this stream are ahead of Redis's clock: somebody has added an entry with an id of his own, or the clock "
    "has gone back; events count by when they are read"
)
_WENT_BACK = "Redis's clock has gone back: no window is published until it has caught up"
_log = structlog.get_logger("penstock.metrics")
_MARK = "mesh_mark"  # start of the last window of 10 s whose gauges were published


async def gauges(client: AsyncRedis, keys: Keys, topology: Topology, lags: LagCounter) -> list[Series]:
    """Read the gauges of every stream and group, as they are now.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    series: list[Series] = []
    for state in (await mesh_state(client, keys, topology, lags=lags)).groups:
        stood = await position(client, keys, state.stream, state.group)
        labels = {"stream": state.stream, "group": state.group}
        series += [Series(name=name, labels=labels, value=value) for name, value in _values(state, stood).items()]
    return [*series, *_of_memory(await measure(client)), *_of_spools(await client.hgetall(keys.spools))]


def _of_memory(memory: Memory) -> Iterator[Series]:
    yield Series(name="memory", value=memory.used)
    if memory.limit:
        yield Series(name="memory_share", value=memory.share)


def _of_spools(told: dict[bytes, bytes]) -> Iterator[Series]:
    """Yield what programs say of their spools, joined where several run on one host."""
    joined: dict[tuple[str, str], State] = {}
    for text in told.values():
        state = msgspec.json.decode(text, type=State)
        about = state.program, state.host
        joined[about] = joined[about].joined(state) if about in joined else state
    for (program, host), state in sorted(joined.items()):
        values = {"events": state.events, "bytes": state.bytes, "age": state.age, "aside": state.aside}
        for name, value in values.items():
            yield Series(name=f"spool_{name}", labels={"program": program, "host": host}, value=value)


class Growth:
    """How fast memory has filled over the last ten minutes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque()

    def time_to_full(self, now: int, memory: Memory) -> float | None:
        """Return the seconds until memory is full if it goes on like this; None while that is not to be told.

        `now` is in ms.
        """
        while self._seen and now - self._seen[0][0] > _LOOK_BACK:
            self._seen.popleft()
        self._seen.append((now, memory.used))
        then, used = self._seen[0]
        grown = memory.used - used
        if now - then < _LEAST_PAST or grown <= 0 or not memory.limit:
            return None
        return max(0, memory.limit - memory.used) / grown * (now - then) / 1000


def _values(state: GroupState, stood: Position) -> dict[str, float]:
    return {
        "lag_age": stood.lag_age,
        "lag": state.lag,
        "oldest_pending": stood.oldest_pending,
        "pending": state.pending,
        "delayed": state.delayed,
        "retry": state.retry,
        "dead": state.dead,
        "consumers": state.consumers,
        **({"ids_ahead": state.ids_ahead} if state.ids_ahead else {}),
    }


class MeshWatch:
    """Publishes the gauges when a window ends by the clock. Any number may run side by side."""

    def __init__(self, client: AsyncRedis, keys: Keys, topology: Topology) -> None:
        self._client = client
        self._keys = keys
        self._topology = topology
        self._mark = keys.state(SERVICE, _MARK)
        self._growth = Growth()
        self._lags = LagCounter(client)
        self._published: int | None = None  # the last window of which it is known here
        self._said: set[str] = set()

    def is_due(self, now: int) -> bool:
        """Return whether the gauges of a window may be missing that ended before `now`, in ms."""
        return _last_short(now) != self._published

    async def tick(self, now: int) -> None:
        """Publish the gauges of the window that ended last before `now` (in ms), if nobody has yet.

        Windows during which no metrics service ran have no gauges.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        start = _last_short(now)
        if start == self._published:
            return
        async with self._client.pipeline(transaction=True) as pipeline:
            await pipeline.watch(self._mark)
            last = int(await pipeline.get(self._mark) or start - SHORT)
            if last >= start:
                self._published = start
                self._say("clock", last - start > SHORT, _WENT_BACK, windows_until=rfc3339(last + SHORT))
                return
            series = await gauges(self._client, self._keys, self._topology, self._lags)
            left = self._growth.time_to_full(now, await measure(self._client))
            series += [] if left is None else [Series(name="time_to_full", value=left)]
            ahead = {series_.labels["stream"]: series_.value for series_ in series if series_.name == "ids_ahead"}
            for stream in self._topology.streams:
                self._say(stream, stream in ahead, _AHEAD, stream=stream, seconds=ahead.get(stream))
            pipeline.multi()
            pipeline.set(self._mark, start)
            self._add(pipeline, SHORT, start, series)
            minute = _last_minute(start + SHORT)
            if minute > _last_minute(last + SHORT):
                self._add(pipeline, LONG, minute, series)
            with contextlib.suppress(WatchError):  # another replica was first
                await pipeline.execute()
            self._published = start

    def _say(self, about: str, is_so: bool, what: str, **told: Any) -> None:
        """Warn of something when it begins."""
        if is_so and about not in self._said:
            _log.warning(what, **told)
        (self._said.add if is_so else self._said.discard)(about)

    def _add(self, pipeline: Any, seconds: int, start: int, series: list[Series]) -> None:
        pipeline.set(self._keys.state(SERVICE, mesh(seconds, start)), gauges_encoder.encode(series), ex=KEPT[seconds])
        add_window(pipeline, self._keys, start=start, seconds=seconds, scope="mesh", series=series)


def _last_short(now: int) -> int:
    """Return the start of the last whole window of 10 s before `now`, in ms."""
    return (now // 1000 // SHORT - 1) * SHORT


def _last_minute(end: int) -> int:
    """Return the start of the last whole minute before `end`."""
    return end // LONG * LONG - LONG
