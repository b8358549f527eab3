"""Plain jobs: short ones, and ones that run until a file is there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from penstock import Context, Service

jobs = Service("slots")


@jobs.on("ingest", type="long")
@jobs.on("other", type="long")
def long(data: dict[str, Any], ctx: Context) -> None:
    with Path(data["begun"]).open("a") as file:
        file.write(f"{data['n']} {os.getpid()}\n")
    while not Path(data["until"]).exists():
        time.sleep(0.01)
    ctx.emit("events", "long.done", data["n"])


@jobs.on("ingest", type="short")
@jobs.on("other", type="short")
def short(data: dict[str, Any], ctx: Context) -> None:
    ctx.emit("events", "short.done", data["n"])
