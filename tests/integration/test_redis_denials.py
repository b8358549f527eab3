"""What Redis denies by its access lists: who may not do what is said, and nothing is lost until it is granted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.gateways import Gateway
from tests.processes import ROOT, eventually, service_process
from tests.servers import Server, free_port

EVENT = {"type": "demo.flaky", "data": '{"fail_times": 0}'}


def as_narrow(server: Server, raw: Any, *, without: str = "", keys: tuple[str, ...] = ("*",)) -> dict[str, str]:
    """Make a user who may do all but one thing; return the environment that speaks as that user."""
    commands = [f"-{without}"] if without else []
    raw.acl_setuser(
        "narrow",
        enabled=True,
        nopass=True,
        reset=True,
        categories=["+@all"],
        commands=commands,
        keys=keys,
        channels=["*"],
    )
    return {"REDIS_URL": f"{server.url}?username=narrow&password=anything"}


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("xadd", "nothing can be settled"),
        ("xreadgroup", "may not run xreadgroup"),
        ("info", "waiting for Redis"),
    ],
)
def test_a_worker_names_the_right_it_lacks_and_goes_on_once_it_has_it(
    server: Server, raw: Any, tmp_path: Path, without: str, said: str
) -> None:
    env, log = as_narrow(server, raw, without=without), tmp_path / "log"
    raw.xadd("ingest", EVENT)
    with service_process("-m", "penstock_services.worker", env=env, log=log):
        eventually(lambda: said in log.read_text() and f"user narrow may not run {without}" in log.read_text())
        as_narrow(server, raw)
        eventually(lambda: raw.exists("events"))
    assert raw.xlen("events") == 1


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("ping", "may not run ping"),
        ("xreadgroup", "may not run xreadgroup"),
        ("xadd", "may not run xadd (script commit"),
        ("evalsha", "heartbeats do not get through: user narrow may not run evalsha"),
    ],
)
def test_readiness_names_the_right_that_is_missing_and_comes_back_with_it(
    server: Server, raw: Any, tmp_path: Path, without: str, said: str
) -> None:
    port = free_port()
    env = as_narrow(server, raw) | {"PENSTOCK_WORKER_PORT": str(port)}
    with service_process("-m", "penstock_services.worker", env=env, log=tmp_path / "log") as process:
        worker = Gateway(port, process, tmp_path / "log")
        eventually(worker.ready, what="it is ready")
        as_narrow(server, raw, without=without)
        raw.xadd("ingest", EVENT)
        eventually(lambda: worker.get("/readyz").status == 503, what="it is not ready")
        eventually(lambda: said in worker.get("/readyz").detail, what="it says why")
        assert worker.get("/livez").status == 200, "whoever restarted it would change nothing"
        as_narrow(server, raw)
        eventually(worker.ready, what="it is ready again")
        eventually(lambda: raw.exists("events"))


def test_the_gateway_names_the_script_of_which_something_is_denied_the_first_time_too(
    server: Server, raw: Any, tmp_path: Path
) -> None:
    """A server that does not know the script is sent its text: older ones then say nothing of what they deny in it."""
    port = free_port()
    env = as_narrow(server, raw) | {"PENSTOCK_GATEWAY_PORT": str(port)}
    with service_process("-m", "penstock_services.gateway", env=env, log=tmp_path / "log") as process:
        gateway = Gateway(port, process, tmp_path / "log")
        eventually(gateway.ready, what="it is ready")
        as_narrow(server, raw, without="xadd")
        raw.script_flush()
        refused = gateway.post({"type": "t", "data": {}})
        assert refused.status == 503
        assert "user narrow may not run" in refused.detail
        assert re.search(r"\(script publish on \S+, ingest\)", refused.detail)


def test_a_heartbeat_names_the_key_it_may_not_use(server: Server, raw: Any, tmp_path: Path) -> None:
    keys = ("ingest*", "events*", "state:*", "lock:*", "dlq*", "dedupe:*", "breaker*", "topology*", "quarantine:*")
    env, log = as_narrow(server, raw, keys=keys), tmp_path / "log"
    with service_process("-m", "penstock_services.worker", env=env, log=log):
        eventually(lambda: "user narrow may not use a key that is needed" in log.read_text())
        eventually(lambda: "(script heartbeat on beats:worker)" in log.read_text())


def test_a_command_line_names_the_right_it_lacks(server: Server, raw: Any, tmp_path: Path) -> None:
    env = as_narrow(server, raw, without="xinfo")
    raw.xadd("ingest", EVENT)
    done = forks.run(["penstock", "status"], env=env, cwd=ROOT)
    assert done.returncode == 3
    assert "user narrow may not run xinfo" in done.stderr
    assert "Traceback" not in done.stderr
