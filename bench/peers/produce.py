"""Sending jobs the way a library wants it. Runs in the library's own environment: standard library only.

    python -m bench.peers.produce ADAPTER one|many|steady|slow COUNT

Prints the seconds it took. `steady` sends 200 a second, stamped, for the latency; `slow` sends numbered jobs
of 5 ms, many at once.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

BYTES, AT_ONCE, RATE = 200, 500, 200
Job = dict[str, Any]


class Producer(Protocol):
    """What an adapter's `producer()` gives, as an async context manager."""

    async def one(self, job: Job) -> None:
        """Send a job and wait until the server has it."""

    async def many(self, jobs: Sequence[Job]) -> None:
        """Send jobs by the fastest way that the library documents."""


def payload(kind: str, at: float) -> Job:
    """Return a job of 200 bytes as JSON; the pad makes up for the length of the rest."""
    job: Job = {"kind": kind, "at": round(at, 6), "pad": ""}
    job["pad"] = "x" * (BYTES - len(str(job)))
    return job


async def _send(producer: Producer, how: str, count: int) -> float:
    jobs = [payload("slow" if how == "slow" else "noop", number) for number in range(count)]
    begun = time.perf_counter()
    if how == "one":
        for job in jobs:
            await producer.one(job)
    elif how == "steady":
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number / RATE - time.perf_counter()))
            await producer.one(payload("stamp", time.time()))
    else:
        for at in range(0, count, AT_ONCE):
            await producer.many(jobs[at : at + AT_ONCE])
    return time.perf_counter() - begun


async def main(adapter: str, how: str, count: int) -> None:
    async with importlib.import_module(f"bench.peers.{adapter}").producer() as producer:
        print(await _send(producer, how, count))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
