"""Awaiting results: from before a job is submitted to when the client has what its handler returned."""

from __future__ import annotations

import asyncio
import resource
import time

import uvloop

from bench.core.cases import WORKER
from bench.core.drain import prepare
from bench.core.latency import RATE
from bench.core.publish import PAYLOAD, TOPOLOGY
from bench.machine import pinned_process
from bench.tables import Run, medians, percentile, table
from penstock import NewJob, Penstock
from tests.servers import Server

AT_ONCE = 10_000


def results(server: Server, seconds: int, runs: int) -> None:
    rounds = [_measure(server, seconds) for _ in range(runs)]
    row = medians(rounds)
    shown = (row["p50"], row["p99"], row["cpu"], round(row["rate"]))
    heads = ("p50 ms", "p99 ms", "client CPU us/job", f"results/s, {AT_ONCE:,} awaited at once")
    table(f"Submit to result at {RATE} jobs/s for {seconds} s, and as fast as can be", heads, [shown])


def _measure(server: Server, seconds: int) -> Run:
    with server.client() as plain:
        prepare(plain, WORKER)
    with pinned_process(WORKER.command, WORKER.environment(server)):
        return uvloop.run(_client(server, seconds))


async def _client(server: Server, seconds: int) -> Run:
    found: list[float] = []
    async with Penstock.connect(server.tcp_url, topology=TOPOLOGY) as mesh:

        async def one() -> None:
            before = time.perf_counter()
            job = await mesh.submit("noop", PAYLOAD)
            await job.result(60)
            found.append((time.perf_counter() - before) * 1000)

        for _ in range(20):  # to warm up
            await one()
        found.clear()
        begun, cpu = time.perf_counter(), _cpu()
        async with asyncio.TaskGroup() as tasks:
            for number in range(RATE * seconds):
                await asyncio.sleep(max(0.0, begun + number / RATE - time.perf_counter()))
                tasks.create_task(one())
        cpu = (_cpu() - cpu) / (RATE * seconds) * 1e6
        begun = time.perf_counter()
        jobs = await mesh.submit_all([NewJob("noop", PAYLOAD)] * AT_ONCE)
        await asyncio.gather(*(job.result(60) for job in jobs))
        rate = AT_ONCE / (time.perf_counter() - begun)
    return {"p50": percentile(found, 50), "p99": percentile(found, 99), "cpu": cpu, "rate": rate}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
