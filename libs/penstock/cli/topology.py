"""`penstock topology`: streams.yaml, alone and against the live Redis, and the Redis users that follow from it."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.acl import acl
from penstock.cli.session import run, session
from penstock.cli.terminal import console, print_json
from penstock.cli.up.programs import programs
from penstock.mesh.drift import Difference, drift
from penstock.settings import Settings
from penstock.topology import FILE, Topology, is_given, load

app = typer.Typer(
    name="topology", help="Check streams.yaml, and make the Redis users that it asks for.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    """Check streams.yaml, and make the Redis users that it asks for."""


app.command()(acl)


@app.command()
def check(
    file_only: Annotated[bool, typer.Option("--file-only", help="Do not compare with Redis.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check streams.yaml as a whole and compare it with the live Redis.

    Exits with 1 if they differ: a group that does not exist yet, one that streams.yaml does not know, a stream that
    nobody declares. Without a streams.yaml it checks the topology that the running services keep in Redis.

    JSON: {"ok", "differences": [{"kind", "stream", "group", "message"}]}.
    """
    given = Settings.from_env().topology
    differences: list[Difference] = []
    if file_only or is_given(given):
        name, topology = FILE, load(given)
        if any(spec.run for spec in topology.services.values()):
            programs(topology)
        if not file_only:
            differences = run(_compare())[1]
    else:
        name = "no streams.yaml here; the topology in Redis"
        topology, differences = run(_compare())
    if as_json:
        print_json({"ok": not differences, "differences": differences})
    else:
        _print(name, topology, differences, file_only=file_only)
    if differences:
        raise typer.Exit(1)


async def _compare() -> tuple[Topology, list[Difference]]:
    async with session() as here:
        return here.topology, await drift(here.redis, here.keys, here.topology)


def _print(name: str, topology: Topology, differences: list[Difference], *, file_only: bool) -> None:
    out = console()
    groups = sum(len(spec.consumes) for spec in topology.services.values())
    size = f"{len(topology.streams)} streams, {len(topology.services)} services, {groups} groups"
    if not differences:
        out.print(f"{name} is sound: {size}" + ("" if file_only else "; Redis agrees"))
        return
    out.print(f"{name} is sound: {size}; Redis differs:")
    for difference in differences:
        out.print(f"  {difference.message}")
