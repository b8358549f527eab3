"""What the metrics service tells over HTTP, and `penstock metrics`."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.cells import cell_len

from penstock.times import rfc3339
from tests.forks import run, start
from tests.metrics import EPOCH_MS, fields, service, settled
from tests.processes import eventually
from tests.servers import Server, free_port


class Told:
    """A running service and how to ask it."""

    def __init__(self, server: Server, port: int) -> None:
        self._server = server
        self._port = port

    def get(self, path: str) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read()
        finally:
            connection.close()

    def json(self, path: str, status: int = 200) -> Any:
        found, kind, body = self.get(path)
        assert (found, kind) == (status, "application/json" if status == 200 else "application/problem+json")
        return json.loads(body)

    def up(self, path: str = "/readyz") -> bool:
        try:
            return self.get(path)[0] == 200
        except OSError:
            return False

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return run(["penstock", "metrics", *arguments], env={"REDIS_URL": self._server.url, "PATH": "", **env})


def publish(raw: Any, *kinds: str, **rest: Any) -> None:
    for kind in kinds:
        raw.xadd("events", fields(kind, **rest))


@pytest.fixture
def told(server: Server, raw: Any) -> Iterator[Told]:
    """A service that has counted nine attempts at jobs, three of which failed, and another event."""
    publish(raw, *["job.completed"] * 6, duration=0.2, queue_wait=0.01)
    publish(raw, "job.failed", "job.failed", "job.dead", duration=0.4, error="connection refused", tenant="acme")
    publish(raw, "ticket.triaged", source="crm")
    port = free_port()
    with service(server, PENSTOCK_METRICS_PORT=str(port)):
        made = Told(server, port)
        eventually(made.up, what="it is ready")
        eventually(lambda: settled(raw), what="everything is counted")
        yield made


def total(report: Any, name: str) -> int:
    return sum(one["count"] for window in report["windows"] for one in window["series"] if one["name"] == name)


@pytest.mark.parametrize("window", [10, 60])
def test_current_windows_are_told_as_json(told: Told, window: int) -> None:
    report = told.json(f"/v1/metrics?window={window}")
    assert {"now", "watermark"} < set(report)
    assert all(one["seconds"] == window for one in report["windows"])
    assert (total(report, "events"), total(report, "jobs")) == (10, 9)


def test_series_can_be_chosen_by_name_and_label(told: Told) -> None:
    assert total(told.json("/v1/metrics?name=events&type=job.completed"), "events") == 6
    assert total(told.json("/v1/metrics?name=jobs&tenant=acme"), "jobs") == 3
    assert total(told.json("/v1/metrics?service=crm"), "events") == 1
    assert total(told.json("/v1/metrics?type=no.such"), "events") == 0


def test_windows_can_be_chosen_by_time(told: Told, raw: Any) -> None:
    now = int(raw.time()[0])
    for since, found in (("10m", 10), (rfc3339(now - 600), 10), (rfc3339(now + 60), 0)):
        assert total(told.json(f"/v1/metrics?since={since}"), "events") == found
    assert total(told.json("/v1/metrics?since=20m&until=10m"), "events") == 0


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("window=30", "neither 10 nor 60"),
        ("since=yesterday", "neither a duration before now"),
        ("until=2026-11-22T10:00:00", "neither a duration before now"),
        ("tpye=x", "no such parameter"),
    ],
)
def test_a_mistake_in_the_query_is_a_problem_in_words(told: Told, query: str, says: str) -> None:
    problem = told.json(f"/v1/metrics?{query}", status=400)
    assert says in problem["detail"]
    assert query.partition("=")[0] in problem["detail"]


def test_other_paths_and_methods_are_problems_too(told: Told) -> None:
    assert told.json("/v2", status=404)["status"] == 404


def test_prometheus_reads_the_page(told: Told, raw: Any) -> None:
    status, kind, body = told.get("/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert sum(sample.value for sample in families["penstock_events"].samples) == 10
    attempts = families["penstock_job_duration_seconds"]
    assert attempts.type == "histogram"
    assert sum(one.value for one in attempts.samples if one.name.endswith("_count")) == 9
    alive = {sample.labels["group"]: sample.value for sample in families["penstock_consumers"].samples}
    assert alive["metrics"] == 1


def test_counters_only_ever_go_up_while_windows_are_counted_and_closed(server: Server, raw: Any) -> None:
    pipeline = raw.pipeline(transaction=False)
    for number in range(10_000):
        pipeline.xadd("events", fields("ticket.triaged"), id=f"{EPOCH_MS + number * 600}-0")
    pipeline.execute()
    port = free_port()
    told = Told(server, port)
    seen: list[float] = []
    windows: list[int] = []

    def closed() -> bool:
        families = text_string_to_metric_families(told.get("/metrics")[2].decode())
        counted = [one for family in families if family.name == "penstock_events" for one in family.samples]
        seen.append(sum(one.value for one in counted if one.labels.get("type") == "ticket.triaged"))
        windows.append(raw.xlen("metrics"))
        return settled(raw) and raw.zcard("state:metrics:open") == 0

    with service(server, PENSTOCK_METRICS_PORT=str(port)):
        eventually(lambda: told.up("/livez"))
        eventually(closed, deadline=60, what="every window is closed")
    assert len(set(windows)) > 2
    assert seen == sorted(seen)
    assert seen[-1] == 10_000


def test_it_is_alive_but_not_ready_while_redis_is_away(own_server: Server) -> None:
    port = free_port()
    with service(own_server, PENSTOCK_METRICS_PORT=str(port)) as process:
        told = Told(own_server, port)
        eventually(told.up)
        own_server.stop()
        eventually(lambda: told.get("/readyz")[0] == 503)
        assert told.get("/livez")[0] == 200
        assert told.json("/v1/metrics", status=503)["status"] == 503
        assert told.get("/metrics")[0] == 503
        own_server.start()
        eventually(told.up)
        process.terminate()
        assert process.wait(20) == 0


def test_replicas_share_the_port(told: Told, server: Server, raw: Any) -> None:
    with service(server, PENSTOCK_METRICS_PORT=str(told._port)):
        eventually(lambda: raw.xinfo_groups("events")[0]["consumers"] == 2, what="the second one reads")
    assert told.up()


def test_a_port_that_another_program_has_is_said_in_words(server: Server, tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        log = tmp_path / "log"
        with service(server, log=log, PENSTOCK_METRICS_PORT=str(port)) as process:
            assert process.wait(20) == 2
    who = f"another program ({Path(sys.executable).name}, process {os.getpid()})"
    assert f"PENSTOCK_METRICS_PORT: 127.0.0.1:{port} is taken by {who}; stop that one" in log.read_text()


def test_the_command_prints_tables_with_sparklines(told: Told) -> None:
    shown = told.run("--once")
    assert shown.returncode == 0, shown.stderr
    rows = {tuple(line.split()[:2]): line for line in shown.stdout.splitlines() if line.strip()}
    assert "0.0%" in rows["ticket.created", "6"]
    assert "100.0%" in rows["ticket.created", "acme"]
    assert "█" in rows["ticket.created", "acme"]
    assert rows["ticket.triaged", "crm"].split()[2] == "1"


def test_the_tables_fit_eighty_columns_with_every_number_whole(told: Told) -> None:
    wide = told.run("--once", COLUMNS="200").stdout.splitlines()
    narrow = told.run("--once", COLUMNS="80").stdout.splitlines()

    assert "p90   " in "".join(wide)
    assert any(re.search(r"  ticket\.created acme +3 .* 400 ms ", f"  {line}") for line in narrow)
    assert "left out for want of room: p90" in "\n".join(narrow)
    assert max(map(cell_len, narrow)) <= 80
    assert sum("left out" not in line for line in narrow) == len(wide), "no line is folded"
    rows = zip(wide, (line for line in narrow if "left out" not in line), strict=True)
    for whole, shown in rows:
        cells = re.split(r" {2,}", whole.strip())
        assert [cell for cell in re.split(r" {2,}", shown.strip()) if cell not in cells and "█" not in cell] == []


def test_on_a_terminal_the_command_follows_along_until_ctrl_c(told: Told, server: Server, raw: Any) -> None:
    screen, terminal = os.openpty()
    shown = b""

    def shows(text: bytes) -> bool:
        nonlocal shown
        while select.select([screen], [], [], 0)[0]:
            shown += os.read(screen, 65_536)
        return text in shown

    env = {"REDIS_URL": server.url, "PATH": "", "TERM": "xterm", "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
    process = start(["penstock", "metrics"], env=env, stdin=terminal, stdout=terminal, stderr=terminal)
    try:
        eventually(lambda: shows(b"ticket.triaged"))
        publish(raw, "ticket.assigned")
        eventually(lambda: shows(b"ticket.assigned"))
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.wait()
    assert not shows(b"Traceback")
    os.close(screen)
    os.close(terminal)


def test_the_command_prints_json_like_the_endpoint(told: Told) -> None:
    printed = json.loads(told.run("--json", "--since", "10m", "--label", "type=job.completed").stdout)
    asked = told.json("/v1/metrics?type=job.completed")
    assert total(printed, "events") == total(asked, "events") == 6
    assert set(printed) == set(asked)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--window", "30"), "neither 10 nor 60"),
        (("--since", "x"), "neither a duration before now"),
        (("--label", "type"), "LABEL=VALUE"),
        (("--label", "colour=red"), "no such parameter"),
    ],
)
def test_the_command_answers_mistakes_in_words(told: Told, arguments: tuple[str, ...], says: str) -> None:
    answer = told.run(*arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert says in answer.stderr


def test_where_nothing_was_counted_the_command_says_so(server: Server, raw: Any) -> None:
    assert "nothing was counted" in Told(server, 0).run("--once").stdout
