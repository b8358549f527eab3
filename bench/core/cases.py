"""What is measured side by side: raw loops, Penstock's ways to handle an event, and FastStream's fastest."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.machine import ROOT
from bench.peers import environments
from bench.peers.produce import payload
from bench.peers.registry import PEERS, Peer
from tests.servers import Server

CHUNK = 1_000
Fill = Callable[[Server, int], None]


def fill(server: Server, jobs: int) -> None:
    """Add so many jobs of 200 bytes to `ingest`."""
    data = json.dumps(payload("noop", time.time()))
    with server.client() as client:
        for at in range(0, jobs, CHUNK):
            pipeline = client.pipeline(transaction=False)
            for _ in range(min(CHUNK, jobs - at)):
                pipeline.xadd("ingest", {"type": "noop", "data": data})
            pipeline.execute()


@dataclass(frozen=True)
class Case:
    """One way to work off a stream with a consumer group, and how to run it."""

    name: str
    command: tuple[str, ...]
    group: str
    stream: str = "ingest"
    env: Mapping[str, str] = field(default_factory=dict)
    fill: Fill = fill

    def environment(self, server: Server) -> dict[str, str]:
        ports = {f"PENSTOCK_{name}_PORT": "0" for name in ("WORKER", "METRICS", "ALERTS", "NOTIFIER")}
        return {"REDIS_URL": server.tcp_url, "PENSTOCK_LOG_LEVEL": "error", **ports, **self.env}


def _raw(name: str, *command: str) -> Case:
    return Case(name, (sys.executable, "-m", *command), "raw")


def _service(name: str, service: str, group: str, *, topology_file: str = "streams.yaml") -> Case:
    topology = {"PENSTOCK_TOPOLOGY": str(ROOT / "bench" / topology_file)}
    return Case(name, (sys.executable, "-m", "penstock", "run", f"bench.jobs:{service}"), group, env=topology)


FENCED = _raw("fenced loop, one output each", "bench.fenced_loop")
RAW_EACH = _raw("raw loop, one task per message", "bench.raw_loop", "each")
RAW_BATCH = _raw("raw loop, batch of 500", "bench.raw_loop", "batch")
ONE_OUTPUT = _service("handler, one output", "one_output", "bench-one-output")
TWO_STREAMS = _service("handler, one output, two streams", "two_streams", "bench-two-streams")
WORKER = Case(
    "job worker (record, job.completed)",
    (sys.executable, "-m", "penstock_services.worker"),
    "worker",
    env={"PENSTOCK_JOBS": "bench.jobs:jobs"},
)


def drained() -> list[Case]:
    """Return what the first table compares."""
    cases = [
        FENCED,
        RAW_EACH,
        RAW_BATCH,
        ONE_OUTPUT,
        _service("handler, no output", "no_output", "bench-no-output"),
        _service("the same, its entries being jobs", "no_output", "bench-no-output", topology_file="work.yaml"),
        WORKER,
        _service("batch handler, one output each", "batch_output", "bench-batch-output"),
        _service("batch handler, no output", "batch", "bench-batch"),
    ]
    lists = next(peer for peer in PEERS if peer.env.get("BENCH_FASTSTREAM") == "list")
    return [*cases, _neighbour(lists)] if environments.python(lists.adapter).exists() else cases


def _neighbour(peer: Peer) -> Case:
    env = environments.variables(peer)

    def fill_jobs(server: Server, jobs: int) -> None:
        given = {"REDIS_URL": server.tcp_url, **env}
        command = environments.producer(peer, "many", jobs)
        subprocess.run(command, env=given, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    return Case(peer.name, environments.command(peer), "bench", stream="jobs", env=env, fill=fill_jobs)
