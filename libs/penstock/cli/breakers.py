"""`penstock breakers`: the circuit breakers of the mesh, and a hand on them."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from penstock.cli.session import run, session
from penstock.cli.terminal import console, print_json, print_table
from penstock.keys import EVENTS
from penstock.resilience.breaker import BreakerPolicy, Breakers, BreakerStatus, statuses
from penstock.times import duration

app = typer.Typer(name="breakers", help="Show circuit breakers, open or close them by hand.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name as `breakers ls` shows it.")]
Reason = Annotated[str, typer.Option(help="Why, for those who wonder.")]


@app.command()
def ls(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """List the circuit breakers that were ever used."""
    found = run(_statuses())
    if as_json:
        print_json([{**_fields(status), "healthy": status.healthy} for status in found])
    elif found:
        rows = [
            [one.name, one.state, str(one.failure_count), str(one.success_count), _ago(one.since), one.reason]
            for one in found
        ]
        columns = ["breaker", "state", "failures", "successes", "since", "why"]
        print_table(columns, rows, numbers=["failures", "successes"])
    else:
        console().print("no circuit breaker was used yet")


@app.command("open")
def open_(name: Name, *, reason: Reason = "opened by hand") -> None:
    """Open a breaker until it is closed by hand: what needs it waits."""
    run(_force(name, is_open=True, reason=reason))
    typer.echo(f"{name} is open")


@app.command()
def close(name: Name, *, reason: Reason = "closed by hand") -> None:
    """Close a breaker: calls pass again."""
    run(_force(name, is_open=False, reason=reason))
    typer.echo(f"{name} is closed")


async def _statuses() -> list[BreakerStatus]:
    async with session() as here:
        return await statuses(here.redis, here.keys)


async def _force(name: str, *, is_open: bool, reason: str) -> None:
    async with session() as here:
        events = here.keys.stream(EVENTS) if EVENTS in here.topology.streams else None
        breakers = Breakers(
            here.redis, here.keys, service="penstock-cli", policies=lambda _: BreakerPolicy(), events=events
        )
        await breakers.force(name, is_open=is_open, reason=reason)


def _fields(status: BreakerStatus) -> dict[str, object]:
    return {name: getattr(status, name) for name in status.__struct_fields__}


def _ago(since: float | None) -> str:
    return "-" if since is None else f"{duration(max(0, round(time.time() - since)))} ago"
