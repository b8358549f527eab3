"""What tracing costs a job: off, on for none, for one in a hundred, and for every job."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.core.cases import WORKER
from bench.core.drain import measure
from bench.tables import medians, table
from tests.servers import Server

OFF, SHARES = "off", {"on, 0 % sampled": "0", "on, 1 % sampled": "0.01", "on, 100 % sampled": "1"}


class _Receiver(BaseHTTPRequestHandler):
    """Takes everything and looks at nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@contextlib.contextmanager
def _receiver() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def tracing(server: Server, jobs: int, runs: int) -> None:
    """Drain with the shipped worker; the receiver shares the server's core."""
    with _receiver() as url:
        cases = [dataclasses.replace(WORKER, name=OFF)]
        for name, share in SHARES.items():
            sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": share}
            env = {**WORKER.env, "OTEL_EXPORTER_OTLP_ENDPOINT": url, **sampler}
            cases.append(dataclasses.replace(WORKER, name=name, env=env))
        found = {name: medians(rounds) for name, rounds in measure(server, cases, jobs, runs).items()}
    rows = [(name, round(row["rate"]), row["cpu"], row["cpu"] - found[OFF]["cpu"]) for name, row in found.items()]
    table(f"Tracing: the job worker, {jobs:,} jobs", ("tracing", "jobs/s", "worker CPU us/job", "more than off"), rows)
