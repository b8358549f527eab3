"""Windows as people and programs are shown them, with a choice of series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from penstock.config import read_moment
from penstock.errors import ConfigurationError
from penstock.keys import Keys
from penstock.metrics.rollup import roll_up
from penstock.metrics.windows import LONG, SERVICE, SHORT, Window, WindowReader, counted_streams
from penstock.redis.connection import AsyncRedis
from penstock.schemas import Series
from penstock.streams.position import watermark_of
from penstock.times import rfc3339
from penstock.topology import Topology

LABELS: Final = ("type", "service", "tenant", "job_type", "stream", "group")
_DEFAULT_SPAN = {SHORT: 600.0, LONG: 3_600.0}


class WindowQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which windows and which of their series.

    `seconds` is the length of the windows, 10 or 60. `since` and `until` are an RFC 3339 time or a duration
    before now such as `15m`; `since` is ten windows of a minute or so back if it is empty. A series must have
    the `name` and every one of `labels` that are given.
    """

    seconds: int = SHORT
    since: str = ""
    until: str = ""
    name: str = ""
    labels: dict[str, str] = {}

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> WindowQuery:
        """Read a query from `window`, `since`, `until`, `name` and the names of labels.

        Raises:
            ConfigurationError: a parameter is unknown or its value cannot be used.
        """
        known = ("window", "since", "until", "name", *LABELS)
        for parameter in parameters:
            if parameter not in known:
                raise ConfigurationError(f"{parameter}: there is no such parameter; there are {', '.join(known)}")
        window = parameters.get("window", str(SHORT))
        if window not in (str(SHORT), str(LONG)):
            raise ConfigurationError(f"window: {window!r} is neither {SHORT} nor {LONG}, the seconds of a window")
        query = cls(
            seconds=int(window),
            since=parameters.get("since", ""),
            until=parameters.get("until", ""),
            name=parameters.get("name", ""),
            labels={label: parameters[label] for label in LABELS if label in parameters},
        )
        query.span(0.0)
        return query

    def span(self, now: float) -> tuple[float, float]:
        """Return the times, in seconds, between which the windows begin.

        Raises:
            ConfigurationError: `since` or `until` is not a time.
        """
        until = read_moment(self.until, "until", now) if self.until else now
        since = read_moment(self.since, "since", now) if self.since else until - _DEFAULT_SPAN[self.seconds]
        return since, until

    def wants(self, series: Series) -> bool:
        """Return whether a series is one of those asked for."""
        return self.name in ("", series.name) and self.labels.items() <= series.labels.items()


class WindowReport(msgspec.Struct, frozen=True, kw_only=True):
    """A window. While it is `open` more may be counted, and rates are over the time it has lasted so far."""

    start: str
    seconds: int
    open: bool
    late: int
    series: list[Series]


class MetricsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Windows in their order. Everything published before `watermark` is counted; None: this is not known now."""

    now: str
    watermark: str | None
    windows: list[WindowReport]


async def report(client: AsyncRedis, keys: Keys, topology: Topology, query: WindowQuery) -> MetricsReport:
    """Return the windows that `query` asks for.

    Raises:
        ConfigurationError: `since` or `until` is not a time.
        redis.exceptions.RedisError: Redis is away.
    """
    watermark, now_ms = await watermark_of(client, keys, counted_streams(topology), SERVICE)
    now = now_ms / 1000
    windows = await WindowReader(client, keys).read(query.seconds, *query.span(now))
    return MetricsReport(
        now=rfc3339(now),
        watermark=None if watermark is None else rfc3339(watermark / 1000),
        windows=[_shown(window, query, now) for window in windows],
    )


def _shown(window: Window, query: WindowQuery, now: float) -> WindowReport:
    lasted = min(max(now - window.start, 1.0), window.seconds) if window.is_open else window.seconds
    return WindowReport(
        start=rfc3339(window.start),
        seconds=window.seconds,
        open=window.is_open,
        late=window.tallies.late,
        series=[series for series in [*roll_up(window.tallies, lasted), *window.gauges] if query.wants(series)],
    )
