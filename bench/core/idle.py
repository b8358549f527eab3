"""An idle mesh: the commands that a server gets from the five shipped services while nothing happens."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from bench.core.cases import WORKER
from bench.machine import cpu_seconds, pinned_process, wait_until
from bench.tables import table
from tests.servers import Server

SERVICES = ("gateway", "worker", "metrics", "alerts", "notifier")
_GROUPS = {"ingest": 1, "events": 2, "metrics": 1, "alerts": 1, "notifications": 1}  # stream -> groups that read it
_QUIET = 5.0  # seconds in which what a start brings about has passed


def idle(server: Server, seconds: int) -> None:
    """Count over `seconds`, those within scripts too."""
    assert server.process is not None
    env = {**WORKER.environment(server), "PENSTOCK_GATEWAY_PORT": "0"}
    with server.client() as client, contextlib.ExitStack() as stack:
        client.flushall()
        started = [
            stack.enter_context(pinned_process((sys.executable, "-m", f"penstock_services.{name}"), env))
            for name in SERVICES
        ]
        wait_until(lambda: _all_read(client), every=0.05)
        time.sleep(_QUIET)
        before, cpu = _calls(client), [cpu_seconds(pid) for pid in (server.process.pid, *(one.pid for one in started))]
        time.sleep(seconds)
        after = _calls(client)
        spent = [cpu_seconds(pid) for pid in (server.process.pid, *(one.pid for one in started))]
    used = {name: (calls - before.get(name, 0)) / seconds for name, calls in after.items()}
    used = {name: rate for name, rate in used.items() if rate and name not in {"info", "config|get"}}
    busiest_first = sorted(used.items(), key=lambda item: -item[1])
    rows = [("all", sum(used.values())), *busiest_first]
    table(f"An idle mesh of {len(SERVICES)} services over {seconds} s", ("command", "calls/s"), rows)
    shares = [(now - then) / seconds * 1000 for now, then in zip(spent, cpu, strict=True)]
    print(f"\nCPU: Redis {shares[0]:.1f} ms/s, the five services together {sum(shares[1:]):.1f} ms/s.")


def _all_read(client: Any) -> bool:
    existing = {key.decode() for key in client.scan_iter(_type="stream")}
    return all(name in existing and len(client.xinfo_groups(name)) >= groups for name, groups in _GROUPS.items())


def _calls(client: Any) -> dict[str, int]:
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): one["calls"] for name, one in stats.items()}
