"""`penstock connections`: who follows what happens, and over which connection."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from penstock.cli.session import run, session
from penstock.cli.terminal import console, print_json, print_table
from penstock.live.registry import Connections, LiveConnection


def connections(*, as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """List the live connections of browsers and other programs, over all processes that serve them."""
    found = run(_all())
    if as_json:
        print_json(msgspec.to_builtins(found))
    elif found:
        rows = [
            [one.id, one.kind, one.client or "-", one.tenant or "-", one.since, _followed(one), one.seen_at]
            for one in found
        ]
        print_table(["connection", "kind", "client", "tenant", "since", "follows", "seen"], rows)
    else:
        console().print("nobody follows what happens")


async def _all() -> list[LiveConnection]:
    async with session() as here:
        return await Connections(here.redis, here.keys, name=here.settings.registry_key).all()


def _followed(one: LiveConnection) -> str:
    more = one.subscriptions - len(one.topics)
    return "\n".join([*one.topics, *([f"and {more} more"] if more else [])]) or "-"
