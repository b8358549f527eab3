"""`penstock silence`: what nobody is to be told of for a while."""

from __future__ import annotations

import getpass
import time
from typing import Annotated

import typer

from penstock.cli.session import Session, run, session
from penstock.cli.terminal import console, print_json, print_table, printable
from penstock.config import Duration
from penstock.errors import ConfigurationError
from penstock.mesh.alerts import AlertStore, Silence, present
from penstock.service.main import Negative
from penstock.times import rfc3339

app = typer.Typer(name="silence", help="Tell nobody of certain alerts for a while.", no_args_is_help=True)


@app.command()
def add(
    matchers: Annotated[
        list[str],
        typer.Argument(
            metavar="MATCHER...",
            help="LABEL=PATTERN or LABEL!=PATTERN; rule and severity are labels too.",
        ),
    ],
    duration: Annotated[str, typer.Option("--for", help="How long, such as 2h.")],
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    author: Annotated[str | None, typer.Option(help="Who says so; you, if absent.")] = None,
) -> None:
    """Tell nobody of the alerts that match all of these; they fire and resolve all the same."""
    try:
        seconds = Duration.parse(duration)
    except ValueError as error:
        raise ConfigurationError(f"--for: {error}") from None
    made = run(_add(matchers, seconds, author or getpass.getuser(), comment))
    typer.echo(f"{made.id}: until {rfc3339(made.until)}")


@app.command("ls")
def list_silences(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List the silences, the first to end first."""
    found = run(_silences())
    if as_json:
        print_json([present(one) for one in found])
    elif found:
        rows = [_row(one) for one in found]
        print_table(["silence", "until", "matchers", "author", "comment"], rows, whole=["silence", "until"])
    else:
        console().print("no silences")


@app.command("rm")
def remove(
    silences: Annotated[list[str], typer.Argument(metavar="SILENCE...", help="Ids as `silence ls` shows.")],
) -> None:
    """End silences now; what they suppressed back and still fires is told."""
    missing = run(_remove(silences))
    if missing:
        raise Negative(f"there is no silence {', '.join(missing)}")


async def _silences() -> list[Silence]:
    async with session() as here:
        return await _store(here).silences()


async def _add(matchers: list[str], seconds: float, author: str, comment: str) -> Silence:
    async with session() as here:
        return await _store(here).add_silence(matchers, seconds=seconds, author=author, comment=comment)


async def _remove(silences: list[str]) -> list[str]:
    async with session() as here:
        return [one for one in silences if not await _store(here).remove_silence(one)]


def _store(here: Session) -> AlertStore:
    return AlertStore(here.redis, here.keys)


def _row(one: Silence) -> list[str]:
    over = " (over)" if one.until <= time.time() else ""
    until = rfc3339(one.until)[:19] + over
    return [one.id, until, printable(" ".join(one.matchers)), printable(one.author), printable(one.comment)]
