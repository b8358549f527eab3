"""Tracing: what it costs per job when it is off, on for none, for one in a hundred, and for every job.

    uv run python -m bench.tracing [redis-7|valkey-9]

The receiver takes everything and answers at once; it shares the core with Redis.
"""

from __future__ import annotations

import os
import statistics
import sys

from bench.jobs import RUNS, drain
from tests.otlp import otlp_receiver
from tests.servers import BINARIES, running_server

SHARES = {"off": None, "0 %": "0", "1 %": "0.01", "100 %": "1"}


def main() -> None:
    kinds = sys.argv[1:] or [kind for kind, binary in BINARIES.items() if binary][:1]
    for kind in kinds:
        with running_server(kind) as server, otlp_receiver() as receiver:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in SHARES}
            for _ in range(RUNS):
                for name, share in SHARES.items():
                    os.environ.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
                    if share is not None:
                        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
                        os.environ["OTEL_TRACES_SAMPLER"] = "parentbased_traceidratio"
                        os.environ["OTEL_TRACES_SAMPLER_ARG"] = share
                    found[name].append(drain(server, "-m", "penstock_services.worker"))
            print(f"\n{kind}: tracing, medians of {RUNS} interleaved runs")
            off = statistics.median(run["cpu_ms_per_1000"] for run in found["off"])
            for name, runs in found.items():
                cpu = statistics.median(run["cpu_ms_per_1000"] for run in runs)
                jobs = statistics.median(run["jobs_s"] for run in runs)
                print(f"  {name:6} {jobs:10,.0f} jobs/s  {cpu:6.1f} us CPU per job  {cpu - off:+6.1f}")


if __name__ == "__main__":
    main()
