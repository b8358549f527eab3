"""The dead-man's switch: somebody outside is called while the path of alerts works, and only then."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.mesh.deliveries import FailedDelivery
from penstock.times import rfc3339
from tests.alerting import lagging, manager, publish, publish_tick, rules_text
from tests.alerts import ALERT, RESOLVED, make_alert, make_notification
from tests.command_line import environment
from tests.notifiers import Mesh
from tests.processes import ROOT, eventually
from tests.servers import Server
from tests.standins import Reply, StandIn

LAG = "kind: threshold\nseries: lag_age\nabove: 30s"


@pytest.fixture
def outside() -> Iterator[StandIn]:
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def mesh(server: Server, raw: Any, tmp_path: Path, outside: StandIn) -> Mesh:
    return Mesh(server, raw, tmp_path, "channels: {}\n", PENSTOCK_HEARTBEAT_URL=outside.url)


def sign_of_life(raw: Any, age: float = 0.0) -> None:
    data = msgspec.json.encode({"time": rfc3339(time.time() - age)})
    raw.xadd("alerts", {"type": "alert.watchdog", "data": data})


def test_a_measured_window_becomes_a_call(mesh: Mesh, server: Server, raw: Any, outside: StandIn) -> None:
    rules = mesh.log.with_name("alerts.yaml")
    rules.write_text(rules_text(lag=LAG))
    with manager(server, rules), mesh.notifier():
        publish(raw, lagging(time.time() // 10 * 10 - 10, 4))
        publish_tick(raw, time.time())
        eventually(lambda: outside.requests)

    assert (outside.requests[0].method, outside.requests[0].path) == ("GET", StandIn.path)


def test_what_proves_nothing_of_now_is_no_call(mesh: Mesh, raw: Any, outside: StandIn) -> None:
    with mesh.notifier():
        sign_of_life(raw, age=90)
        eventually(lambda: mesh.logged("the sign of life is "))
        assert outside.requests == []
        sign_of_life(raw)
        eventually(lambda: len(outside.requests) == 1)


def test_while_a_critical_alert_is_late_nobody_is_called(mesh: Mesh, raw: Any, outside: StandIn) -> None:
    kept = FailedDelivery(
        delivery_id="d", time=rfc3339(time.time()), attempts=4, error="503", notification=make_notification()
    )
    raw.hset("state:notifier:late", "d", msgspec.json.encode(kept))
    with mesh.notifier():
        sign_of_life(raw)
        eventually(lambda: mesh.logged("critical alerts have not arrived on test"))
        assert outside.requests == []
        raw.delete("state:notifier:late")
        sign_of_life(raw)
        eventually(lambda: len(outside.requests) == 1)


def test_while_a_critical_alert_that_was_given_up_fires_nobody_is_called(
    server: Server, raw: Any, tmp_path: Path, outside: StandIn
) -> None:
    with StandIn() as refusing:
        refusing.answer = lambda: Reply(400, "no")
        notify = f"""
channels: {{main: {{type: webhook, url: "{refusing.url}"}}}}
routes: [{{channels: [main], match: [service=worker]}}]
"""
        mesh = Mesh(server, raw, tmp_path, notify, PENSTOCK_HEARTBEAT_URL=outside.url)
        with mesh.notifier():
            mesh.tell(make_alert(fingerprint="f2", severity="warning"))
            eventually(lambda: mesh.statuses("main") == ["dead"] and mesh.settled)
            refusing.answer = lambda: None
            mesh.tell(make_alert(fingerprint="f3"))  # it works again, so the channel's own alert is over
            eventually(lambda: mesh.statuses("main") == ["dead", "sent"] and mesh.settled)
            sign_of_life(raw)
            eventually(lambda: len(outside.requests) == 1, what="a warning keeps nobody from calling")

            refusing.answer = lambda: Reply(400, "no")
            mesh.tell(ALERT)
            eventually(lambda: mesh.statuses("main")[2:] == ["dead"] and mesh.settled)
            sign_of_life(raw)
            eventually(lambda: mesh.logged("critical alerts have not arrived on main"))
            assert len(outside.requests) == 1
            refusing.answer = lambda: None
            mesh.tell(RESOLVED)
            eventually(lambda: mesh.statuses("main")[3:] == ["sent"] and mesh.settled)
            sign_of_life(raw)
            eventually(lambda: len(outside.requests) == 2)


def test_a_call_that_is_not_accepted_does_no_harm_and_does_not_tell_the_address(
    mesh: Mesh, raw: Any, outside: StandIn
) -> None:
    outside.script.append(Reply(status=500))
    with mesh.notifier():
        sign_of_life(raw)
        eventually(lambda: mesh.logged("the heartbeat was not accepted"))
        sign_of_life(raw)
        eventually(lambda: len(outside.requests) == 2)

    assert raw.xlen("dlq") == 0
    assert "secret-part" not in mesh.log.read_text()


def test_an_address_that_is_none_ends_the_start(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "penstock_services.notifier"],
        env=environment(REDIS_URL=server.url, PENSTOCK_HEARTBEAT_URL="not-an-address"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 2
    assert "PENSTOCK_HEARTBEAT_URL" in done.stderr
