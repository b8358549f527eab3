"""Draining a backlog: jobs per second, CPU time of the worker and of the server for each job."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench.core.cases import FENCED, Case
from bench.machine import cpu_seconds, memory_mb, pinned_process, wait_until
from bench.tables import Run, medians, ratio, table
from tests.servers import Server


def prepare(client: Any, case: Case) -> None:
    """Empty the server and make the group, which has everything still before it."""
    client.flushall()
    client.xgroup_create(case.stream, case.group, "0", mkstream=True)


def settled(client: Any, case: Case) -> int:
    """Return how many entries the group has acknowledged."""
    (group,) = (one for one in client.xinfo_groups(case.stream) if one["name"] == case.group.encode())
    return int(group["entries-read"] or 0) - int(group["pending"])


def drain(server: Server, case: Case, jobs: int) -> Run:
    """Work off `jobs` that are there before the worker starts; from its first acknowledgement to the last."""
    assert server.process is not None
    redis = server.process.pid
    with server.client() as client:
        prepare(client, case)
        case.fill(server, jobs)
        with pinned_process(case.command, case.environment(server)) as worker:
            first = wait_until(lambda: settled(client, case), worker)
            begun, cpu, redis_cpu = time.perf_counter(), cpu_seconds(worker.pid), cpu_seconds(redis)
            wait_until(lambda: settled(client, case) >= jobs, worker)
            elapsed, done = time.perf_counter() - begun, jobs - first
            return {
                "rate": done / elapsed,
                "cpu": (cpu_seconds(worker.pid) - cpu) / done * 1e6,
                "redis": (cpu_seconds(redis) - redis_cpu) / done * 1e6,
                "memory": memory_mb(worker.pid),
            }


def measure(server: Server, cases: Sequence[Case], jobs: int, runs: int) -> dict[str, list[Run]]:
    """Drain with each case in turn, `runs` times over."""
    found: dict[str, list[Run]] = {case.name: [] for case in cases}
    for _ in range(runs):
        for case in cases:
            found[case.name].append(drain(server, case, jobs))
    return found


def report(found: dict[str, list[Run]], jobs: int) -> None:
    fenced = found[FENCED.name]
    rows = []
    for name, runs in found.items():
        row = medians(runs)
        share = ratio(runs, fenced, "rate")
        rows.append((name, round(row["rate"]), row["cpu"], row["redis"], share, row["memory"]))
    table(
        f"Draining {jobs:,} jobs of 200 bytes",
        ("what", "jobs/s", "worker CPU us/job", "Redis CPU us/job", "jobs/s to the fenced loop's", "MB"),
        rows,
    )
