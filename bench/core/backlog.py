"""Draining a large backlog: what each tenth of it costs, and how long events of another stream wait meanwhile."""

from __future__ import annotations

import threading
import time

from bench.core.cases import TWO_STREAMS, fill
from bench.core.drain import prepare, settled
from bench.core.latency import RATE, steady
from bench.machine import Journal, cpu_seconds, memory_mb, pinned_process, wait_until
from bench.tables import percentile, table
from tests.servers import Server

PARTS = 10


def backlog(server: Server, jobs: int) -> None:
    """Drain `jobs` with a service that also reads a second stream, to which RATE events a second are added."""
    case = TWO_STREAMS
    assert server.process is not None
    redis, stop, added = server.process.pid, threading.Event(), list[float]()
    rows: list[tuple[object, ...]] = []
    with server.client() as client, server.client() as producer, Journal() as journal:
        prepare(client, case)
        fill(server, jobs)
        with pinned_process(case.command, {**case.environment(server), **journal.env}) as worker:
            first = wait_until(lambda: settled(client, case), worker)
            adding = threading.Thread(target=lambda: added.extend(steady(producer, "other", stop=stop)))
            adding.start()
            try:
                for part in range(1, PARTS + 1):
                    until, noted = jobs * part // PARTS, len(journal.lines())
                    begun, cpu, redis_cpu = time.perf_counter(), cpu_seconds(worker.pid), cpu_seconds(redis)
                    wait_until(lambda until=until: settled(client, case) >= until, worker)  # type: ignore[misc]
                    elapsed, done = time.perf_counter() - begun, until - first
                    first = until
                    waits = journal.milliseconds()[noted:]
                    quantiles = (percentile(waits, 50), percentile(waits, 99)) if len(waits) > 1 else (None, None)
                    costs = (cpu_seconds(worker.pid) - cpu, cpu_seconds(redis) - redis_cpu)
                    per_job = [cost / done * 1e6 for cost in costs]
                    rows.append((f"{until:,}", round(done / elapsed), *per_job, *quantiles, memory_mb(worker.pid)))
            finally:
                stop.set()
                adding.join()
            drained = time.time()
            wait_until(lambda: len(journal.lines()) >= len(added), worker)
            late = time.time() - drained
    table(
        f"Draining {jobs:,} jobs while {RATE} events/s come on another stream of the same service",
        ("up to job", "jobs/s", "worker CPU us/job", "Redis CPU us/job", "other p50 ms", "other p99 ms", "MB"),
        rows,
    )
    answered = [seconds * 1000 for seconds in added]
    print(
        f"\nRedis answered the XADDs of the other stream in {percentile(answered, 50):.2f} ms (p50) and "
        f"{percentile(answered, 99):.2f} ms (p99); the last of them was handled {late:.2f} s after the backlog's end."
    )
