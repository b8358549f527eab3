"""The stack of compose.yaml as a project of its own, with a job for the tests to wait on."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis
import yaml

from penstock.topology import load
from tests.deploy.engine import Engine, base_images
from tests.processes import ROOT, eventually
from tests.servers import free_port

PATIENCE = 60.0
SECRET = "whsec_" + "c2VjcmV0IG9mIHRoZSBkZXBsb3ltZW50IHRlc3Q="
_FILE = ROOT / "compose.yaml"
_JOBS = Path(__file__).parent / "container_jobs.py"


def compose_commands() -> list[list[str]]:
    """Return how Compose can be called here: version 2 first, then 1."""
    candidates = (["docker", "compose"], ["docker-compose"])
    return [command for command in candidates if _works(*command, "version")]


def compose_file() -> dict[str, Any]:
    """Return compose.yaml as it is written."""
    written: dict[str, Any] = yaml.safe_load(_FILE.read_text())
    return written


def _works(*command: str) -> bool:
    if not shutil.which(command[0]):
        return False
    return not subprocess.run(command, capture_output=True, check=False).returncode


class Stack:
    """What an operator does with the stack, and what one sees."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.project = f"penstock-test-{free_port()}"
        self.image = f"{self.project}:latest"
        self.port = free_port()
        self.up_seconds = 0.0
        overlay = folder / "overlay.yaml"
        overlay.write_text(yaml.safe_dump({"services": {"worker": _with_jobs()}}))
        files = ("--file", str(_FILE), "--file", str(overlay))
        self._compose = [*compose_commands()[0], "--project-name", self.project, *files]
        secret = folder / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o444)
        self._env = {
            "PENSTOCK_IMAGE": self.image,
            "PENSTOCK_GATEWAY_PORT": str(self.port),
            "PENSTOCK_JOBS": "container_jobs:jobs",
            "PENSTOCK_WEBHOOK_DEMO_SECRET_FILE": str(secret),
        }

    def compose(self, *arguments: str) -> str:
        """Run a Compose command on the project."""
        return self.engine.run(*self._compose, *arguments, env=self._env)

    def shell(self, script: str, folder: Path) -> None:
        """Run a script of the documentation in `folder`, its `docker compose` on the project."""
        script = script.replace("docker compose", shlex.join(self._compose))
        self.engine.run("sh", "-euc", script, cwd=folder, env=self._env)

    def up(self, *arguments: str) -> None:
        """Start what is not running, and wait until all of it is healthy."""
        began = time.monotonic()
        self.compose("up", "--detach", *arguments)
        self.wait_until_healthy()
        self.up_seconds = time.monotonic() - began

    def wait_until_healthy(self) -> None:
        """Wait until every container of the project is healthy; fail with their logs."""
        try:
            eventually(self._healthy, deadline=PATIENCE, what="all containers healthy", every=0.2)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.containers()}\n{self.logs()}") from None

    def _healthy(self) -> bool:
        states = [status for _, status in self.containers().values()]
        return bool(states) and all("(healthy)" in status for status in states)

    def logs(self) -> str:
        """Return the last lines of each service."""
        return self.compose("logs", "--tail", "40")

    def containers(self, service: str = "") -> dict[str, tuple[str, str]]:
        """Return service and status of each container by its id."""
        form = '{{.ID}}\t{{.Label "com.docker.compose.service"}}\t{{.Status}}'
        label = f"label=com.docker.compose.project={self.project}"
        lines = self.engine.docker("ps", "--all", "--filter", label, "--format", form).splitlines()
        rows = [line.split("\t") for line in lines]
        return {row[0]: (row[1], row[2]) for row in rows if service in ("", row[1])}

    def redis_cli(self, *arguments: str) -> str:
        """Run redis-cli in the container of Redis."""
        return self.compose("exec", "-T", "redis", "redis-cli", *arguments)

    @contextlib.contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """Connect to Redis over the engine's bridge; it is not published."""
        (container,) = self.containers("redis")
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        address = self.engine.docker("inspect", "--format", form, container).strip()
        with redis.Redis(host=address, protocol=2) as client:
            yield client

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Send JSON to the gateway as curl would; return status and answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of what the gateway has at `path`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()

    def results(self) -> dict[str, list[Any]]:
        """Return the results that `events` holds for each completed job, by job id."""
        found: dict[str, list[Any]] = {}
        with self.redis() as client:
            entries: Any = client.xrange("events")
            for _, fields in entries:
                if fields[b"type"] == b"job.completed":
                    data = json.loads(fields[b"data"])
                    found.setdefault(data["job_id"], []).append(data.get("result"))
        return found

    def completions(self, jobs: list[str]) -> Counter[int]:
        """Return how many of the jobs were completed how often."""
        results = self.results()
        return Counter(len(results.get(job, ())) for job in jobs)


def _with_jobs() -> dict[str, Any]:
    return {
        "environment": {"PYTHONPATH": "/opt/jobs"},
        "volumes": [f"{_JOBS}:/opt/jobs/{_JOBS.name}:ro"],
    }


@contextlib.contextmanager
def running_stack(engine: Engine, folder: Path) -> Iterator[Stack]:
    """Build and start the stack; at the end remove its containers, volumes and image."""
    for image in sorted({*base_images(), compose_file()["services"]["redis"]["image"]}):
        engine.provide(image)
    stack = Stack(engine, folder)
    try:
        stack.compose("build")
        stack.up("--scale", "worker=2")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--timeout", "2")
        engine.docker("image", "rm", "--force", stack.image)


def declared() -> set[str]:
    """Return the services of streams.yaml."""
    return set(load(ROOT / "streams.yaml").services)
