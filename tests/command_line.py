"""The real `penstock` command, run as a person or a script would."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.forks import run

TOPOLOGY = """
streams:
  ingest: {}
  events: {}
services:
  worker:
    consumes: {ingest: {}}
    publishes: [events]
"""


def environment(**given: str) -> dict[str, str]:
    """Return the environment of this test run without any setting of Penstock but those given."""
    ours = ("PENSTOCK_", "REDIS_", "TASK_", "DLQ_", "FORCE_COLOR", "COLUMNS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | given


class Cli:
    """Runs commands against one Redis, with a small topology of its own."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        topology = folder / "streams.yaml"
        topology.write_text(TOPOLOGY)
        self.env = environment(REDIS_URL=redis_url, PENSTOCK_TOPOLOGY=str(topology))

    def __call__(self, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; no command, whatever its outcome, may show a traceback."""
        done = run(["penstock", *arguments], env=self.env | env, stdin=stdin)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json and return what it printed."""
        done = self(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)
