"""`python -m bench.peers`: Penstock beside its neighbours, each in an environment of its own."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.machine import SERVERS, fresh_server, take_server_core
from bench.peers.environments import set_up
from bench.peers.measure import latency, recovery, throughput
from bench.peers.registry import PEERS, Peer
from bench.tables import Run, conditions, medians, table
from tests.servers import Server

_SPEED = ("throughput", "latency")
PARTS = (*_SPEED, "recovery")
_HEAD = ("contestant", "one by one /s", "at once /s", "drain /s", "CPU s per 1,000", "p50 ms", "p99 ms", "MB")


def main() -> None:
    given = _arguments()
    take_server_core()
    chosen = [peer for peer in PEERS if not given.peers or peer.adapter in given.peers]
    versions = {peer.name: set_up(peer) for peer in chosen}
    chosen = [peer for peer in chosen if versions[peer.name]]
    with fresh_server(given.server) as server:
        print(conditions(server, given.runs if {*_SPEED} & {*given.parts} else 1))
        if {*_SPEED} & {*given.parts}:
            _speed(server, chosen, given)
    if "recovery" in given.parts:
        _recovery(chosen, given)
    rows = [(peer.name, versions[peer.name], peer.settings) for peer in chosen]
    table("What ran", ("contestant", "version", "settings, where not the default"), rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--peers", nargs="+", choices=sorted({peer.adapter for peer in PEERS}), help="only these")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds of each (3)")
    parser.add_argument("--jobs", type=int, default=20_000, metavar="N", help="no-op jobs to drain; slow ones: a share")
    parser.add_argument("--seconds", type=int, default=10, metavar="N", help="of steady load for latencies (10)")
    parser.add_argument("--slow", type=int, default=2_000, metavar="N", help="jobs of 5 ms for the recovery (2,000)")
    parser.add_argument("--wait", type=float, default=150, metavar="SECONDS", help="for the recovery at most (150)")
    parser.add_argument("--server", choices=SERVERS, default=SERVERS[0])
    return parser.parse_args()


def _speed(server: Server, chosen: Sequence[Peer], given: argparse.Namespace) -> None:
    found: dict[str, list[Run]] = {peer.name: [] for peer in chosen}
    for number in range(given.runs):
        for peer in chosen:
            print(f"round {number + 1}: {peer.name}", file=sys.stderr)
            run: dict[str, float] = {}
            with _reported(peer):
                if "throughput" in given.parts:
                    run |= throughput(server, peer, given.jobs)
                if "latency" in given.parts:
                    run |= latency(server, peer, given.seconds)
                found[peer.name].append(run)
    names = ("one", "many", "drain", "cpu", "p50", "p99", "mb")
    rows = {name: medians(runs) for name, runs in found.items() if runs}
    fastest_first = sorted(rows.items(), key=lambda item: -item[1].get("drain", 0.0))
    table(
        f"{given.jobs:,} no-op jobs of 200 bytes; 200 jobs/s for {given.seconds} s",
        _HEAD,
        ((name, *map(row.get, names)) for name, row in fastest_first),
    )


@contextlib.contextmanager
def _reported(peer: Peer) -> Iterator[None]:
    """Go on without a contestant that does not run: its round is left out, and why goes to stderr."""
    try:
        yield
    except (subprocess.SubprocessError, RuntimeError, TimeoutError) as error:
        print(f"{peer.name}: {error}", file=sys.stderr)


def _recovery(chosen: Sequence[Peer], given: argparse.Namespace) -> None:
    """All at once, each on a server of its own: they do little but wait."""

    def one(peer: Peer) -> Run | None:
        with _reported(peer), fresh_server(given.server) as server:
            return recovery(server, peer, given.slow, given.wait)
        return None

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(chosen)))
        found = {peer: run for peer, run in zip(chosen, pool.map(one, chosen), strict=True) if run}
    rows = [
        (
            peer.name,
            int(run["before"]),
            f"{run['seconds']:.1f}" if not run["left"] else f"over {given.wait:.0f}",
            int(run["left"]),
            int(run["doubled"]),
        )
        for peer, run in sorted(found.items(), key=lambda item: (item[1]["left"], item[1]["seconds"]))
    ]
    title = f"SIGKILL in the middle of {given.slow:,} jobs of 5 ms, then a fresh worker"
    table(title, ("contestant", "run before the kill", "s until all have run", "not run", "run twice"), rows)


if __name__ == "__main__":
    main()
