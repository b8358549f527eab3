"""The built wheel: what it installs, beside a project whose own packages have everyday names."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest

import penstock
from tests.command_line import environment
from tests.processes import ROOT, eventually, service_process
from tests.servers import Server

pytestmark = pytest.mark.xdist_group("wheel")

TOPOLOGY = """
streams: {ingest: {}, events: {}}
services:
  foo: {run: "services.foo:service", consumes: {ingest: {}}, publishes: [events]}
"""
FOO = """
from libs import greeting
from penstock import Context, Service

service = Service("foo")


@service.on("ingest", type="greet")
def greet(_: None, ctx: Context) -> None:
    ctx.emit("events", "greeted", greeting())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(["uv", "build", "--quiet", "--wheel", "--out-dir", folder, ROOT], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of a fresh environment with the wheel; what it depends on comes from the one of this run."""
    folder = tmp_path_factory.mktemp("venv")
    executable = folder / "bin/python"
    subprocess.run(["uv", "venv", "--quiet", "--no-project", "--clear", folder], cwd=folder, check=True)
    subprocess.run(
        ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", executable, wheel], check=True
    )
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files are not read
    return str(executable)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with packages called services, libs and tests."""
    for package, text in {
        "services": "",
        "libs": "def greeting():\n    return 'hello'\n",
        "tests": "",
    }.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(text)
    (tmp_path / "services/foo.py").write_text(FOO)
    (tmp_path / "streams.yaml").write_text(TOPOLOGY)
    return tmp_path


def test_it_takes_two_names_and_holds_every_file_of_theirs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT / folder))
        for folder, package in (("libs", "penstock"), ("services", "penstock_services"))
        for path in (ROOT / folder / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert held == ours | {"penstock/streams.yaml", "penstock/alerts.yaml", "penstock/notify.yaml"}
    for package in ("penstock", "penstock_services"):
        assert f"{package}/py.typed" in held
    assert f"penstock-{penstock.__version__}-" in wheel.name


def test_a_project_s_own_packages_are_found_beside_it(python: str, project: Path, server: Server, raw: Any) -> None:
    said = run(python, project, "-c", "import services.foo, libs, tests, penstock; print(penstock.__file__)")
    assert str(Path(python).parents[1]) in said
    raw.xadd("ingest", {"type": "greet"})
    with service_process("-m", "penstock", "run", "services.foo:service", python=python, cwd=project, env=env(server)):
        eventually(lambda: raw.xlen("events") == 2)
    (_, fields), (_, report) = raw.xrange("events")
    assert json.loads(fields[b"data"]) == "hello"
    assert report[b"type"] == b"job.completed"


def test_the_shipped_services_run_beside_them(python: str, project: Path, server: Server, raw: Any) -> None:
    (project / "streams.yaml").unlink()  # the one that ships takes its place
    raw.xadd("ingest", {"type": "demo.flaky", "data": '{"fail_times": 0}'})
    command = ("-m", "penstock_services.worker")
    with service_process(*command, python=python, cwd=project, env=env(server)):
        eventually(lambda: b"job.completed" in [fields[b"type"] for _, fields in raw.xrange("events")])
    for name in ("gateway", "metrics", "alerts", "notifier"):
        run(python, project, "-c", f"import penstock_services.{name}.service")


def test_its_version_is_the_package_s(python: str, project: Path) -> None:
    assert run(python, project, "-m", "penstock", "--version").strip() == penstock.__version__


def env(server: Server) -> dict[str, str]:
    return {"REDIS_URL": server.url}


def run(python: str, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
