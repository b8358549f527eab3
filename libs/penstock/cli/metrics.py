"""`penstock metrics`: what happens in the mesh, as the metrics service has counted it."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from penstock.cli.metrics_view import Look, render
from penstock.cli.session import Session, run, session
from penstock.cli.terminal import console, print_json
from penstock.errors import ConfigurationError
from penstock.metrics.report import WindowQuery, report
from penstock.metrics.windows import WindowReader
from penstock.redis.connection import unavailable

_REFRESH = 1.0  # seconds


def metrics(
    *,
    window: Annotated[
        int, typer.Option(help="Length of the windows in seconds: 10 (kept for an hour) or 60 (a day).")
    ] = 10,
    since: Annotated[str, typer.Option(help="From when on: a duration before now, such as 15m, or a time.")] = "5m",
    name: Annotated[str, typer.Option(help="Only series of this name: jobs, events, lag_age ...")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="LABEL=VALUE", help="Only series with this label.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print once, rather than follow along.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs, once.")] = False,
) -> None:
    """Show rates, failures and durations of jobs, counts of events, and how far every group has come.

    Durations are within 1 % of the exact ones. Without a terminal it prints once. Where
    there is no room for a column the table says so: a wider terminal (or COLUMNS) has it, and --json all.

    JSON: {"now", "watermark", "windows": [{"start", "seconds", "open", "late", "series": [...]}]}.
    """
    query = WindowQuery.parse({"window": str(window), "since": since, "name": name, **_labels(label or [])})
    run(_print_json(query) if as_json else _show(query, follow=not once and sys.stdout.isatty()))


def _labels(pairs: list[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        label, separator, value = pair.partition("=")
        if not separator:
            raise ConfigurationError(f"--label {pair}: write it as LABEL=VALUE, such as job_type=ticket.created")
        labels[label] = value
    return labels


async def _print_json(query: WindowQuery) -> None:
    async with session() as here:
        print_json(await report(here.redis, here.keys, here.topology, query))


async def _show(query: WindowQuery, *, follow: bool) -> None:
    async with session() as here:
        screen = console()
        first = render(await _look(here, query), screen.width)
        if not follow:
            screen.print(first)
            return
        with Live(first, console=screen, auto_refresh=False, screen=True) as live:
            while True:
                await asyncio.sleep(_REFRESH)
                live.update(await _try_look(here, query, screen.width), refresh=True)


async def _try_look(here: Session, query: WindowQuery, width: int) -> RenderableType:
    try:
        return render(await _look(here, query), width)
    except Exception as error:
        away = unavailable(error)
        if away is None:
            raise
        return Text(f"{away}; trying again", style="red")


async def _look(here: Session, query: WindowQuery) -> Look:
    seconds, micros = await here.redis.time()
    since, until = query.span(seconds + micros / 1e6)
    windows = await WindowReader(here.redis, here.keys).read(query.seconds, since, until)
    return Look(query=query, since=since, until=until, windows=windows)
