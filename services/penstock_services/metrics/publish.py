"""Publishing windows on `metrics`, in the very transaction that closes them."""

from __future__ import annotations

from typing import Any, Literal

from penstock.event import derived_id, encode, encode_data
from penstock.keys import METRICS, Keys
from penstock.metrics.windows import SERVICE
from penstock.schemas import MetricsWindow, Series
from penstock.times import rfc3339
from penstock.trace_context import LINKS, TraceContext, format_links

TYPE = "metrics.window"
_MOST_SERIES = 100  # in one event: some 50 kB


def add_window(
    pipeline: Any,
    keys: Keys,
    *,
    start: int,
    seconds: int,
    scope: Literal["events", "mesh"],
    series: list[Series],
    late: int = 0,
) -> None:
    """Add the events of one closed window to a transaction.

    Their ids follow from the window, so that receivers outside the mesh can tell repetitions.
    """
    portions = [series[at : at + _MOST_SERIES] for at in range(0, len(series), _MOST_SERIES)] or [[]]
    for part, portion in enumerate(portions, 1):
        window = MetricsWindow(
            start=rfc3339(start),
            seconds=seconds,
            scope=scope,
            series=portion,
            part=part,
            parts=len(portions),
            late=late if part == 1 else 0,
        )
        event_id = derived_id(SERVICE, f"{scope}:{seconds}:{start}", str(part))
        links = _links(portion)
        extra = {LINKS: format_links(links)} if links else None
        fields = encode(TYPE, encode_data(window), event_id=event_id, source=SERVICE, extra=extra)
        pipeline.execute_command("XADD", keys.stream(METRICS), "*", *fields)


def _links(series: list[Series]) -> list[TraceContext]:
    """Return the traces of the exemplars: a roll-up is caused by all its events, and shows these."""
    exemplars = (one for row in series for one in row.exemplars if one.span_id)
    return list(dict.fromkeys(TraceContext(one.trace_id, one.span_id) for one in exemplars))
