"""SIGKILL of a notifier, wherever it hurts: what the receipt says is promised, and nothing less."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.alerts import ALERT, RESOLVED, make_alert
from tests.notifiers import Mesh
from tests.processes import eventually
from tests.servers import Server
from tests.standins import Received, Reply, StandIn


@pytest.fixture
def hook() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


@pytest.fixture
def mesh(server: Server, raw: Any, tmp_path: Path, hook: StandIn) -> Mesh:
    notify = f"""
channels: {{main: {{type: webhook, url: "{hook.url}", rate: 500/s}}}}
routes: [{{channels: [main]}}]
"""
    return Mesh(server, raw, tmp_path, notify)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def confirmed(raw: Any) -> int:
    logs = raw.scan_iter("state:notifier:log:main:*")
    return sum(bool(raw.hget(log, "delivered")) for log in logs)


def test_what_was_confirmed_and_recorded_is_not_sent_again_after_sigkill(mesh: Mesh, hook: StandIn, raw: Any) -> None:
    with mesh.notifier("-m", "tests.chaos.held_notifier") as process:
        mesh.tell(ALERT)
        eventually(lambda: confirmed(raw) == 1)
        kill(process)
        assert mesh.statuses("main") == []
    with mesh.notifier():
        eventually(lambda: mesh.statuses("main") == ["sent"] and mesh.settled)

    assert len(hook.requests) == 1
    assert mesh.attempts("main")[0].code == 204


def test_what_was_confirmed_is_not_sent_again_for_another_change_either(mesh: Mesh, hook: StandIn, raw: Any) -> None:
    with mesh.notifier("-m", "tests.chaos.held_notifier") as process:
        mesh.tell(ALERT)
        eventually(lambda: confirmed(raw) == 1)
        kill(process)
    with mesh.notifier():
        mesh.tell(RESOLVED)
        eventually(lambda: len(mesh.statuses("main")) == 2 and mesh.settled)

    assert Counter(payload["type"] for payload in hook.payloads) == {"alert.triggered": 1, "alert.resolved": 1}


def test_a_message_whose_confirmation_was_lost_comes_again_under_the_same_id(mesh: Mesh, hook: StandIn) -> None:
    killed: list[int] = []

    with mesh.notifier() as process:

        def on_request(_: Received) -> None:
            if not killed:  # it is dead before it can read the answer
                killed.append(1)
                kill(process)

        hook.on_request = on_request
        mesh.tell(ALERT)
        eventually(lambda: process.poll() is not None)
    with mesh.notifier():
        eventually(lambda: mesh.statuses("main") == ["sent"])

    first, second = hook.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


def test_a_killed_notifier_loses_nothing_of_what_waits(mesh: Mesh, hook: StandIn) -> None:
    hook.script.append(Reply(429, "", {"Retry-After": "3600"}))
    with mesh.notifier() as process:
        mesh.tell(ALERT)
        eventually(lambda: mesh.waiting)
        kill(process)
    mesh.let_time_pass()
    with mesh.notifier():
        eventually(lambda: mesh.statuses("main") == ["failed", "sent"])

    assert len(hook.requests) == 2


def test_replicas_that_are_killed_over_and_over_deliver_every_alert(mesh: Mesh, hook: StandIn, raw: Any) -> None:
    alerts = [make_alert(fingerprint=f"f{number}") for number in range(60)]
    for alert in alerts[:30]:
        mesh.tell(alert)
    with mesh.notifier() as first:
        eventually(lambda: len(hook.requests) >= 5)
        kill(first)
    with mesh.notifier() as second, mesh.notifier(PENSTOCK_NOTIFIER_PORT="0"):
        for alert in alerts[30:]:
            mesh.tell(alert)
        eventually(lambda: len(hook.requests) >= 35)
        kill(second)
        eventually(lambda: confirmed(raw) == 60 and mesh.settled)

    times = Counter(payload["data"]["fingerprint"] for payload in hook.payloads)
    ids = {request.headers["webhook-id"] for request in hook.requests}
    assert set(times) == {alert.fingerprint for alert in alerts}
    assert len(ids) == 60, "what came twice came under the same id"
    assert mesh.statuses("main").count("sent") == 60
