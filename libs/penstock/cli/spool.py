"""`penstock spool`: what was accepted while Redis was away and lies on this machine's disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from penstock.cli.session import run, session
from penstock.cli.terminal import AsJson, console, print_json, print_table
from penstock.errors import UNREADABLE, ConfigurationError
from penstock.redis.connection import hide_password
from penstock.service.main import Negative
from penstock.settings import Settings, redis_url
from penstock.spool.directory import Directory, Owner
from penstock.spool.inspection import Inspected, inspect
from penstock.spool.spooling import Spooling, bounds_of
from penstock.streams.durability import check_durability
from penstock.streams.kept import KeptEvents
from penstock.times import duration

app = typer.Typer(
    name="spool", help="Show, check and empty the spool: what was accepted while Redis was away.", no_args_is_help=True
)

Folder = Annotated[
    Path | None, typer.Option("--dir", help="The spool directory, if it is not that of PENSTOCK_SPOOL_DIR.")
]
Spools = Annotated[list[str] | None, typer.Argument(metavar="SPOOL...", help="Names as `spool ls` shows them.")]


@app.command()
def ls(*, folder: Folder = None, as_json: AsJson = False) -> None:
    """List the spools: whose each is, what waits in it and since when; and what was put aside."""
    directory = _directory(folder)
    found, aside = inspect(directory), directory.put_aside_names()
    if as_json:
        print_json({"spools": found, "aside": aside})
        return
    if found:
        columns = ["spool", "program", "process", "events", "bytes", "oldest", "for"]
        print_table(columns, [_row(one) for one in found], numbers=["events", "bytes"])
    else:
        console().print("nothing is spooled")
    _print_aside(directory, aside)


@app.command()
def check(*, folder: Folder = None, as_json: AsJson = False) -> None:
    """Read everything in the spools; exit with 1 if something is damaged or was put aside. Nothing is changed."""
    directory = _directory(folder)
    found, aside = inspect(directory), directory.put_aside_names()
    damaged = [one for one in found if one.damage]
    if as_json:
        print_json({"spools": found, "aside": aside})
    else:
        for one in damaged:
            for damage in one.damage:
                console().print(f"{one.name}: {damage}")
        _print_aside(directory, aside)
    if damaged or aside:
        raise Negative(f"{len(damaged)} of {len(found)} spools are damaged, {len(aside)} files were put aside")
    if not as_json:
        console().print(f"{len(found)} spools, {sum(one.events for one in found)} events: all can be read")


@app.command()
def drain(spools: Spools = None, *, folder: Folder = None) -> None:
    """Publish what lies in spools whose process is gone; those of other meshes only if they are named.

    What a running process has spooled it publishes itself.
    """
    directory = _directory(folder)
    for name in spools or ():
        if name not in directory.names():
            raise ConfigurationError(f"{directory.path} has no spool {name}")
        if directory.is_owned(name):
            raise Negative(f"the process of spool {name} runs, and publishes it itself once Redis takes it")
    count = run(_drain(directory, spools))
    console().print(f"published {count} events")


async def _drain(directory: Directory, spools: list[str] | None) -> int:
    async with session() as here:
        settings = here.settings
        owner = Owner(program="penstock-cli", server=hide_password(redis_url(settings)), prefix=settings.prefix)
        durability = await check_durability(here.redis, settings.durability)
        outlet = KeptEvents(here.redis, here.keys, durability, settings.durability_timeout)
        spooling = Spooling(directory, owner, bounds_of(settings))
        try:
            await spooling.drain(outlet, spools)
        finally:
            await outlet.disconnect()
        return spooling.replayed


def _directory(folder: Path | None) -> Directory:
    path = folder or Settings.from_env().spool_dir
    if not path:
        raise ConfigurationError("there is no spool: set PENSTOCK_SPOOL_DIR, or say --dir")
    if not Path(path).is_dir():
        raise ConfigurationError(f"{path} is no folder; set PENSTOCK_SPOOL_DIR, or --dir, to the spool directory")
    return Directory(path)


def _row(one: Inspected) -> list[str]:
    process = f"{one.owner.pid} on {one.owner.host}" if one.in_use else "gone"
    oldest = "-" if one.oldest is None else f"{duration(max(0, round(time.time() - one.oldest / 1000)))} ago"
    return [one.name, one.owner.program, process, str(one.events), str(one.bytes), oldest, one.owner.server]


def _print_aside(directory: Directory, names: list[str]) -> None:
    if names:
        console().print(f"put aside in {directory.aside}; delete them once they are of no more use:")
        for name in names:
            console().print(f"  {name}{_why(directory.aside / name)}")


def _why(path: Path) -> str:
    if path.suffix != ".json":
        return "  a segment that was damaged: what could be read of it is published"
    try:
        told = msgspec.json.decode(path.read_bytes(), type=dict)
    except (OSError, *UNREADABLE):
        return ""
    return f"  {told.get('fields', {}).get('type', '')}: {told.get('why', '')}"
