"""A fenced raw loop: what bench.raw_loop does, with what exactly once inside the mesh takes at the least.

One script commits a batch: for each entry it checks that it is still ours, adds one output and acknowledges.
This is the limit that Penstock stands beside.

    python -m bench.fenced_loop
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import redis.asyncio
import uvloop

from bench.raw_loop import CONSUMER, GROUP, STREAM, Entries, handle, read


async def main() -> None:
    client = redis.asyncio.from_url(os.environ["REDIS_URL"], protocol=2)
    script = client.register_script(Path(__file__).with_suffix(".lua").read_text())

    async def commit(_: Any, entries: Entries) -> None:
        arguments: list[str | bytes] = [GROUP, CONSUMER]
        for entry_id, fields in entries:
            await handle(fields)
            arguments += (entry_id, fields[b"data"])
        await script([STREAM, "events"], arguments)

    await read(client, commit)


if __name__ == "__main__":
    uvloop.run(main())
