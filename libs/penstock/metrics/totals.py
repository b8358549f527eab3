"""Totals since the beginning: what never goes down, for Prometheus."""

from __future__ import annotations

import zlib
from typing import Final

import msgspec

from penstock.metrics.tally import SeriesKey, Tallies, Tally

FORGOTTEN: Final = 86_400
"""Seconds after which a series that has had no events disappears from the totals."""


class Totals:
    """Everything that was ever counted in closed windows, with the start of each series' last one."""

    def __init__(self, tallies: Tallies | None = None, seen: dict[SeriesKey, int] | None = None) -> None:
        self.tallies = tallies or Tallies()
        self.seen = seen or {}

    def add(self, start: int, window: Tallies, most: int) -> None:
        """Count the window that began at `start`; keep at most `most` series."""
        for key in [key for key, seen in self.seen.items() if seen < start - FORGOTTEN]:
            del self.tallies.series[key]
        self.tallies.merge(window)
        self.tallies.bound(most)
        for tally in self.tallies.series.values():
            tally.slowest, tally.failed = [], []
        latest = dict.fromkeys(window.series, start)
        self.seen = {key: latest.get(key, self.seen.get(key, start)) for key in self.tallies.series}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(tuple[list[tuple[SeriesKey, Tally, int]], int])


def pack(totals: Totals) -> bytes:
    """Return totals compressed."""
    rows = [(key, tally, totals.seen[key]) for key, tally in totals.tallies.series.items()]
    return zlib.compress(_encoder.encode((rows, totals.tallies.late)))


def unpack(packed: bytes | None) -> Totals:
    """Read what `pack` wrote; None is where nothing was counted yet."""
    if packed is None:
        return Totals()
    rows, late = _decoder.decode(zlib.decompress(packed))
    return Totals(Tallies({key: tally for key, tally, _ in rows}, late), {key: seen for key, _, seen in rows})
