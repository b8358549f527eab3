"""`penstock demo` shows what is promised, and notices when it is not kept."""

from __future__ import annotations

import re
from pathlib import Path

from tests.e2e.mesh import Mesh, stop
from tests.processes import ROOT
from tests.servers import free_port


def test_without_a_mesh_it_starts_the_shipped_one_and_everything_is_as_promised_and_as_shown(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    del mesh.env["PENSTOCK_TOPOLOGY"]
    done = mesh.cli("demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("All 6 as promised.\n")
    for step in (
        "202 accepted",
        "XADD ingest",
        "job.failed, attempt 2",
        "job.completed, attempt 3",
        "dlq",
        "invalid",
        "alert.resolved",
    ):
        assert step in done.stdout
    assert not (tmp_path / "data").exists(), "the demo leaves nothing behind"
    (shown,) = re.findall(r"```console\n(3\. One that fails.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for line in shown.splitlines():
        assert line == "..." or shape(line) in map(shape, done.stdout.splitlines()), line


def shape(line: str) -> str:
    """Return a line of the demo without what differs from run to run: ids, times, counts, and how many there are."""
    line = re.sub(r"(?:\b[0-9a-f]{32}\b(?:, (?:\.\.\.)?)?)+", "ID", line)
    line = re.sub(r"outage\.\w+", "outage.ID", line)
    line = re.sub(r"\d\S*", "N", re.sub(r"(?<=\d) ms\b", " s", line))
    return re.sub(r"\s+", " ", line).strip()


def test_a_running_mesh_is_used_and_its_broken_promises_are_counted(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    with mesh.up(DLQ_ENABLED="false") as process:
        mesh.is_ready()
        mesh.are_reading()
        done = mesh.cli("demo")
        assert stop(process) == 0
    assert done.returncode == 1, done.stdout
    assert done.stdout.count("NOT AS PROMISED: there is no dead letter") == 2
    assert "2 of 5 promises broken" in done.stdout
    assert f"127.0.0.1:{mesh.redis_port}" in done.stdout


def test_a_mesh_without_gateway_cannot_show_anything(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, "services: {worker: {run: penstock_services.worker}}", PENSTOCK_GATEWAY_PORT=str(free_port()))
    done = mesh.cli("demo")
    assert done.returncode == 2
    assert "needs the services gateway and worker" in done.stderr
