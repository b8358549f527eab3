"""The shipped worker with jobs of a team's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import environment
from tests.hands import fields_of
from tests.processes import ROOT, eventually, service_process
from tests.servers import Server

SHIPPED = str(ROOT / "streams.yaml")
OWN = """
from typing import Any
from penstock import Context, Service

jobs = Service("own")


@jobs.on("ingest", type="ticket.created")
async def ours(_: Any, ctx: Context) -> str:
    ctx.emit("events", "ticket.ours")
    return "ours"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def test_own_jobs_take_the_place_of_those_that_ship(server: Server, raw: Any, folder: Path) -> None:
    raw.xadd("ingest", {"type": "ticket.created"})
    raw.xadd("ingest", {"type": "http.request"})
    env = {"REDIS_URL": server.url, "PENSTOCK_JOBS": "own:jobs", "PENSTOCK_TOPOLOGY": SHIPPED}
    with service_process("-m", "penstock_services.worker", cwd=folder, env=env | {"PENSTOCK_SHIPPED_JOBS": "false"}):
        eventually(lambda: raw.xlen("events") == 3, what="ours, and what became of both")

    assert {event["type"] for event in fields_of(raw, "events")} == {"ticket.ours", "job.completed", "job.dead"}
    (letter,) = fields_of(raw, "dlq")
    assert (letter["type"], letter["dlq.reason"]) == ("http.request", "unhandled")


def test_two_handlers_of_one_type_stop_the_start_with_what_to_do(server: Server, folder: Path) -> None:
    env = environment(REDIS_URL=server.url, PENSTOCK_JOBS="own:jobs", PENSTOCK_TOPOLOGY=SHIPPED)
    command = [sys.executable, "-m", "penstock_services.worker"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "both handle ticket.created on ingest" in done.stderr
    assert "PENSTOCK_SHIPPED_JOBS=false leaves out those that ship" in done.stderr
