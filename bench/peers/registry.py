"""The contestants: what each one's environment holds and how its worker runs, as its documentation advises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Peer:
    """One way to run a library. `share` of the jobs is drained: the slowest need not take minutes.

    `command` is the worker's, the program in the environment first. `settings` says what differs from the
    library's defaults.
    """

    name: str
    adapter: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    settings: str
    env: Mapping[str, str] = field(default_factory=dict)
    share: float = 1.0


_FASTSTREAM = ("faststream[cli,redis]", "hiredis", "uvloop")
_CELERY = ("celery[redis]", "hiredis")
_CELERY_WORKER = (
    "celery",
    "--quiet",
    "-A",
    "bench.peers.celery",
    "worker",
    "-l",
    "ERROR",
    "--without-gossip",
    "--without-mingle",
)

PEERS = [
    Peer("Penstock", "penstock", (), ("penstock", "run", "bench.peers.penstock:service"), "concurrency 500"),
    Peer(
        "Penstock, batch handler",
        "penstock",
        (),
        ("penstock", "run", "bench.peers.penstock:batches"),
        "lists of 500",
    ),
    Peer(
        "FastStream, list handler",
        "faststream",
        _FASTSTREAM,
        ("faststream", "run", "bench.peers.faststream:app"),
        "stream and group, lists of 500, uvloop",
        {"BENCH_FASTSTREAM": "list"},
    ),
    Peer(
        "FastStream, per message",
        "faststream",
        _FASTSTREAM,
        ("faststream", "run", "bench.peers.faststream:app"),
        "stream and group, max_workers 100, uvloop",
    ),
    Peer(
        "BullMQ (Node)",
        "bullmq",
        ("bullmq", "ioredis"),
        ("node", "bench/peers/bullmq.js", "work"),
        "concurrency 100, removeOnComplete",
    ),
    Peer(
        "dramatiq",
        "dramatiq",
        ("dramatiq[redis]", "hiredis"),
        ("dramatiq", "bench.peers.dramatiq", "--processes", "1", "--threads", "8", "--skip-logging"),
        "1 process, 8 threads, prefetch 100",
        {"dramatiq_queue_prefetch": "100"},
    ),
    Peer(
        "taskiq",
        "taskiq",
        ("taskiq", "taskiq-redis", "hiredis", "uvloop"),
        (
            *("taskiq", "worker", "bench.peers.taskiq:broker", "--workers", "1", "--no-parse"),
            *("--max-async-tasks", "100", "--max-prefetch", "100", "--log-level", "ERROR"),
        ),
        "stream broker, 100 tasks, prefetch 100, no parsing",
    ),
    Peer(
        "saq",
        "saq",
        ("saq[redis,hiredis]", "typing-extensions", "uvloop"),
        ("saq", "bench.peers.saq.settings"),
        "concurrency 100",
        share=0.5,
    ),
    Peer(
        "arq",
        "arq",
        ("arq", "hiredis", "uvloop"),
        ("arq", "bench.peers.arq.Worker"),
        "max_jobs 100, poll 10 ms, no results",
        share=0.5,
    ),
    Peer(
        "streaq",
        "streaq",
        ("streaq", "uvloop"),
        ("streaq", "run", "bench.peers.streaq:worker"),
        "concurrency 100",
        share=0.25,
    ),
    Peer(
        "celery, threads",
        "celery",
        _CELERY,
        (*_CELERY_WORKER, "--pool", "threads", "-c", "8"),
        "8 threads, prefetch 100 each, no results, no gossip",
        share=0.25,
    ),
    Peer(
        "celery, prefork",
        "celery",
        _CELERY,
        (*_CELERY_WORKER, "--pool", "prefork", "-c", "1"),
        "1 process, prefetch 100, no results, no gossip",
        share=0.25,
    ),
    Peer(
        "rq",
        "rq",
        ("rq", "hiredis"),
        ("python", "-m", "bench.peers.rq"),
        "SimpleWorker (no fork for each job), no results",
        share=0.1,
    ),
]
