"""Medians over runs, and tables in Markdown that are aligned for reading."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence

from bench.machine import CORES
from tests.servers import Server

Run = Mapping[str, float]


def medians(runs: Sequence[Run]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def ratio(runs: Sequence[Run], others: Sequence[Run], what: str) -> float:
    """Return the median over interleaved runs of one's figure to the other's in the same round."""
    return statistics.median(run[what] / other[what] for run, other in zip(runs, others, strict=True))


def percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns of numbers to the right."""
    given = [tuple(row) for row in rows]
    numeric = [all(isinstance(cell, int | float | None) for cell in column) for column in zip(*given, strict=True)]
    texts = [tuple(head), *(tuple(map(_text, row)) for row in given)]
    widths = [max(3, *map(len, column)) for column in zip(*texts, strict=True)]
    rule = ["-" * (width - right) + ":" * right for width, right in zip(widths, numeric, strict=True)]
    print(f"\n{title}\n")
    for row in (texts[0], rule, *texts[1:]):
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        print("|", " | ".join(aligned), "|", flush=True)


def conditions(server: Server, runs: int = 1) -> str:
    """Return a line that says what was measured on."""
    with server.client() as client:
        info = client.info("server")
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    how = f"medians of {runs} interleaved runs" if runs > 1 else "one run"
    load = os.getloadavg()[1]
    return f"Python {platform.python_version()}, {name} with AOF, {len(CORES)} cores; {how}; load before: {load:.1f}."


def _text(cell: object) -> str:
    if isinstance(cell, float):
        digits = 0 if abs(cell) >= 100 else 1 if abs(cell) >= 10 else 2
        return f"{cell:,.{digits}f}"
    return "" if cell is None else f"{cell:,}" if isinstance(cell, int) else str(cell)
