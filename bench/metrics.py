"""The metrics service: how many events one process counts, and what 1,000 series cost in memory.

    uv run python -m bench.metrics [redis-7|valkey-9]

Events are job events with durations spread over four orders of magnitude. Server on one core, service on
the other.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from typing import Any

from bench.jobs import cpu_seconds, process, resident_mb
from tests.metrics import EPOCH_MS, fields, settled
from tests.servers import BINARIES, Server, running_server

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


def wait_for(check: Any, *arguments: Any) -> None:
    while not check(*arguments):
        time.sleep(0.002)


def some_read(client: Any) -> bool:
    groups = client.xinfo_groups("events")
    return bool(groups) and groups[0]["lag"] < EVENTS


def speed(server: Server, job_types: int) -> dict[str, float]:
    """Count a preloaded backlog of a minute, closing its windows; from the first read to the last commit."""
    with server.client() as client:
        preload(client, EVENTS, seconds=60, job_types=job_types, tenants=2)
        with process(server, "-m", "penstock_services.metrics") as service:
            wait_for(some_read, client)
            first, begun, cpu = client.xinfo_groups("events")[0]["lag"], time.perf_counter(), cpu_seconds(service.pid)
            wait_for(settled, client)
            elapsed, spent = time.perf_counter() - begun, cpu_seconds(service.pid) - cpu
            return {"events_s": first / elapsed, "events_per_cpu_s": first / spent, "rss_mb": resident_mb(service.pid)}


def memory(server: Server) -> dict[str, float]:
    """Count SERIES series in every window of some minutes; measure what the closed windows take."""
    with server.client() as client:
        count = SERIES * EVENTS_OF_EACH * MINUTES * 6
        preload(client, count, seconds=MINUTES * 60, job_types=SERIES // 10, tenants=10)
        with process(server, "-m", "penstock_services.metrics") as service:
            wait_for(settled, client)
            wait_for(lambda: client.zcard("state:metrics:open") + client.zcard("state:metrics:minutes") == 0)
            resident = resident_mb(service.pid)
        sizes = {
            seconds: statistics.mean(
                client.memory_usage(key) for key in client.keys(f"state:metrics:closed:{seconds}:*")
            )
            for seconds in (10, 60)
        }
        return {
            "rss_mb": resident,
            "window_10_kb": sizes[10] / 1e3,
            "window_60_kb": sizes[60] / 1e3,
            "all_kept_mb": (sizes[10] * 360 + sizes[60] * 1_440) / 1e6,
            "totals_kb": client.memory_usage("state:metrics:totals") / 1e3,
            "stream_kb_per_minute": client.memory_usage("metrics", samples=0) / 1e3 / MINUTES,
        }


def show(what: str, runs: list[dict[str, float]]) -> None:
    row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print(f"  {what:34}", "  ".join(f"{key} {value:,.1f}" for key, value in row.items()))


def main() -> None:
    os.environ["PENSTOCK_METRICS_PORT"] = "0"
    for kind in sys.argv[1:] or [kind for kind, binary in BINARIES.items() if binary]:
        with running_server(kind) as server:
            assert server.process is not None
            os.sched_setaffinity(server.process.pid, {min(os.sched_getaffinity(0))})
            print(f"\n{kind}: {EVENTS} events, medians of {RUNS} runs")
            for job_types, what in ((5, "20 series"), (100, "200 series")):
                show(what, [speed(server, job_types) for _ in range(RUNS)])
            show(f"{SERIES} series in every window", [memory(server)])


if __name__ == "__main__":
    main()
