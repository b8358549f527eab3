"""The blocks of the README that can run do what it says of them."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import environment
from tests.forks import run
from tests.gateways import running_gateway
from tests.processes import ROOT, eventually, service_process
from tests.servers import Server

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def block(language: str, holding: str) -> str:
    (found,) = [one for one in blocks(language) if holding in one]
    return found


def test_the_service_in_two_files_does_what_is_said_of_it(server: Server, raw: Any, tmp_path: Path) -> None:
    for text in (block("python", "# shop.py"), block("yaml", "# streams.yaml")):
        name = text.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(text)
    promised = re.search(r"`(order\.paid) (\{.*\})`", README)
    assert promised is not None
    env = {"REDIS_URL": server.url}
    with service_process("-m", "penstock", "run", "shop:service", env=env, cwd=tmp_path):
        command = shlex.split(block("sh", "penstock emit"))
        assert run(command, env=environment(**env), cwd=tmp_path).returncode == 0
        eventually(lambda: raw.xlen("facts"))
    ((_, fields),) = raw.xrange("facts")
    assert [fields[b"type"].decode(), fields[b"data"].decode()] == [*promised.groups()]


@pytest.mark.parametrize(("holding", "jobs"), [("redis-cli XADD ingest", 2), ("/webhooks/demo", 1)])
def test_the_ways_in_lead_to_completed_jobs(holding: str, jobs: int, server: Server, raw: Any, tmp_path: Path) -> None:
    script = block("sh", holding)
    env = {"REDIS_URL": server.url}
    with (
        running_gateway(server, tmp_path, PENSTOCK_DEMO_WEBHOOK="true") as gateway,
        service_process("-m", "penstock_services.worker", env=env),
    ):
        script = script.replace("127.0.0.1:8080", f"127.0.0.1:{gateway.port}")
        script = script.replace("redis-cli ", f"redis-cli -s {server.socket} ")
        done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=True)
        assert '"status":"accepted"' in done.stdout
        eventually(lambda: completed(raw) >= jobs)
    assert completed(raw) == jobs


def test_what_a_job_leads_to_looks_as_shown(server: Server, raw: Any, tmp_path: Path) -> None:
    command, _, shown = block("console", "XREVRANGE").removeprefix("$ ").partition("\n")
    (xadd,) = re.findall(r"^redis-cli XADD.*", block("sh", "redis-cli XADD ingest"), re.MULTILINE)
    with service_process("-m", "penstock_services.worker", env={"REDIS_URL": server.url}):
        redis_cli(xadd, server)
        eventually(lambda: completed(raw))
    said = redis_cli(command.replace("redis-cli", "redis-cli --no-raw"), server)
    assert shape(said) == shape(shown)


def redis_cli(command: str, server: Server) -> str:
    command = command.replace("redis-cli ", f"redis-cli -s {server.socket} ", 1)
    return subprocess.run(["bash", "-euc", command], capture_output=True, text=True, timeout=60, check=True).stdout


def shape(text: str) -> str:
    """Return it without what differs from run to run: ids and times."""
    text = re.sub(r"\b[0-9a-f]{16,32}\b", "ID", text)
    return re.sub(r"\d+(\.\d+(e-\d+)?)?", "N", text).strip()


def completed(raw: Any) -> int:
    return [fields[b"type"] for _, fields in raw.xrange("events")].count(b"job.completed")
