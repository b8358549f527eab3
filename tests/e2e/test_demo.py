"""`penstock demo` shows what is promised, and notices when it is not kept."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.mesh import Mesh, stop
from tests.servers import free_port


def test_without_a_mesh_it_starts_the_shipped_one_and_everything_is_as_promised(tmp_path: Path) -> None:
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
