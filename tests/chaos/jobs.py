"""Jobs for the chaos tests: slow ones, ones that wait for a file, and some that are rough with their process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from pathlib import Path
from typing import Any

from penstock import Context, Service

jobs = Service("chaos")


def note(path: str, *words: object) -> None:
    """Add a line to a file that several processes write."""
    with Path(path).open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


@jobs.on("ingest", type="work")
async def work(data: dict[str, Any]) -> Any:
    await asyncio.sleep(data.get("seconds", 0.005))
    return data.get("n")


@jobs.on("ingest", type="held")
async def held(data: dict[str, Any]) -> Any:
    """Run until the file `until` is there; note in `notes` who begins and who is cancelled."""
    note(data["notes"], "begun", data["n"], os.getpid())
    try:
        while not os.path.exists(data["until"]):  # noqa: ASYNC110, ASYNC240, PTH110 - another process makes it
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        note(data["notes"], "cancelled", data["n"], os.getpid())
        raise
    return data["n"]


def keep_the_lock(data: dict[str, Any]) -> Any:
    """Do what a long call into C does that never releases the interpreter's lock."""
    note(data["notes"], "begun", data["n"], os.getpid())
    ctypes.PyDLL(None).sleep(data["seconds"])
    return data["n"]


@jobs.on("ingest", type="lock.plain")
def lock_plain(data: dict[str, Any]) -> Any:
    return keep_the_lock(data)


@jobs.on("ingest", type="lock.loop")
async def lock_loop(data: dict[str, Any]) -> Any:
    return keep_the_lock(data)


@jobs.on("ingest", type="charges")
async def charges(data: dict[str, Any], ctx: Context) -> Any:
    """Charge each amount in a step of one name; the first process to have charged two of them dies then."""

    async def charge(amount: int) -> int:
        await ctx.redis.rpush("charged", amount)
        return amount

    charged = []
    for amount in data["amounts"]:
        charged.append(await ctx.step("charge", charge, amount))
        if len(charged) == 2 and await ctx.redis.set("died", 1, nx=True):
            os.kill(os.getpid(), signal.SIGKILL)
    return charged


@jobs.on("ingest", type="poison")
async def poison(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
