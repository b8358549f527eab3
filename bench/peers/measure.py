"""What is measured of every contestant, in the same way: by what its jobs note in a file."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator

from bench.machine import (
    ROOT,
    SERVER_CORE,
    WORKER_CORE,
    Journal,
    cpu_seconds,
    memory_mb,
    pinned_process,
    stop,
    wait_until,
)
from bench.peers import environments
from bench.peers.produce import RATE
from bench.peers.registry import Peer
from bench.peers.work import SLOW
from bench.tables import Run, percentile
from tests.servers import Server

_TOPOLOGY = str(ROOT / "bench" / "streams.yaml")
_WARM_UP = 100


def _environment(server: Server, peer: Peer) -> dict[str, str]:
    ours = {"PENSTOCK_TOPOLOGY": _TOPOLOGY, "PENSTOCK_LOG_LEVEL": "error"} if peer.adapter == "penstock" else {}
    return {"REDIS_URL": server.tcp_url, **ours, **environments.variables(peer)}


def produce(server: Server, peer: Peer, how: str, count: int, *, core: int = SERVER_CORE) -> float:
    """Send `count` jobs; return the seconds it took."""
    command = ("taskset", "-c", str(core), *environments.producer(peer, how, count))
    env = {**os.environ, "PYTHONPATH": str(ROOT), **_environment(server, peer)}
    return float(subprocess.run(command, env=env, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


@contextlib.contextmanager
def _worker(server: Server, peer: Peer, journal: Journal) -> Iterator[subprocess.Popen[bytes]]:
    env = {**_environment(server, peer), **journal.env}
    with pinned_process(environments.command(peer), env) as worker:
        yield worker


def _empty(server: Server) -> None:
    with server.client() as client:
        client.flushall()


def throughput(server: Server, peer: Peer, jobs: int) -> Run:
    """Enqueue one by one, enqueue many at once, and drain what is there then."""
    count = max(int(jobs * peer.share), 500)
    _empty(server)
    few = min(2_000, count)
    one = few / produce(server, peer, "one", few, core=WORKER_CORE)
    _empty(server)
    many = count / produce(server, peer, "many", count, core=WORKER_CORE)
    with Journal() as journal, _worker(server, peer, journal) as worker:
        first = wait_until(journal.size, worker)
        begun, cpu = time.perf_counter(), cpu_seconds(worker.pid)
        wait_until(lambda: journal.size() >= count, worker)
        elapsed, done = time.perf_counter() - begun, count - first
        spent = cpu_seconds(worker.pid) - cpu
        return {
            "one": one,
            "many": many,
            "drain": done / elapsed,
            "cpu": spent / done * 1e3,
            "mb": memory_mb(worker.pid),
        }


def latency(server: Server, peer: Peer, seconds: int) -> Run:
    """From just before a job is sent to its start, at a steady rate."""
    total = RATE * seconds + _WARM_UP
    _empty(server)
    with Journal() as journal, _worker(server, peer, journal) as worker:
        produce(server, peer, "steady", 1)
        wait_until(journal.size, worker)  # it has started
        produce(server, peer, "steady", total)
        wait_until(lambda: len(journal.lines()) > total, worker, deadline=60)
        found = journal.milliseconds()[1 + _WARM_UP :]
    return {"p50": percentile(found, 50), "p99": percentile(found, 99)}


def recovery(server: Server, peer: Peer, jobs: int, deadline: float) -> Run:
    """Kill a worker amid jobs of 5 ms and start a fresh one: seconds until the last has run.

    Raises:
        RuntimeError: the worker was too fast to be killed in the middle.
    """
    _empty(server)
    produce(server, peer, "slow", jobs)
    with Journal() as journal:
        with _worker(server, peer, journal) as victim:
            wait_until(lambda: len(journal.lines()) >= jobs // 2, victim, every=0.0005)
            time.sleep(SLOW / 2)  # a list's jobs end together: be between two ends
            os.killpg(victim.pid, signal.SIGKILL)
            killed = time.perf_counter()
            stop(victim)
        before = len(set(journal.lines()))
        if before >= jobs:
            raise RuntimeError("everything had run before the kill: ask for more jobs with --slow")
        with _worker(server, peer, journal) as fresh:
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: len(set(journal.lines())) >= jobs, fresh, every=0.02, deadline=deadline)
            seconds = time.perf_counter() - killed
        lines = journal.lines()
    return {
        "before": before,
        "seconds": seconds,
        "left": jobs - len(set(lines)),
        "doubled": len(lines) - len(set(lines)),
    }
