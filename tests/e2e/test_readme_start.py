"""The first two ways to start that the README shows, each as a person would take it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.e2e.mesh import Mesh, stop
from tests.processes import ROOT
from tests.servers import free_port

INSTALL, SHIPPED = re.findall(r"```sh\n((?:uv tool|pip) install .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_a_service_of_ones_own_is_installed_made_and_up(tmp_path: Path) -> None:
    install, start = INSTALL.splitlines()
    programs = tmp_path / "bin"
    tools = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(programs)}
    mesh = Mesh(tmp_path, None, cwd=tmp_path)
    del mesh.env["PENSTOCK_TOPOLOGY"]
    mesh.env["PATH"] = f"{programs}:{mesh.env['PATH']}"
    subprocess.run(["bash", "-euc", install], cwd=ROOT, env=mesh.env | tools, check=True, timeout=100)
    with mesh.runs("bash", "-euc", start) as process:
        mesh.says("Penstock is ready")
        readme = (tmp_path / "shop" / "README.md").read_text()
        (emit,) = re.findall(r"^penstock emit .*", readme, re.MULTILINE)
        said = subprocess.run(
            ["bash", "-euc", emit], cwd=tmp_path / "shop", env=mesh.env, capture_output=True, text=True, check=True
        )
        mesh.completes(said.stdout.strip())
        stop(process)
    assert str(programs) in str(shutil.which("penstock", path=mesh.env["PATH"]))


def test_the_mesh_that_ships_is_up(tmp_path: Path) -> None:
    install, start = SHIPPED.splitlines()
    assert install == "pip install rust-just"
    ports = {f"PENSTOCK_{name}_PORT": str(free_port()) for name in ("METRICS", "ALERTS", "NOTIFIER")}
    mesh = Mesh(tmp_path, None)
    mesh.env |= ports
    del mesh.env["PENSTOCK_TOPOLOGY"]
    with mesh.runs("bash", "-euc", start) as process:
        mesh.is_ready()
        mesh.says("Penstock is ready")
        mesh.completes(mesh.add_ticket())
        stop(process)
