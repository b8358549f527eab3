"""What is counted in one window, and how parts of a window become one."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from penstock.metrics.sketch import Distribution

OTHER = "(other)"
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


class Tallies:
    """All series of a window, or of a part of it. `late` counts events that came too late for their own."""

    def __init__(self, series: dict[SeriesKey, Tally] | None = None, late: int = 0) -> None:
        self.series = series or {}
        self.late = late

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

    def merge(self, other: Tallies) -> None:
        """Count everything that `other` holds."""
        for key, tally in other.series.items():
            self.of(key).merge(tally)
        self.late += other.late

    def bound(self, most: int) -> int:
        """Join the series with the fewest events under the name (other), so that `most` are left.

        Returns how many were joined.
        """
        if len(self.series) <= most:
            return 0
        other = self.series.pop(SeriesKey(OTHER), Tally())
        ranked = sorted(self.series, key=lambda key: (-self.series[key].count, key))
        for key in ranked[most - 1 :]:
            other.merge(self.series.pop(key))
        self.series[SeriesKey(OTHER)] = other
        return len(ranked) - most + 1


def merged(parts: Iterable[Tallies]) -> Tallies:
    """Return the sum of parts."""
    total = Tallies()
    for part in parts:
        total.merge(part)
    return total


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[list[tuple[SeriesKey, Tally]], int])


def encode(tallies: Tallies) -> str:
    """Return tallies as text: a part of an open window."""
    return _encoder.encode((list(tallies.series.items()), tallies.late)).decode()


def decode(text: bytes) -> Tallies:
    """Read what `encode` wrote."""
    series, late = _decoder.decode(text)
    return Tallies(dict(series), late)


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
