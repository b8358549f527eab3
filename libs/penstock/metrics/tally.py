"""What is counted in one window, and how parts of a window become one."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from penstock.metrics.sketch import Distribution

OTHER = "(other)"
FAILURES = frozenset({"job.failed", "job.dead"})
ATTEMPTS = frozenset({"job.completed", *FAILURES})
"""What tells how an attempt at a job ended."""
JOB_TYPES = ATTEMPTS | {"job.started", "job.snoozed"}
_MOST_SOURCES = 1_000
_EXAMPLES = 3  # kept of each kind, for each series and window


class SeriesKey(NamedTuple):
    """Which events are counted together; what is unknown of them is empty."""

    type: str
    service: str = ""
    tenant: str = ""
    job_type: str = ""


class Example(msgspec.Struct, frozen=True, array_like=True):
    """An event that may stand for its series."""

    event_id: str
    trace_id: str
    duration: float | None = None
    error: str | None = None
    span_id: str = ""


class Tally(msgspec.Struct, array_like=True):
    """What is known of one series.

    Which examples are kept depends on the events alone, not on the order or the portions they came in:
    the slowest three, and of the failed the three whose ids sort first, a bottom-k sample.
    """

    count: int = 0
    errors: int = 0
    duration: Distribution | None = None
    queue_wait: Distribution | None = None
    slowest: list[Example] = []
    failed: list[Example] = []

    def merge(self, other: Tally) -> None:
        """Count everything that `other` holds."""
        self.count += other.count
        self.errors += other.errors
        self.duration = _merged(self.duration, other.duration)
        self.queue_wait = _merged(self.queue_wait, other.queue_wait)
        if other.slowest:
            self.slowest = sorted(self.slowest + other.slowest, key=_slowness)[:_EXAMPLES]
        if other.failed:
            self.failed = sorted(self.failed + other.failed, key=_identity)[:_EXAMPLES]

    def add_slow(self, duration: float, event_id: str, trace_id: str, span_id: str = "") -> None:
        """Keep an event as an example if it is among the slowest."""
        if len(self.slowest) < _EXAMPLES or duration >= (self.slowest[-1].duration or 0.0):
            example = Example(event_id, trace_id, duration, span_id=span_id)
            self.slowest = sorted([*self.slowest, example], key=_slowness)[:_EXAMPLES]

    def add_failed(self, example: Example) -> None:
        """Keep a failed event as an example if it belongs to the sample."""
        if len(self.failed) < _EXAMPLES or example.event_id < self.failed[-1].event_id:
            self.failed = sorted([*self.failed, example], key=_identity)[:_EXAMPLES]


class SourceTally(msgspec.Struct, array_like=True):
    """What is odd about a source: how many fields of its events could not be counted, and its clock.

    `skew` is the least time, in ms, between what its events state and when they arrived, either way; None if
    none of them states a time.
    """

    malformed: int = 0
    skew: int | None = None

    def merge(self, other: SourceTally) -> None:
        """Count everything that `other` holds."""
        self.malformed += other.malformed
        skews = [skew for skew in (self.skew, other.skew) if skew is not None]
        self.skew = min(skews, default=None)


class Tallies:
    """All series of a window, or of a part of it.

    `late` counts those events that came too late for the window of their own time. `overflow` is how many series
    were joined with others for lack of room, `sources` what is odd about whom.
    """

    def __init__(
        self,
        series: dict[SeriesKey, Tally] | None = None,
        late: int = 0,
        overflow: int = 0,
        sources: dict[str, SourceTally] | None = None,
    ) -> None:
        self.series = series or {}
        self.late = late
        self.overflow = overflow
        self.sources = sources or {}

    @property
    def count(self) -> int:
        """How many events are counted in all series."""
        return sum(tally.count for tally in self.series.values())

    def of(self, key: SeriesKey) -> Tally:
        """Return the tally of a series, which is new if it is the first of it."""
        found = self.series.get(key)
        if found is None:
            found = self.series[key] = Tally()
        return found

    def source(self, name: str) -> SourceTally:
        """Return what is odd about a source; beyond so many of them, about all others together."""
        if name not in self.sources and len(self.sources) >= _MOST_SOURCES:
            name = OTHER
        return self.sources.setdefault(name, SourceTally())

    def merge(self, other: Tallies) -> None:
        """Count everything that `other` holds."""
        for key, tally in other.series.items():
            self.of(key).merge(tally)
        for name, source in other.sources.items():
            self.source(name).merge(source)
        self.late += other.late
        self.overflow = max(self.overflow, other.overflow)

    def bound(self, most: int) -> int:
        """Join series until `most` are left: first tenants, then whatever else tells them apart.

        All outcomes of a job stay apart or are joined together, so that no ratio of them is ever one of a part;
        what failed keeps its name longest, then what is frequent. The outcome itself is the last to go.
        Returns how many were joined.
        """
        joined = 0
        for collapse in _COLLAPSES:
            for family in self._families() if len(self.series) > most else ():
                for key in family:
                    if collapse(key) != key:
                        self.of(collapse(key)).merge(self.series.pop(key))
                        joined += 1
                if len(self.series) <= most:
                    break
        self.overflow = max(self.overflow, joined)
        return joined

    def _families(self) -> list[list[SeriesKey]]:
        """Return the series that belong together, those first that matter least."""
        families: dict[SeriesKey, list[SeriesKey]] = {}
        for key in self.series:
            families.setdefault(key._replace(type="job.*") if _is_job(key) else key, []).append(key)

        def weight(family: SeriesKey) -> tuple[bool, int]:
            tallies = [self.series[key] for key in families[family]]
            return any(tally.errors for tally in tallies), sum(tally.count for tally in tallies)

        by_name = sorted(families, reverse=True)  # of what weighs the same, that goes first whose name sorts last
        return [families[family] for family in sorted(by_name, key=weight)]


def _is_job(key: SeriesKey) -> bool:
    return key.type in JOB_TYPES


_COLLAPSES: tuple[Callable[[SeriesKey], SeriesKey], ...] = (
    lambda key: key._replace(tenant=OTHER) if key.tenant else key,
    lambda key: SeriesKey(key.type, OTHER, OTHER, OTHER) if _is_job(key) else SeriesKey(OTHER),
    lambda _: SeriesKey(OTHER),
)


def merged(parts: Iterable[Tallies]) -> Tallies:
    """Return the sum of parts."""
    total = Tallies()
    for part in parts:
        total.merge(part)
    return total


class _Encoded(msgspec.Struct, array_like=True):
    series: list[tuple[SeriesKey, Tally]]
    late: int
    overflow: int = 0
    sources: dict[str, SourceTally] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Encoded)


def encode(tallies: Tallies) -> str:
    """Return tallies as text: a part of an open window."""
    found = _Encoded(list(tallies.series.items()), tallies.late, tallies.overflow, tallies.sources)
    return _encoder.encode(found).decode()


def decode(text: bytes) -> Tallies:
    """Read what `encode` wrote."""
    found = _decoder.decode(text)
    return Tallies(dict(found.series), found.late, found.overflow, found.sources)


def pack(tallies: Tallies) -> bytes:
    """Return tallies compressed: a closed window, which is kept for long."""
    return zlib.compress(encode(tallies).encode())


def unpack(packed: bytes) -> Tallies:
    """Read what `pack` wrote."""
    return decode(zlib.decompress(packed))


def _merged(mine: Distribution | None, other: Distribution | None) -> Distribution | None:
    if other is None:
        return mine
    mine = mine or Distribution()
    mine.merge(other)
    return mine


def _slowness(example: Example) -> tuple[float, str]:
    return -(example.duration or 0.0), example.event_id


def _identity(example: Example) -> str:
    return example.event_id
