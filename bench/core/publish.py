"""Publishing beside raw redis-py: one by one, and 500 at once.

Run as a program it publishes in one of these ways for itself and prints the seconds it took.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import redis.asyncio
import uvloop

from bench.machine import ROOT, WORKER_CORE
from bench.peers.produce import payload
from bench.tables import Run, medians, ratio, table
from penstock import NewJob, Penstock, sync
from penstock.event import encode
from penstock.keys import Keys
from penstock.redis.connection import client
from penstock.streams.publish import Publisher
from penstock.topology import parse
from tests.servers import Server

AT_ONCE = 500
RAW, OURS = "raw redis-py", "Publisher"
PAYLOAD = payload("noop", 0.0)
_DATA = json.dumps(PAYLOAD)
TOPOLOGY = parse("streams: {ingest: {}, events: {}}")


async def _raw(count: int, at_once: int) -> None:
    async with redis.asyncio.from_url(os.environ["REDIS_URL"], protocol=2) as client:
        for _ in range(0, count, at_once):
            if at_once == 1:
                await client.xadd("ingest", {"type": "noop", "data": _DATA})
                continue
            pipeline = client.pipeline(transaction=False)
            for _ in range(at_once):
                pipeline.xadd("ingest", {"type": "noop", "data": _DATA})
            await pipeline.execute()


async def _ours(count: int, at_once: int) -> None:
    server = client(os.environ["REDIS_URL"])
    async with Publisher(server, Keys("")) as publisher:
        for _ in range(0, count, at_once):
            if at_once == 1:
                await publisher.publish("ingest", encode("noop", _DATA))
                continue
            await publisher.publish_all("ingest", [encode("noop", _DATA) for _ in range(at_once)])
    await server.aclose()


async def _client(count: int, at_once: int) -> None:
    async with Penstock.connect(topology=TOPOLOGY) as mesh:
        for _ in range(0, count, at_once):
            if at_once == 1:
                await mesh.submit("noop", PAYLOAD)
            else:
                await mesh.submit_all([NewJob("noop", PAYLOAD)] * at_once)


async def _threads(count: int, at_once: int) -> None:
    def submit() -> None:
        with sync.Penstock.connect(topology=TOPOLOGY) as mesh:
            for _ in range(0, count, at_once):
                if at_once == 1:
                    mesh.submit("noop", PAYLOAD)
                else:
                    mesh.submit_all([NewJob("noop", PAYLOAD)] * at_once)

    await asyncio.to_thread(submit)


WAYS = {RAW: _raw, OURS: _ours, "client": _client, "client for threads": _threads}


def _measure(server: Server, who: str, count: int, at_once: int) -> Run:
    with server.client() as plain:
        plain.flushall()
    command = (sys.executable, "-m", "bench.core.publish", who, str(count), str(at_once))
    env = {**os.environ, "REDIS_URL": server.tcp_url}
    said = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    seconds, cpu = map(float, said.split())
    return {"rate": count / seconds, "cpu": cpu / count * 1e6}


def publish(server: Server, jobs: int, runs: int) -> None:
    ways = [(who, at_once) for at_once in (1, AT_ONCE) for who in WAYS]
    found: dict[tuple[str, int], list[Run]] = {way: [] for way in ways}
    for _ in range(runs):
        for who, at_once in ways:
            count = jobs if at_once > 1 else max(jobs // 5, 1)
            found[who, at_once].append(_measure(server, who, count, at_once))
    rows = []
    for (who, at_once), rounds in found.items():
        row = medians(rounds)
        how = "one by one" if at_once == 1 else f"{at_once} at once"
        rows.append((f"{who}, {how}", round(row["rate"]), row["cpu"], ratio(rounds, found[RAW, at_once], "rate")))
    table("Publishing events of 200 bytes", ("what", "events/s", "CPU us/event", "events/s to raw redis-py's"), rows)


if __name__ == "__main__":
    os.sched_setaffinity(0, {WORKER_CORE})
    begun, cpu = time.perf_counter(), time.process_time()
    uvloop.run(WAYS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3])))
    print(time.perf_counter() - begun, time.process_time() - cpu)
