"""Jobs for the chaos tests: slow ones, and one that takes its process with it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from penstock import Service

jobs = Service("chaos")


@jobs.on("ingest", type="work")
async def work(data: dict[str, Any]) -> Any:
    await asyncio.sleep(data.get("seconds", 0.005))
    return data.get("n")


@jobs.on("ingest", type="poison")
async def poison(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
