"""`penstock up`, run as a person would, on ports and data of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from tests.command_line import environment
from tests.forks import run
from tests.processes import ROOT, eventually
from tests.servers import free_port

START = 60.0
TOPOLOGY = """
streams:
  ingest: {}
  events: {}
services:
  gateway:
    run: penstock_services.gateway
    publishes: [ingest]
  worker:
    run: penstock_services.worker
    consumes: {ingest: {}}
    publishes: [events]
  shop:
    run: tests.e2e.shop:service
    consumes: {events: {}}
"""


class Mesh:
    """One mesh in one folder; it can be started there again and again."""

    def __init__(self, folder: Path, topology: str | None = TOPOLOGY, *, cwd: Path = ROOT, **env: str) -> None:
        """Write `topology` into the folder, unless it has one of its own, and run commands from `cwd`."""
        self.folder = folder
        self.cwd = cwd
        self.redis_port, self.gateway_port = free_port(), free_port()
        self.server = ""  # the start of the name of the server that it should run
        self.log = folder / "up.log"
        file = folder / "streams.yaml"
        if topology is not None:
            file.write_text(topology)
        self.env = environment(
            PENSTOCK_TOPOLOGY=str(file),
            PENSTOCK_DATA_DIR=str(folder / "data"),
            PENSTOCK_REDIS_PORT=str(self.redis_port),
            PENSTOCK_GATEWAY_PORT=str(self.gateway_port),
            PENSTOCK_WORKER_PORT=str(free_port()),
        )
        self.env |= env
        self.redis: Any = redis.Redis(port=self.redis_port, protocol=2, decode_responses=True)

    def up(
        self, *options: str, terminal: int | None = None, **env: str
    ) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
        """Run `penstock up`, or another of its commands, for the length of the context."""
        return self.runs(sys.executable, "-m", "penstock", *(options or ["up"]), terminal=terminal, **env)

    @contextlib.contextmanager
    def runs(self, *command: str, terminal: int | None = None, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command for the length of the context; on a terminal if one is given."""
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self.cwd,
                env=self.env | env,
                stdin=subprocess.DEVNULL,
                stdout=terminal or output,
                stderr=terminal or output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            self.redis.close()

    @property
    def output(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text()

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command with the same settings."""
        return run(["penstock", *arguments], env=self.env, cwd=self.cwd, timeout=90)

    def says(self, text: str, *, times: int = 1) -> None:
        """Wait until it has printed `text` so often."""
        self.waits_for(lambda: self.output.count(text) >= times, f"it says {text!r}")

    def request(self, method: str, path: str, data: Any = None) -> tuple[int, Any]:
        """Return status and body of the gateway's answer; status 0 if there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway_port, timeout=5)
        try:
            body = None if data is None else json.dumps(data)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 0, None
        finally:
            connection.close()

    def is_ready(self) -> None:
        """Wait until the gateway says that it is ready."""
        self.waits_for(lambda: self.request("GET", "/readyz")[0] == 200, "the gateway is ready")

    def waits_for(self, check: Callable[[], bool], what: str) -> None:
        """Wait until `check` is true; fail with everything printed so far."""
        try:
            eventually(check, deadline=START, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def events(self, job_id: str) -> list[dict[str, str]]:
        """Return what was published because of a job."""
        return [fields for _, fields in self.redis.xrange("events") if fields.get("cause") == job_id]

    def completes(self, job_id: str) -> None:
        """Wait until the job is completed."""

        def is_completed() -> bool:
            return any(event["type"] == "job.completed" for event in self.events(job_id))

        self.waits_for(is_completed, f"job {job_id} is completed")

    def add_ticket(self) -> str:
        """Publish a good job as redis-cli would; return its id."""
        ticket = {
            "ticket_id": "T-1",
            "description": "printer on fire",
            "priority": "high",
            "tenant_id": "acme",
            "timestamp": "2026-11-22T10:00:00Z",
        }
        return f"ingest-{self.redis.xadd('ingest', {'type': 'ticket.created', 'data': json.dumps(ticket)})}"

    def pids(self) -> dict[str, int]:
        """Return the processes of Redis and of the services that read, by name."""
        found = {"redis": int(self.redis.info("server")["process_id"])}
        for stream, group in (("ingest", "worker"), ("events", "shop")):
            for consumer in self.redis.xinfo_consumers(stream, group):
                name = consumer["name"]
                if self.redis.hexists(f"beats:{group}", name):
                    found[group] = int(name.rsplit("-", 2)[1])
        return found

    def are_reading(self) -> None:
        """Wait until all services read."""
        self.waits_for(lambda: len(self._try_pids()) == 3, "all services read")

    def _try_pids(self) -> dict[str, int]:
        try:
            return self.pids()
        except redis.RedisError:
            return {}


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGINT) -> int:
    """Stop it as Ctrl-C does; return its exit code."""
    os.killpg(process.pid, number)
    return process.wait(START)
