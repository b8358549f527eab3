"""A job for the stack: it takes a moment and says where it ran."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from penstock import Service

jobs = Service("stack")


@jobs.on("ingest", type="stack.work")
async def work(data: dict[str, Any]) -> str:
    await asyncio.sleep(data["seconds"])
    return socket.gethostname()
