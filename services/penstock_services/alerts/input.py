"""Reading `metrics` from where the state stands: windows put together from their parts, and ticks, in order.

The state of the alert manager is a fold over that stream: its position in it is part of the state, and moves with it in
one commit. So it does not matter which replica is handed which entry, or how often, or in which order.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Sequence

import msgspec
import structlog

from penstock.mesh.alerts import TICK
from penstock.redis.connection import AsyncRedis
from penstock.schemas import MetricsWindow, Series, Tick
from penstock.times import entry_ms, seconds_of

TICK_SECONDS = 10
WINDOW = "metrics.window"
Item = MetricsWindow | Tick
_PAGE = 100
_METRICS = "metrics"  # the group of the metrics processor
_MOST = 360  # windows found at once: an hour of 10 s
_ON_THE_WAY = 15.0  # seconds that a window may need to be published, beyond the lateness allowed to its events
_MOST_AHEAD = 3_600.0  # seconds that clocks may differ
_KINDS: dict[bytes, type[Item]] = {WINDOW.encode(): MetricsWindow, TICK.encode(): Tick}
_log = structlog.get_logger("penstock.alerts")


async def entries(client: AsyncRedis, key: str, after: str) -> AsyncIterator[tuple[str, Item]]:
    """Yield id and content of every entry of the stream that comes after the one called `after`.

    What is neither a window nor a tick, or cannot be read, is passed over: whoever is handed that entry
    says so.
    """
    while rows := await client.xrange(key, f"({after}", "+", count=_PAGE):
        for entry_id, fields in rows:
            kind = _KINDS.get(fields.get(b"type", b""))
            if kind is None:
                continue
            try:
                yield (
                    entry_id.decode(),
                    _read(kind, fields.get(b"data", b""), published=min(entry_ms(entry_id) / 1000, time.time())),
                )
            except (ValueError, RecursionError) as error:  # msgspec's own errors are ValueErrors
                _log.warning("passed over", entry=entry_id.decode(), error=str(error))
        after = rows[-1][0].decode()


async def whole(items: AsyncIterable[tuple[str, Item]]) -> AsyncIterator[tuple[str, Item]]:
    """Put windows together from their parts, which stand one after another: they are published in one step.

    What is yielded goes by the id of its last entry.
    """
    parts: list[MetricsWindow] = []
    last = ""
    async for entry_id, item in items:
        if parts and not _continues(parts[-1], item):
            yield last, _joined(parts)
            parts = []
        if isinstance(item, MetricsWindow):
            parts.append(item)
        else:
            yield entry_id, item
        last = entry_id
    if parts:
        yield last, _joined(parts)


def _read(kind: type[Item], data: bytes, *, published: float) -> Item:
    """Read an entry's data.

    Raises:
        ValueError: it is not what its type says, or of a time that has not come: after it no other would count.
    """
    item = msgspec.json.decode(data, type=kind)
    at = seconds_of(item.start if isinstance(item, MetricsWindow) else item.time)
    if at > published + _MOST_AHEAD:
        raise ValueError(f"its time is {at - published:.0f} s ahead of when it was published")
    return item


def _continues(last: MetricsWindow, item: Item) -> bool:
    return (
        isinstance(item, MetricsWindow)
        and (item.start, item.seconds, item.scope) == (last.start, last.seconds, last.scope)
        and item.part == last.part + 1
    )


def _joined(parts: list[MetricsWindow]) -> MetricsWindow:
    if len(parts) == 1:
        return parts[0]
    return msgspec.structs.replace(parts[0], series=[series for part in parts for series in part.series])


def empty_windows(mesh: MetricsWindow, end: float, last: float, lateness: float) -> Iterator[float]:
    """Yield the starts of the empty windows of events that the window `mesh`, which ended at `end`, proves.

    `last` is the end of the last one there was. The gauges say how far behind the processor is: what ended
    before that and has not come was empty. `lateness` is how many seconds it waits for late events.
    """
    behind = _behind(mesh.series)
    if behind is None:
        return
    until = end - behind - lateness - _ON_THE_WAY
    start = max(last, until // mesh.seconds * mesh.seconds - _MOST * mesh.seconds)
    while start + mesh.seconds <= until:
        yield start
        start += mesh.seconds


def _behind(series: Sequence[Series]) -> float | None:
    """Return how many seconds the metrics processor is behind with the events; None if that is not known."""
    own = [one for one in series if one.labels.get("group") == _METRICS and one.value is not None]
    if any(one.value for one in own if one.name in ("delayed", "retry")):
        return None  # it closes no window while an event waits to be tried again
    return max((one.value or 0.0 for one in own if one.name in ("lag_age", "oldest_pending")), default=None)
