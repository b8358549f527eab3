"""The metrics service: how many events one process counts, and what 1,000 series cost in memory.

    python -m bench.metrics

Events are job events with durations spread over four orders of magnitude. Server on one core, service on
the other.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from bench.machine import (
    SERVERS,
    cpu_seconds,
    fresh_server,
    memory_mb,
    pinned_process,
    take_server_core,
    wait_until,
)
from bench.tables import Run, conditions, medians, table
from tests.metrics import EPOCH_MS, fields, settled
from tests.servers import Server

EVENTS = 100_000
RUNS = 3
SERIES, MINUTES, EVENTS_OF_EACH = 1_000, 2, 10  # events of each series in each window of 10 s
KINDS = ("job.completed",) * 8 + ("job.failed", "job.dead")


def preload(client: Any, count: int, *, seconds: int, job_types: int, tenants: int) -> None:
    client.flushall()
    chance = random.Random(1)
    for at in range(0, count, 1_000):
        pipeline = client.pipeline(transaction=False)
        for number in range(at, min(at + 1_000, count)):
            made = fields(
                KINDS[number % len(KINDS)] if job_types < 100 else "job.completed",
                tenant=f"tenant-{number % tenants}",
                job_type=f"job-{number // tenants % job_types}",
                duration=round(chance.lognormvariate(-3, 1.5), 6),
                queue_wait=round(chance.lognormvariate(-5, 1.5), 6),
            )
            pipeline.xadd("events", made, id=f"{EPOCH_MS + number * seconds * 1000 // count}-{number}")
        pipeline.execute()


@contextlib.contextmanager
def service(server: Server) -> Iterator[subprocess.Popen[bytes]]:
    env = {"REDIS_URL": server.tcp_url, "PENSTOCK_LOG_LEVEL": "error", "PENSTOCK_METRICS_PORT": "0"}
    with pinned_process((sys.executable, "-m", "penstock_services.metrics"), env) as process:
        yield process


def some_read(client: Any) -> bool:
    groups = client.xinfo_groups("events")
    return bool(groups) and groups[0]["lag"] < EVENTS


def speed(server: Server, job_types: int) -> Run:
    """Count a preloaded backlog of a minute, closing its windows; from the first read to the last commit."""
    with server.client() as client:
        preload(client, EVENTS, seconds=60, job_types=job_types, tenants=2)
        with service(server) as process:
            wait_until(lambda: some_read(client), process)
            first, begun, cpu = client.xinfo_groups("events")[0]["lag"], time.perf_counter(), cpu_seconds(process.pid)
            wait_until(lambda: settled(client), process)
            elapsed, spent = time.perf_counter() - begun, cpu_seconds(process.pid) - cpu
            return {"events/s": first / elapsed, "events per CPU s": first / spent, "MB": memory_mb(process.pid)}


def memory(server: Server) -> Run:
    """Count SERIES series in every window of some minutes; measure what the closed windows take."""
    with server.client() as client:
        count = SERIES * EVENTS_OF_EACH * MINUTES * 6
        preload(client, count, seconds=MINUTES * 60, job_types=SERIES // 10, tenants=10)
        with service(server) as process:
            wait_until(lambda: settled(client), process)
            wait_until(lambda: client.zcard("state:metrics:open") + client.zcard("state:metrics:minutes") == 0)
            resident = memory_mb(process.pid)
        sizes = {
            seconds: statistics.mean(
                client.memory_usage(key) for key in client.keys(f"state:metrics:closed:{seconds}:*")
            )
            for seconds in (10, 60)
        }
        return {
            "MB": resident,
            "KB per 10 s window": sizes[10] / 1e3,
            "KB per minute window": sizes[60] / 1e3,
            "MB, all windows kept": (sizes[10] * 360 + sizes[60] * 1_440) / 1e6,
            "KB of totals": client.memory_usage("state:metrics:totals") / 1e3,
            "KB of stream per minute": client.memory_usage("metrics", samples=0) / 1e3 / MINUTES,
        }


def main() -> None:
    take_server_core()
    with fresh_server(SERVERS[0]) as server:
        print(conditions(server, RUNS))
        speeds = {
            what: medians([speed(server, job_types) for _ in range(RUNS)])
            for job_types, what in ((5, "20 series"), (100, "200 series"))
        }
        rows = [(what, *map(round, row.values())) for what, row in speeds.items()]
        table(f"Counting {EVENTS:,} events", ("series in each window", *speeds["20 series"]), rows)
        table(f"{SERIES:,} series in every window", ("figure", "value"), memory(server).items())


if __name__ == "__main__":
    main()
