"""`penstock trace` and `penstock traces`: what an event led to, read from the streams alone."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from penstock.cli.session import run, session
from penstock.cli.terminal import AsJson, print_json, printable
from penstock.cli.trace_view import listing, picture
from penstock.errors import AmbiguousEvent, ConfigurationError
from penstock.service.main import Negative
from penstock.traces import Trace, TraceList, Traces
from penstock.traces.lookup import NEWEST

_WIDTH = 100  # where nothing says how wide the terminal is

Newest = Annotated[int, typer.Option(min=1, metavar="N", help="Search the newest N entries of every stream.")]


def trace(
    trace_id: Annotated[str | None, typer.Argument(metavar="[TRACE_ID]", help="32 hexadecimal digits.")] = None,
    *,
    event: Annotated[str | None, typer.Option(metavar="ID", help="The trace of this event, or job.")] = None,
    source: Annotated[str | None, typer.Option(help="Whose event, where several have the id.")] = None,
    newest: Newest = NEWEST,
    as_json: AsJson = False,
) -> None:
    """Draw one trace: every event, what it led to, and how each attempt at it went.

    waited: in the stream before a process read it; ran: in the handler. A group that does not report its
    attempts is drawn from when the event was published until it published something for it.
    Exits with 1 if the trace is not found.

    JSON: {"trace_id", "trace_ids", "state", "type", "started", "now", "duration", "attempts", "events":
    [{"id", "type", "parent", "depth", "offset", "hops": [{"group", "state", "attempts": [...]}], ...}], "notes"}.
    """
    if (trace_id is None) == (event is None):
        raise ConfigurationError("name a trace by its id, or an event with --event ID; `penstock traces` lists some")
    wanted = trace_id or event or ""
    found = run(_find(wanted, source, newest))
    if found is None:
        what = f"{'event' if event else 'trace'} {printable(wanted)}"
        raise Negative(f"no {what} is among the newest {newest} entries of any stream; --newest searches more")
    if as_json:
        print_json(found)
    else:
        screen = _console()
        screen.print(picture(found, screen.width))


def traces(
    *,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many.")] = 20,
    newest: Newest = NEWEST,
    as_json: AsJson = False,
) -> None:
    """List recent traces, the newest first.

    JSON: {"traces": [{"trace_id", "state", "type", "started", "duration", "events", "attempts", "error"}],
    "notes"}.
    """
    found = run(_recent(limit, newest))
    if as_json:
        print_json(found)
    else:
        _print_list(found)


async def _find(wanted: str, source: str | None, newest: int) -> Trace | None:
    async with session() as here:
        try:
            return await Traces(here.redis, here.keys, here.topology).find(wanted, source=source, newest=newest)
        except AmbiguousEvent as error:
            raise Negative(f"{error} with --source") from None


async def _recent(limit: int, newest: int) -> TraceList:
    async with session() as here:
        return await Traces(here.redis, here.keys, here.topology).recent(limit=limit, newest=newest)


def _print_list(found: TraceList) -> None:
    screen = _console()
    if not found.traces:
        screen.print("no traces yet")
        return
    screen.print(listing(found.traces, screen.width))
    for note in found.notes:
        screen.print(Text(printable(note), style="dim italic"))


def _console() -> Console:
    """Return a console as wide as the terminal: a picture keeps to it, also where it is piped to a pager."""
    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    return Console(highlight=False, markup=False, emoji=False, width=width, file=sys.stdout)
