"""`penstock status`: how the mesh stands."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import msgspec
import typer

from penstock.cli.session import run, session
from penstock.cli.terminal import console, print_json, print_table
from penstock.mesh.drift import undeclared
from penstock.mesh.state import GroupState, MeshState, ServerState, mesh_state
from penstock.times import duration

_COUNTS = ("lag", "pending", "delayed", "retry", "dead", "consumers")


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """Show each stream's length and how each group stands with it.

    lag: never delivered; pending: in flight; delayed: waiting for the next try; retry: due for it;
    dead: dead letters not replayed; consumers: processes alive.

    JSON: {"redis": {"name", "version", "uptime", "memory"}, "streams": [{"name", "length", "scheduled", "declared"}],
    "groups": [{"stream", "group", "lag", "pending", "delayed", "retry", "dead", "consumers", "declared",
    "exists", "ids_ahead", "position"}]}. position: where a group that is gone will go on. ids_ahead: seconds that the
    stream's ids are ahead of Redis's clock, so that they tell no time.
    """
    found = run(_look())
    if as_json:
        print_json(found)
    else:
        _print(found)


async def _look() -> MeshState:
    async with session() as here:
        beyond = await undeclared(here.redis, here.keys, here.topology)
        return await mesh_state(here.redis, here.keys, here.topology, undeclared=beyond)


def _print(found: MeshState) -> None:
    console().print(_server(found.redis), style="dim")
    by_stream: dict[str, list[GroupState]] = {stream.name: [] for stream in found.streams}
    for group in found.groups:
        by_stream[group.stream].append(group)
    rows = []
    for stream in found.streams:
        length = f"{stream.length}" + (f" +{stream.scheduled} scheduled" if stream.scheduled else "")
        first = [stream.name if stream.declared else f"{stream.name} (not in streams.yaml)", length]
        for group in by_stream[stream.name]:
            rows.append([*first, _name(group), *_counts(group)])
            first = ["", ""]
        if first[0]:
            rows.append([*first, "-", *[""] * len(_COUNTS)])
    for name, seconds in {group.stream: group.ids_ahead for group in found.groups if group.ids_ahead}.items():
        console().print(
            f"{name}: its ids are {duration(seconds)} ahead of Redis's clock: somebody has added an entry with an id "
            "of his own, or the clock has gone back (docs/operations.md#clocks)"
        )
    print_table(["stream", "length", "group", *_COUNTS], rows, numbers=["length", *_COUNTS])


def _server(server: ServerState) -> str:
    up = timedelta(seconds=server.uptime)
    return f"{server.name} {server.version}, up {up}, {server.memory / 1e6:.1f} MB\n"


def _name(group: GroupState) -> str:
    return group.group if group.declared else f"{group.group} (not in streams.yaml)"


def _counts(group: GroupState) -> list[str]:
    counts = msgspec.structs.asdict(group)
    return [str(counts[name]) for name in _COUNTS]
