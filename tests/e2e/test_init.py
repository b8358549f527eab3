"""`penstock init`: the project that it makes, tested and run as its README says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.command_line import environment
from tests.deploy.stack import compose_commands
from tests.e2e.mesh import Mesh, stop
from tests.forks import run


def init(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return run(["penstock", "init", name], env=environment(), cwd=folder)


@pytest.fixture(params=["shop", "order-desk"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    done = init(request.param, tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / str(request.param)


@pytest.mark.parametrize("options", [[], ["--penstock-redis"]], ids=["in memory", "on a server"])
def test_its_test_passes(project: Path, options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *options],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_it_is_up_and_does_a_job_as_its_readme_says(project: Path) -> None:
    emit, job = re.findall(r"^penstock (?:emit|job) .*", (project / "README.md").read_text(), re.MULTILINE)
    mesh = Mesh(project, None, cwd=project)
    with mesh.up() as process:
        mesh.says("Penstock is ready")
        mesh.says("Ctrl-C drains")
        assert "order.placed" in mesh.output.partition("Try, in another terminal, with data that ")[2]
        said = mesh.cli(*shlex.split(emit)[1:])
        assert said.returncode == 0, said.stderr
        show = [*shlex.split(job.replace("ID", said.stdout.strip()))[1:], "--json"]
        mesh.completes(said.stdout.strip())
        told = json.loads(mesh.cli(*show).stdout)
        assert stop(process) == 0
    assert (told["state"], told["result"]) == ("completed", {"order_id": "A-1", "total": 15.0})
    assert "Traceback" not in mesh.output


def test_its_containers_run_what_streams_yaml_does(project: Path) -> None:
    ((name, spec),) = yaml.safe_load((project / "streams.yaml").read_text())["services"].items()
    services = yaml.safe_load((project / "compose.yaml").read_text())["services"]
    assert services.keys() == {name, "redis"}
    assert "noeviction" in services["redis"]["command"]
    dockerfile = (project / "Dockerfile").read_text()
    assert f'CMD ["penstock", "run", "{spec["run"]}"]' in dockerfile
    (copied,) = re.findall(r"COPY (.*\.py streams\.yaml) \./", dockerfile)
    assert all((project / file).exists() for file in copied.split())
    for command in compose_commands():
        checked = subprocess.run([*command, "config"], cwd=project, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "desk").write_text("mine")
    for name in ("shop", "desk"):
        done = init(name, tmp_path)
        assert (done.returncode, done.stderr) == (
            2,
            f"penstock: {name} is here already: give another name, or remove it first\n",
        )
    assert list((tmp_path / "shop").iterdir()) == []
    assert (tmp_path / "desk").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Shop", "small letters"),
        ("../shop", "small letters"),
        ("a--b", "small letters"),
        ("1st", "small letters"),
        ("x" * 51, "at most 50"),
        ("class", "Python's own"),
        ("json", "a Python package json already"),
        ("redis", "a Python package redis already"),
        ("penstock-services", "a Python package penstock_services already"),
        ("pytest", "a Python package pytest already"),
    ],
)
def test_a_name_that_will_not_do_is_refused_with_the_reason(tmp_path: Path, name: str, why: str) -> None:
    done = init(name, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("penstock: NAME: ")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
