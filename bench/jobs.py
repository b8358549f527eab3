"""Jobs: how fast one worker drains a backlog, and how long one job waits.

    uv run python -m bench.jobs [redis-7|valkey-9]

The raw loop reads, acknowledges and publishes one event for each entry, without order, ownership check,
validation, record or retry: the most that a client in Python can do. Server on one core, worker on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock import Service
from tests.servers import BINARIES, Server, running_server

JOBS = 20_000
RUNS = 3
RATE, SECONDS = 200, 10
PAYLOAD = {"pad": "x" * 180}

jobs = Service("bench")


@jobs.on("ingest", type="noop")
async def noop(_: Any) -> float:
    """Do nothing, and say when."""
    return time.time()


def preload(client: Any, count: int) -> None:
    client.flushall()
    data = json.dumps(PAYLOAD)
    for at in range(0, count, 1000):
        pipeline = client.pipeline(transaction=False)
        for _ in range(at, at + 1000):
            pipeline.xadd("ingest", {"type": "noop", "data": data})
        pipeline.execute()


@contextlib.contextmanager
def process(server: Server, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    env = {
        **os.environ,
        "REDIS_URL": server.url,
        "PENSTOCK_JOBS": "bench.jobs:jobs",
        "PENSTOCK_LOG_LEVEL": "error",
        "PENSTOCK_LOG_FORMAT": "json",
    }
    started = subprocess.Popen([sys.executable, *command], env=env)
    os.sched_setaffinity(started.pid, {max(os.sched_getaffinity(0))})
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def drain(server: Server, *command: str) -> dict[str, float]:
    """Drain a preloaded backlog; measured from the first published event to the last."""
    client = server.client()
    preload(client, JOBS)
    with process(server, *command) as worker:
        while not (first := client.xlen("events")):
            time.sleep(0.001)
        begun, cpu = time.perf_counter(), cpu_seconds(worker.pid)
        while client.xlen("events") < JOBS:
            time.sleep(0.002)
        elapsed = time.perf_counter() - begun
        spent = cpu_seconds(worker.pid) - cpu
        resident = resident_mb(worker.pid)
    client.close()
    done = JOBS - first
    return {"jobs_s": done / elapsed, "cpu_ms_per_1000": spent / done * 1e6, "rss_mb": resident}


def latency(server: Server) -> dict[str, float]:
    """Add jobs at a steady rate; measure from XADD to handler start, and to job.completed being read."""
    client = server.client()
    client.flushall()
    sent: dict[str, float] = {}
    started: list[float] = []
    completed: list[float] = []
    with process(server, "-m", "penstock_services.worker") as worker:
        while not client.keys("live:worker-*"):
            time.sleep(0.01)
        idle = resident_mb(worker.pid)
        asyncio.run(_steady(server, sent, started, completed))
        resident = resident_mb(worker.pid)
    client.close()
    return {
        "start_p50_ms": _quantile(started, 50),
        "start_p99_ms": _quantile(started, 99),
        "completed_p50_ms": _quantile(completed, 50),
        "completed_p99_ms": _quantile(completed, 99),
        "rss_idle_mb": idle,
        "rss_after_mb": resident,
    }


async def _steady(server: Server, sent: dict[str, float], started: list[float], completed: list[float]) -> None:
    from penstock.redis.connection import client  # noqa: PLC0415 - only this part is asynchronous

    producer, consumer = client(server.url), client(server.url)
    total = RATE * SECONDS

    async def read() -> None:
        last = "0"
        while len(completed) < total:
            for _, entries in await consumer.xread({"events": last}, block=1000) or []:
                now = time.time()
                for entry_id, fields in entries:
                    last = entry_id
                    data = json.loads(fields[b"data"])
                    at = sent[data["job_id"]]
                    started.append(data["result"] - at)
                    completed.append(now - at)

    reader = asyncio.create_task(read())
    begun = time.perf_counter()
    for n in range(total):
        await asyncio.sleep(max(0.0, begun + n / RATE - time.perf_counter()))
        sent[f"job-{n}"] = time.time()
        await producer.xadd("ingest", {"type": "noop", "id": f"job-{n}", "data": json.dumps(PAYLOAD)})
    await reader
    await producer.aclose()
    await consumer.aclose()


def _quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] * 1000


def main() -> None:
    kinds = sys.argv[1:] or [kind for kind, binary in BINARIES.items() if binary]
    for kind in kinds:
        with running_server(kind) as server:
            assert server.process is not None
            os.sched_setaffinity(server.process.pid, {min(os.sched_getaffinity(0))})
            raw, ours = [], []
            for _ in range(RUNS):
                raw.append(drain(server, "-m", "bench.raw_loop"))
                ours.append(drain(server, "-m", "penstock_services.worker"))
            print(f"\n{kind}: drain of {JOBS} no-op jobs, medians of {RUNS} interleaved runs")
            for name, runs in (("raw loop", raw), ("penstock worker", ours)):
                row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                print(f"  {name:16}", "  ".join(f"{key} {value:,.1f}" for key, value in row.items()))
            ratio = statistics.median(o["jobs_s"] / r["jobs_s"] for o, r in zip(ours, raw, strict=True))
            print(f"  ratio to the raw loop: {ratio:.2f}")
            print(f"{kind}: latency at {RATE} events/s")
            print("  ", "  ".join(f"{key} {value:.2f}" for key, value in latency(server).items()))


if __name__ == "__main__":
    main()
