"""The spool: how fast events are kept while Redis is away, and published once it is back, beside no spool.

    python -m bench.spool [DIRECTORY]

Events are those of `bench.core.publish`. The directory says on which disk; synced means synced.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import SERVERS, fresh_server
from bench.peers.produce import payload
from bench.tables import Run, conditions, medians, table
from penstock.event import encode
from penstock.keys import Keys
from penstock.redis.connection import client
from penstock.spool.directory import Directory, Owner
from penstock.spool.spool import Bounds
from penstock.spool.spooling import Spooling
from penstock.streams.publish import Publisher
from tests.servers import Server

EVENTS, ONE_BY_ONE, RUNS = 50_000, 1_000, 3
CALLERS = 100
_DATA = json.dumps(payload("noop", 0.0))
_BOUNDS = Bounds(most_bytes=10**12, most_age=10**9, least_free=0)


async def _one_by_one(publisher: Publisher, count: int) -> None:
    for _ in range(count):
        await publisher.publish("ingest", encode("noop", _DATA))


async def _rate(publisher: Publisher, count: int, *, callers: int = 1, at_once: int = 1) -> float:
    started = time.perf_counter()
    if at_once > 1:
        for _ in range(0, count, at_once):
            await publisher.publish_all("ingest", [encode("noop", _DATA) for _ in range(at_once)])
    else:
        await asyncio.gather(*(_one_by_one(publisher, count // callers) for _ in range(callers)))
    return count / (time.perf_counter() - started)


async def _ways(publisher: Publisher, what: str) -> Run:
    return {
        f"{what}, one by one": await _rate(publisher, ONE_BY_ONE),
        f"{what}, {CALLERS} callers": await _rate(publisher, EVENTS // 5, callers=CALLERS),
        f"{what}, 500 at once": await _rate(publisher, EVENTS, at_once=500),
    }


async def _measure(server: Server, folder: Path) -> Run:
    redis = client(server.tcp_url)
    async with Publisher(redis, Keys()) as plain:
        found = dict(await _ways(plain, "without a spool"))
    spooling = Spooling(Directory(folder), Owner(program="bench", server=server.tcp_url, prefix=""), _BOUNDS)
    async with Publisher(redis, Keys(), spooling=spooling) as publisher:
        found |= await _ways(publisher, "with a spool that is empty")
        server.stop()
        await publisher.publish("ingest", encode("noop", _DATA))  # it finds out
        found |= await _ways(publisher, "kept")
        waiting = spooling.waiting
        server.start()
        while spooling.waiting == waiting:  # noqa: ASYNC110 - a signal would be for this alone
            await asyncio.sleep(0.001)
        started, first = time.perf_counter(), spooling.waiting
        while spooling.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        found["replayed"] = first / (time.perf_counter() - started)
    await redis.aclose()
    return found


def main() -> None:
    runs = []
    with fresh_server(SERVERS[0]) as server:
        print(conditions(server, RUNS))
        for _ in range(RUNS):
            with server.client() as raw:
                raw.flushall()
            with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as folder:
                runs.append(asyncio.run(_measure(server, Path(folder))))
    rows = [(what, round(rate)) for what, rate in medians(runs).items()]
    table("Publishing events of 200 bytes", ("how", "events/s"), rows)


if __name__ == "__main__":
    main()
