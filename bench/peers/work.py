"""What every job does, whichever library runs it. Standard library only.

noop: nothing. stamp: says how long it waited. slow: takes 5 ms, then says that it is done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench import journal

SLOW = 0.005

logging.disable(logging.INFO)  # some log two lines for each job unless told otherwise


async def run(job: Mapping[str, Any]) -> None:
    if job["kind"] == "slow":
        await asyncio.sleep(SLOW)
    finish(job)


async def run_all(jobs: Sequence[Mapping[str, Any]]) -> None:
    """Run a list of one kind as whoever takes lists would."""
    if jobs[0]["kind"] == "noop":
        journal.count(len(jobs))
        return
    await asyncio.gather(*map(run, jobs))


def run_blocking(job: Mapping[str, Any]) -> None:
    if job["kind"] == "slow":
        time.sleep(SLOW)
    finish(job)


def finish(job: Mapping[str, Any]) -> None:
    if job["kind"] == "noop":
        journal.count()
    elif job["kind"] == "stamp":
        journal.stamp(job["at"])
    else:
        journal.line(job["at"])  # for a slow job its number
