"""Handlers that fork, hang, or raise what ends programs: it is theirs, and their process and its neighbours go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.hands import Raw, fields_of
from tests.integration.rough_jobs import ENDS
from tests.mesh import settled
from tests.processes import eventually, is_running, service_process
from tests.servers import Server, free_port

TOPOLOGY = """
streams: {ingest: {kind: facts}, events: {}}
services:
  rough: {consumes: {ingest: {}}, publishes: [events], concurrency: 4}
"""
TARGET = "tests.integration.rough_jobs:jobs"


class Rough(msgspec.Struct):
    """A process of rough jobs."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    def lines(self, event: str) -> list[dict[str, object]]:
        """Return what it has logged under one name."""
        found = [json.loads(line) for line in self.log.read_bytes().splitlines() if line.startswith(b"{")]
        return [line for line in found if line["event"] == event]

    def get(self, path: str = "/readyz") -> tuple[int, str]:
        """Return what it answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)


@contextmanager
def rough(url: str, folder: Path, **env: str) -> Iterator[Rough]:
    topology, log = folder / "streams.yaml", folder / "log"
    topology.write_text(TOPOLOGY)
    port = free_port()
    settings = {"REDIS_URL": url, "PENSTOCK_TOPOLOGY": str(topology), "PENSTOCK_HEALTH_PORT": str(port)}
    with service_process("-m", "penstock", "run", TARGET, env=settings | env, log=log) as process:
        yield Rough(process, log, port)


def refuses(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) != 0


def add(raw: Raw, *types: str, **fields: str) -> None:
    for kind in types:
        raw.xadd("ingest", {"type": kind, "data": "null", **fields})


def types(raw: Raw) -> list[str]:
    return [fields["type"] for fields in fields_of(raw, "events")]


def done(raw: Raw) -> bool:
    return bool(raw.exists("ingest")) and bool(raw.xinfo_groups("ingest")) and settled(raw, "ingest", "rough")


# Forks


@pytest.mark.parametrize("kind", ["fork.pool", "fork.pool.plain", "fork.terminate", "fork.bare"])
def test_the_children_of_a_handler_do_not_speak_for_its_process(
    kind: str, server: Server, raw: Raw, tmp_path: Path
) -> None:
    add(raw, kind)
    with rough(server.url, tmp_path) as one:
        eventually(lambda: "forked" in types(raw), what="it has forked")
        add(raw, "good")
        eventually(lambda: done(raw), what="its process goes on")
        assert one.process.poll() is None

    assert types(raw) == ["forked", "good.done"]
    expected = {"fork.terminate": -signal.SIGTERM, "fork.bare": 0}.get(kind, [1, 2])
    assert json.loads(fields_of(raw, "events")[0]["data"]) == expected


def test_a_child_that_outlives_its_process_does_not_make_it_look_alive(
    server: Server, raw: Raw, tmp_path: Path
) -> None:
    add(raw, "fork.stays")
    with rough(server.url, tmp_path) as one:
        eventually(lambda: raw.get("child"), what="it has forked")
        child = int(raw.get("child"))
        try:
            one.process.kill()
            one.process.wait()
            eventually(
                lambda: b"name=rough-" not in raw.execute_command("CLIENT LIST"), what="its connections have ended"
            )
            eventually(lambda: refuses(one.port), what="nobody listens there")
            assert is_running(child)
        finally:
            os.kill(child, signal.SIGKILL)


# What hangs


@pytest.mark.parametrize("kind", ["hang", "hang.threads"])
def test_what_waits_behind_threads_that_hang_has_its_turn(kind: str, server: Server, raw: Raw, tmp_path: Path) -> None:
    with rough(server.url, tmp_path) as one:
        eventually(lambda: one.get()[0] == 200, what="it is ready")
        add(raw, *[kind] * 3, *["good.plain"] * 10)
        eventually(lambda: done(raw), what="all are settled")
        assert types(raw) == ["good.done"] * 10
        assert {json.loads(fields["data"])["attempt"] for fields in fields_of(raw, "events")} == {1}
        assert {fields["dlq.reason"] for fields in fields_of(raw, "dlq")} == {"failed"}
        status, said = one.get()
        assert (status, "hang: 3" in said) == (503, True)
        assert "penstock_hung_threads 3\n" in one.get("/metrics")[1]
        assert one.log.read_bytes().count(b"a thread hangs") == 1

        one.process.terminate()
        assert one.process.wait(20) == 0


def test_a_process_with_too_many_hung_threads_ends_to_be_started_again(
    server: Server, raw: Raw, tmp_path: Path
) -> None:
    add(raw, *["hang"] * 4, *["good.plain"] * 10)
    with rough(server.url, tmp_path) as one:
        assert one.process.wait(20) == 4
        assert b"penstock: 4 threads of plain handlers hang" in one.log.read_bytes()
    with rough(server.url, tmp_path):
        eventually(lambda: done(raw), what="the next one does the rest")

    assert types(raw) == ["good.done"] * 10
    assert len(fields_of(raw, "dlq")) == 4


@pytest.mark.parametrize("kind", ["swallow", "long"])
def test_what_does_not_end_is_handed_back_and_does_not_hold_the_end(
    kind: str, server: Server, raw: Raw, tmp_path: Path
) -> None:
    add(raw, kind)
    with rough(server.url, tmp_path, PENSTOCK_DRAIN_TIMEOUT="0.1") as one:
        eventually(lambda: raw.get("under way"), what="it runs")
        one.process.terminate()
        assert one.process.wait(20) == 0

    assert [fields["retry.crashes"] for fields in fields_of(raw, "ingest:rough:retry")] == ["0"]


def test_a_blocked_loop_is_told_as_what_it_is(server: Server, raw: Raw, tmp_path: Path) -> None:
    add(raw, "block.6s")
    with rough(server.url, tmp_path) as one:
        eventually(lambda: types(raw) == ["block.done"], what="it goes on")
        eventually(lambda: one.lines("reading again"), what="it reads")
        blocked = one.lines("a handler has blocked the event loop: nothing else could go on")
        stopped = one.lines("reading has stopped")

    assert len(blocked) == 1
    assert [str(line["reason"]).rpartition(" for ")[0] for line in stopped] == ["the event loop was blocked"]


def test_a_blocked_loop_does_not_hold_the_end(server: Server, raw: Raw, tmp_path: Path) -> None:
    add(raw, "block")
    with rough(server.url, tmp_path, PENSTOCK_DRAIN_TIMEOUT="0.1") as one:
        eventually(lambda: raw.get("under way"), what="it runs")
        one.process.terminate()
        assert one.process.wait(20) == 1
        assert one.lines("ending by force")


@pytest.mark.parametrize("kind", ["swallow", "long", "block"])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_process_at_once(
    kind: str, second: signal.Signals, server: Server, raw: Raw, tmp_path: Path
) -> None:
    add(raw, kind)
    with rough(server.url, tmp_path, PENSTOCK_DRAIN_TIMEOUT="600") as one:
        eventually(lambda: raw.get("under way"), what="it runs")
        one.process.terminate()
        eventually(lambda: one.lines("asked to stop"), what="the first signal has come")
        one.process.send_signal(second)
        assert one.process.wait(20) == 128 + second


# What ends a program


def test_what_a_handler_raises_is_its_own_failure_whatever_it_is(server: Server, raw: Raw, tmp_path: Path) -> None:
    add(raw, *(f"ends.{name}" for name in ENDS))
    with rough(server.url, tmp_path) as one:
        eventually(lambda: done(raw), what="all are settled")
        add(raw, "good", "cancel.late")
        eventually(lambda: done(raw), what="its process goes on")
        assert one.process.poll() is None
        failed, last = one.lines("attempt failed"), one.lines("dead-lettered")

    dead = {fields["type"]: fields for fields in fields_of(raw, "dlq")}
    assert set(dead) == {f"ends.{name}" for name in ENDS}
    assert {(one["dlq.reason"], one["dlq.attempts"]) for one in dead.values()} == {("failed", "2")}
    assert types(raw) == ["good.done"]
    assert {line["type"] for line in failed} == {line["type"] for line in last} == set(dead)
    assert {line["attempt"] for line in failed} == {1}
    assert all("Traceback" in str(line["traceback"]) for line in last)


def test_of_a_batch_only_who_raises_what_ends_programs_fails(server: Server, raw: Raw, tmp_path: Path) -> None:
    add(raw, *["batch"] * 5)
    add(raw, "batch", subject="bad")
    with rough(server.url, tmp_path):
        eventually(lambda: done(raw), what="all are settled")

    assert types(raw) == ["good.done"] * 5
    assert [(one["subject"], one["dlq.reason"]) for one in fields_of(raw, "dlq")] == [("bad", "failed")]


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_error_that_no_log_can_hold_is_logged_all_the_same(
    form: str, server: Server, raw: Raw, tmp_path: Path
) -> None:
    add(raw, "surrogate")
    with rough(server.url, tmp_path, PENSTOCK_LOG_FORMAT=form) as one:
        eventually(lambda: raw.xlen("dlq"), what="it is dead")
        assert one.process.poll() is None
        assert b"half of a pair: ?" in one.log.read_bytes()

    assert [one["dlq.reason"] for one in fields_of(raw, "dlq")] == ["failed"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_log_line_costs_the_work_it_tells_of(form: str, server: Server, raw: Raw, tmp_path: Path) -> None:
    add(raw, "logs")
    with rough(server.url, tmp_path, PENSTOCK_LOG_FORMAT=form) as one:
        eventually(lambda: done(raw), what="it is settled")
        log = one.log.read_bytes()
    assert types(raw) == ["good.done"]
    assert log.count(b"an odd value") == 6
    assert b"half ?" in log
    assert log.count(b"half of a pair: ?") == 2
    for line in log.splitlines() if form == "json" else ():
        msgspec.json.decode(line)  # strictly, as many readers of logs do


def test_nothing_that_a_sender_writes_steers_a_terminal_through_the_log(
    server: Server, raw: Raw, tmp_path: Path
) -> None:
    steering = "\x1b[31mred\x9b0m\u202eback\u2028line"
    raw.xadd("ingest", {"type": "unspeakable", "id": steering, "data": "{}"})
    with rough(server.url, tmp_path, PENSTOCK_LOG_FORMAT="console") as one:
        eventually(lambda: raw.xlen("dlq"), what="it is dead")
        eventually(lambda: b"dead-lettered" in one.log.read_bytes(), what="it is told")
        log = one.log.read_text()
    assert r"event_id=\x1b[31mred\x9b0m\u202eback\u2028line" in log
    assert not set("\x9b\u202e\u2028") & set(log)
    assert "\x1b[31mred" not in log


def test_an_error_that_cannot_be_said_is_a_failure_like_any_other(server: Server, raw: Raw, tmp_path: Path) -> None:
    add(raw, "unspeakable")
    with rough(server.url, tmp_path) as one:
        eventually(lambda: raw.xlen("dlq"), what="it is dead")
        assert len(one.lines("attempt failed")) == 1

    [dead] = fields_of(raw, "dlq")
    assert (dead["dlq.reason"], dead["dlq.attempts"]) == ("failed", "2")
    assert dead["dlq.error"] == "Unspeakable: (it cannot be said)"


# A Redis that goes away at the start


def test_a_process_whose_redis_goes_away_while_it_starts_waits(server: Server, raw: Raw, tmp_path: Path) -> None:
    with fickle(server) as (url, cut), rough(url, tmp_path) as one:
        eventually(lambda: one.get()[0] == 200, what="it is ready")
        assert len(cut) == 3
        assert one.lines("waiting for Redis")


@contextmanager
def fickle(server: Server) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the address of a way to the server that is cut at the first three requests of INFO; and those."""
    cut: list[bytes] = []

    def forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if b"INFO" in data and len(cut) < 3:
                    cut.append(data)
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()  # the other thread closes the other

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                down, _ = listening.accept()
                up = socket.socket(socket.AF_UNIX)
                up.connect(str(server.socket))
                for pair in ((down, up), (up, down)):
                    threading.Thread(target=forward, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0", cut
        listening.shutdown(socket.SHUT_RDWR)
