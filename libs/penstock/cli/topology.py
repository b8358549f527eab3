"""`penstock topology check`: streams.yaml, alone and against the live Redis."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.session import run, session
from penstock.cli.terminal import console, print_json
from penstock.cli.up.programs import programs
from penstock.mesh.drift import Difference, drift
from penstock.settings import Settings
from penstock.topology import Topology, load

app = typer.Typer(name="topology", help="Check streams.yaml.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Check streams.yaml."""


@app.command()
def check(
    file_only: Annotated[bool, typer.Option("--file-only", help="Do not compare with Redis.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check streams.yaml as a whole and compare it with the live Redis.

    Exits with 1 if they differ: a group that does not exist yet, one that streams.yaml does not know (retention
    does not wait for it), a stream that nobody declares.

    JSON: {"ok", "differences": [{"kind", "stream", "group", "message"}]}.
    """
    topology = load(Settings.from_env().topology)
    if any(spec.run for spec in topology.services.values()):
        programs(topology)
    differences = [] if file_only else run(_compare())
    if as_json:
        print_json({"ok": not differences, "differences": differences})
    else:
        _print(topology, differences, file_only=file_only)
    if differences:
        raise typer.Exit(1)


async def _compare() -> list[Difference]:
    async with session() as here:
        return await drift(here.redis, here.keys, here.topology)


def _print(topology: Topology, differences: list[Difference], *, file_only: bool) -> None:
    out = console()
    groups = sum(len(spec.consumes) for spec in topology.services.values())
    size = f"{len(topology.streams)} streams, {len(topology.services)} services, {groups} groups"
    if not differences:
        out.print(f"streams.yaml is sound: {size}" + ("" if file_only else "; Redis agrees"))
        return
    out.print(f"streams.yaml is sound: {size}; Redis differs:")
    for difference in differences:
        out.print(f"  {difference.message}")
