"""`penstock up`: the whole mesh, from the first start to the last Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.redis.server import is_listening
from tests.e2e.mesh import START, TOPOLOGY, Mesh, stop
from tests.processes import eventually, is_running
from tests.servers import required_kinds, running_server


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture(params=required_kinds())
def mesh_on_each_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Mesh:
    """A mesh whose own server is the Redis on PATH, and one that has to take the embedded Valkey."""
    mesh = Mesh(tmp_path)
    mesh.server = "Redis 7" if request.param == "redis-7" else "Valkey 9"
    if request.param == "valkey-9":
        mesh.env["PATH"] = str(tmp_path)
    return mesh


def test_from_start_to_stop_and_on_again(mesh_on_each_kind: Mesh) -> None:
    mesh = mesh_on_each_kind
    with mesh.up() as process:
        mesh.is_ready()
        mesh.says("Penstock is ready")
        assert set(mesh.pids()) == {"redis", "worker", "shop"}
        by_xadd = mesh.add_ticket()
        mesh.completes(by_xadd)
        ticket = json.loads(mesh.redis.xrange("ingest")[0][1]["data"])
        status, answer = mesh.request("POST", "/v1/events", {"type": "ticket.created", "data": ticket})
        assert status == 202
        mesh.completes(json.loads(answer)["job_id"])
        mesh.says(f"shop     | saw {by_xadd}")
        (group,) = json.loads(mesh.cli("status", "--json").stdout)["groups"][:1]
        assert (group["group"], group["lag"], group["pending"], group["consumers"]) == ("worker", 0, 0, 1)
        assert stop(process) == 0
    assert not is_listening("127.0.0.1", mesh.redis_port)
    assert not is_listening("127.0.0.1", mesh.gateway_port)
    assert f"http://127.0.0.1:{mesh.gateway_port}" in mesh.output
    assert f"redis://127.0.0.1:{mesh.redis_port}/0  {mesh.server}" in mesh.output

    with mesh.up() as process:
        mesh.is_ready()
        assert json.loads(mesh.cli("job", by_xadd, "--json").stdout)["state"] == "completed"
        mesh.are_reading()
        mesh.completes(mesh.add_ticket())
        assert len(mesh.events(by_xadd)) == 2, "what was done is not done again"
        assert stop(process, signal.SIGTERM) == 0
    assert "Traceback" not in mesh.output


def test_a_killed_service_is_started_again(mesh: Mesh) -> None:
    with mesh.up() as process:
        mesh.are_reading()
        killed = mesh.pids()["worker"]
        os.kill(killed, signal.SIGKILL)
        mesh.says("killed by SIGKILL")
        mesh.completes(mesh.add_ticket())
        assert mesh.pids()["worker"] != killed
        assert stop(process) == 0


def test_a_killed_redis_is_started_again_with_its_data(mesh: Mesh) -> None:
    with mesh.up() as process:
        mesh.are_reading()
        before = mesh.add_ticket()
        mesh.completes(before)
        os.kill(mesh.pids()["redis"], signal.SIGKILL)
        mesh.says("Redis ended, starting it again")
        mesh.are_reading()
        assert mesh.events(before)
        mesh.completes(mesh.add_ticket())
        assert stop(process) == 0
    assert "Traceback" not in mesh.output


def test_nothing_outlives_a_killed_supervisor_and_the_next_start_finds_all_in_order(mesh: Mesh) -> None:
    with mesh.up() as process:
        mesh.are_reading()
        pids = mesh.pids()
        process.kill()
    try:
        eventually(lambda: not any(map(is_running, pids.values())), what=f"all of {pids} are gone")
    finally:
        for pid in filter(is_running, pids.values()):
            os.kill(pid, signal.SIGKILL)
    with mesh.up() as process:
        mesh.are_reading()
        mesh.completes(mesh.add_ticket())
        assert stop(process) == 0


def test_what_keeps_dying_is_retried_more_and_more_slowly_while_the_rest_works(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, TOPOLOGY + "  broken: {run: 'tests.e2e.shop:broken'}\n")
    with mesh.up() as process:
        mesh.says("after='2 s' how='exit code 7'")
        assert "after='1 s' how='exit code 7'" in mesh.output
        mesh.are_reading()
        mesh.completes(mesh.add_ticket())
        assert stop(process) == 0


def test_a_second_ctrl_c_does_not_wait_for_the_stubborn(tmp_path: Path) -> None:
    mesh = Mesh(
        tmp_path, TOPOLOGY + "  stubborn: {run: 'tests.e2e.shop:stubborn'}\n", PENSTOCK_DRAIN_TIMEOUT=str(10 * START)
    )
    with mesh.up() as process:
        mesh.says("| stubborn")
        os.killpg(process.pid, signal.SIGINT)
        mesh.says("stopping: ")
        assert stop(process) == 0
    mesh.says("did not stop in time and was killed")


def test_a_terminal_that_is_closed_stops_the_mesh_in_order(mesh: Mesh) -> None:
    ours, its_own = pty.openpty()
    with mesh.up(terminal=its_own) as process:
        os.close(its_own)
        mesh.are_reading()
        worker = mesh.pids()["worker"]
        os.close(ours)
        os.killpg(process.pid, signal.SIGHUP)
        assert process.wait(START) == 0
    assert not is_running(worker)


def test_a_mistake_that_only_the_service_can_see_stops_everything(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, TOPOLOGY.replace("shop:service", "shop:undeclared"))
    with mesh.up() as process:
        assert process.wait(START) == 2
    last = mesh.output.splitlines()[-1]
    assert last.startswith("penstock: shop cannot start: streams.yaml: services.undeclared is missing")
    assert not is_listening("127.0.0.1", mesh.redis_port)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("consumes: {ingest: {}}", "consumes: {ingset: {}}", "services.worker.consumes: there is no stream ingset"),
        (
            "run: penstock_services.worker",
            "run: services.wroker",
            "services.worker.run: there is no module services.wroker",
        ),
        ("publishes: [events]", "publish: [events]", "services.worker"),
    ],
)
def test_a_mistake_in_streams_yaml_is_named_before_anything_starts(
    tmp_path: Path, before: str, after: str, said: str
) -> None:
    mesh = Mesh(tmp_path, TOPOLOGY.replace(before, after))
    with mesh.up() as process:
        assert process.wait(START) == 2
    assert re.fullmatch(rf"penstock: streams.yaml: .*{re.escape(said)}.*\n", mesh.output)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("variable", ["PENSTOCK_REDIS_PORT", "PENSTOCK_GATEWAY_PORT"])
def test_a_taken_port_is_named_with_the_variable_that_moves_ours(mesh: Mesh, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        mesh.env[variable] = str(port)
        with mesh.up() as process:
            assert process.wait(START) == 2
    who = f"another program ({Path(sys.executable).name}, process {os.getpid()})"
    assert mesh.output.startswith(f"penstock: port {port} on 127.0.0.1 is taken by {who}")
    assert variable in mesh.output


@pytest.mark.parametrize("same", ["folder", "gateway port", "redis port"])
def test_a_second_one_is_told_of_the_first_with_its_process(mesh: Mesh, tmp_path: Path, same: str) -> None:
    (tmp_path / "second").mkdir()
    second = Mesh(tmp_path / "second")
    names = {
        "folder": ("PENSTOCK_DATA_DIR",),
        "gateway port": ("PENSTOCK_GATEWAY_PORT",),
        "redis port": ("PENSTOCK_REDIS_PORT",),
    }[same]
    second.env |= {name: mesh.env[name] for name in names}
    with mesh.up() as first:
        mesh.are_reading()
        mesh.is_ready()
        with second.up() as process:
            assert process.wait(START) == 2
        assert stop(first) == 0
    assert f"another `penstock up` (process {first.pid})" in second.output
    assert all(name in second.output for name in names)


def test_it_is_ready_when_all_services_are_and_says_who_is_not(tmp_path: Path) -> None:
    mesh = Mesh(
        tmp_path, TOPOLOGY.replace("tests.e2e.shop:", "tests.e2e.late_shop:"), SHOP_OPENS=str(tmp_path / "open")
    )
    with mesh.up() as process:
        mesh.says("Penstock runs, and waits for shop\n")
        assert "Penstock is ready" not in mesh.output
        (tmp_path / "open").touch()
        mesh.says("Penstock is ready now")
        assert set(mesh.pids()) == {"redis", "worker", "shop"}
        assert stop(process) == 0


def test_with_redis_url_no_server_is_started(mesh: Mesh) -> None:
    with running_server(required_kinds()[0], port=mesh.redis_port) as server:
        with mesh.up(REDIS_URL=server.tcp_url) as process:
            mesh.are_reading()
            mesh.completes(mesh.add_ticket())
            assert stop(process) == 0
        with server.client() as client:
            assert client.ping()
    assert not (mesh.folder / "data").exists()


@pytest.fixture
def too_old() -> Iterator[int]:
    """The port of something that answers like Redis 6.2; it knows no other command."""

    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as commands:
            for line in commands:
                word = line.strip().upper()
                if word == b"PING":
                    connection.sendall(b"+PONG\r\n")
                elif word == b"INFO":
                    info = b"# Server\r\nredis_version:6.2.14\r\n"
                    connection.sendall(b"$%d\r\n%s\r\n" % (len(info), info))
                elif word == b"CLIENT":
                    connection.sendall(b"+OK\r\n")

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_redis_that_is_too_old_is_refused(mesh: Mesh, too_old: int) -> None:
    with mesh.up(REDIS_URL=f"redis://127.0.0.1:{too_old}/0") as process:
        assert process.wait(START) == 2
    assert mesh.output.startswith("penstock: this server is Redis 6.2.14; Penstock needs Redis 7.0")


def test_a_redis_that_evicts_is_refused_with_what_to_set(mesh: Mesh) -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    server = running_server(required_kinds()[0], *options, port=mesh.redis_port)
    with server as evicting, mesh.up(REDIS_URL=evicting.tcp_url) as process:
        assert process.wait(START) == 2
    assert "maxmemory-policy noeviction" in mesh.output


def test_a_redis_that_is_away_is_waited_for_and_then_given_up(mesh: Mesh) -> None:
    with mesh.up(REDIS_URL=f"redis://127.0.0.1:{mesh.redis_port}/0") as process:
        mesh.says("waiting for Redis")
        assert process.wait(START) == 3
    assert "penstock: Redis is unavailable: cannot connect" in mesh.output


def test_in_json_every_line_is_json_and_unknown_settings_are_warned_of(mesh: Mesh) -> None:
    with mesh.up(PENSTOCK_LOG_FORMAT="json", PENSTOCK_REDSI_PORT="1") as process:
        mesh.says('"event":"ready"')
        mesh.are_reading()
        assert stop(process) == 0
    lines = [json.loads(line) for line in mesh.output.splitlines()]
    assert {"gateway", "worker", "shop"} <= {line.get("service") for line in lines}
    warnings = [line["event"] for line in lines if line["level"] == "warning"]
    assert any("did you mean PENSTOCK_REDIS_PORT?" in warning for warning in warnings)
