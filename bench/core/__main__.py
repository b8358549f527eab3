"""`python -m bench.core`: one interleaved run of everything, or of some of it."""

from __future__ import annotations

import argparse

from bench.core.backlog import backlog
from bench.core.cases import drained
from bench.core.drain import measure, report
from bench.core.idle import idle
from bench.core.latency import latency
from bench.core.publish import publish
from bench.core.results import results
from bench.core.tracing import tracing
from bench.machine import SERVERS, fresh_server, take_server_core
from bench.tables import conditions

PARTS = ("drain", "publish", "latency", "results", "tracing")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.core", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds of each (3)")
    parser.add_argument("--jobs", type=int, default=50_000, metavar="N", help="jobs in each drain (50,000)")
    parser.add_argument("--seconds", type=int, default=10, metavar="N", help="of steady load for latencies (10)")
    parser.add_argument("--backlog", type=int, nargs="?", const=1_000_000, metavar="N", help="drain only, N jobs")
    parser.add_argument("--idle", type=int, nargs="?", const=60, metavar="SECONDS", help="only watch an idle mesh")
    parser.add_argument("--server", choices=SERVERS, default=SERVERS[0])
    given = parser.parse_args()
    take_server_core()
    with fresh_server(given.server) as server:
        print(conditions(server, 1 if given.backlog or given.idle else given.runs))
        if given.backlog or given.idle:
            if given.backlog:
                backlog(server, given.backlog)
            if given.idle:
                idle(server, given.idle)
            return
        if "drain" in given.parts:
            report(measure(server, drained(), given.jobs, given.runs), given.jobs)
        if "publish" in given.parts:
            publish(server, given.jobs, given.runs)
        if "latency" in given.parts:
            latency(server, given.seconds, given.runs)
        if "results" in given.parts:
            results(server, given.seconds, given.runs)
        if "tracing" in given.parts:
            tracing(server, given.jobs, given.runs)


if __name__ == "__main__":
    main()
