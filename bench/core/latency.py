"""Latency at a steady rate: from just before XADD to the start of the handler."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench.core.cases import FENCED, ONE_OUTPUT, RAW_EACH, WORKER, Case
from bench.core.drain import prepare
from bench.machine import Journal, pinned_process, wait_until
from bench.peers.produce import payload
from bench.tables import Run, medians, percentile, table
from tests.servers import Server

RATE = 200
_WARM_UP = 20


def steady(
    client: Any, stream: str, *, count: int | None = None, stop: threading.Event | None = None
) -> Iterator[float]:
    """Add RATE stamped jobs a second, `count` or until `stop`; yield the seconds that each XADD took."""
    begun = time.perf_counter()
    for number in itertools.count() if count is None else range(count):
        if stop is not None and stop.is_set():
            return
        time.sleep(max(0.0, begun + number / RATE - time.perf_counter()))
        before = time.perf_counter()
        client.xadd(stream, {"type": "stamp", "data": json.dumps(payload("stamp", time.time()))})
        yield time.perf_counter() - before


def _measure(server: Server, case: Case, seconds: int) -> Run:
    total = RATE * seconds
    with server.client() as client, Journal() as journal:
        prepare(client, case)
        with pinned_process(case.command, {**case.environment(server), **journal.env}) as worker:
            for sent in range(1, _WARM_UP + 1):
                list(steady(client, case.stream, count=1))
                wait_until(lambda sent=sent: len(journal.lines()) >= sent, worker)  # type: ignore[misc]
            for _ in steady(client, case.stream, count=total):
                pass
            wait_until(lambda: len(journal.lines()) >= total + _WARM_UP, worker)
        found = journal.milliseconds()[_WARM_UP:]
    return {"p50": percentile(found, 50), "p99": percentile(found, 99)}


def latency(server: Server, seconds: int, runs: int) -> None:
    cases = (RAW_EACH, FENCED, ONE_OUTPUT, WORKER)
    found: dict[str, list[Run]] = {case.name: [] for case in cases}
    for _ in range(runs):
        for case in cases:
            found[case.name].append(_measure(server, case, seconds))
    rows = [(name, *medians(rounds).values()) for name, rounds in found.items()]
    table(f"Latency at {RATE} jobs/s for {seconds} s, XADD to handler", ("what", "p50 ms", "p99 ms"), rows)
