"""Windows in which nothing happened: the metrics processor publishes none, and rules must know all the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.schemas import MetricsWindow, Series
from penstock.topology import EVENTS

_METRICS = "metrics"  # the group of the metrics processor
_MOST = 360  # windows found at once: an hour of 10 s
_ON_THE_WAY = 15.0  # seconds that a window may need to be published, beyond the lateness allowed to its events


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
    labels = {"stream": EVENTS, "group": _METRICS}
    own = {one.name: one.value for one in series if one.labels == labels and one.value is not None}
    if own.get("delayed") or own.get("retry"):
        return None  # it closes no window while an event waits to be tried again
    return max((own[name] for name in ("lag_age", "oldest_pending") if name in own), default=None)
