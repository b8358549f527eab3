"""The containers service on a real engine: what is declared comes about, once, whatever dies in between."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_services.containers.model import Record
from tests.command_line import Cli
from tests.deploy.docker_socket import DockerSocket, docker_socket
from tests.deploy.engine import Engine
from tests.processes import eventually, service_process
from tests.servers import Server

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600), pytest.mark.xdist_group("docker")]
IMAGE = "penstock-test/web:1"
WEB: dict[str, Any] = {
    "name": "web",
    "image": IMAGE,
    "command": ["httpd", "-f", "-p", "8080", "-h", "/www"],
    "ports": {"http": {"container": 8080}},
    "health": {"test": ["wget", "-q", "-O-", "http://127.0.0.1:8080/index.html"], "interval": 1, "start_period": 0},
    "stop_timeout": 1,
}
DEADLINE = 60.0


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The engine, with an image of 2 MB that serves a page: one static program under several names."""
    program = shutil.which("busybox")
    assert program, "busybox is missing: apt-get install busybox-static"
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(program, "bin/busybox")
        for name in ("sh", "httpd", "sleep", "wget", "cat"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        page = b"here I am"
        entry = tarfile.TarInfo("www/index.html")
        entry.size = len(page)
        tar.addfile(entry, io.BytesIO(page))
    for tag in (IMAGE, "penstock-test/web:2"):
        engine.docker("import", "--change=ENV PATH=/bin", str(archive), tag)
    return engine


class Mesh:
    """The containers service on a server, and what it tells."""

    def __init__(self, server: Server, engine: Engine, between: DockerSocket, folder: Path) -> None:
        self.server, self.engine, self.between, self.folder = server, engine, between, folder
        self.raw = server.client()
        self.log = folder / "log"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.topology = folder / "streams.yaml"
        self.topology.write_text("include: [penstock_services.containers]\n")

    @contextlib.contextmanager
    def serving(self, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run one process of the service."""
        given = {
            "REDIS_URL": self.server.url,
            "PENSTOCK_TOPOLOGY": str(self.topology),
            "PENSTOCK_CONTAINERS_ENGINE": self.between.url,
            "PENSTOCK_CONTAINERS_IMAGES": "penstock-test/",
            "PENSTOCK_CONTAINERS_PORTS": "21000-21999",
            **env,
        }
        with service_process("-m", "penstock_services.containers", env=given, log=self.log) as process:
            yield process

    def send(self, type_: str, data: dict[str, Any]) -> str:
        return str(self.raw.xadd("containers", {"type": type_, "data": msgspec.json.encode(data)}).decode())

    def facts(self, *types: str) -> list[dict[str, Any]]:
        """Return the data of what was told of container services and the engine."""
        found = []
        for _, fields in self.raw.xrange("events"):
            kind = fields[b"type"].decode()
            if kind in types or (not types and not kind.startswith("job.")):
                found.append(
                    {"type": kind, "trace": fields[b"traceparent"][3:35], **msgspec.json.decode(fields[b"data"])}
                )
        return found

    def told(self) -> list[str]:
        return [fact["type"] for fact in self.facts()]

    def record(self, name: str = "web") -> Record | None:
        raw = self.raw.hget("state:containers:services", name)
        return None if raw is None else msgspec.json.decode(raw, type=Record)

    def containers(self, *, running: bool = False) -> list[str]:
        chosen = [] if running else ["--all"]
        listed = self.engine.docker("ps", *chosen, "--filter", "label=penstock.mesh=penstock", "--format", "{{.Names}}")
        return sorted(listed.split())

    def until(self, check: Callable[[], object], what: str) -> None:
        try:
            eventually(check, deadline=DEADLINE, what=what, every=0.05)
        except AssertionError as error:
            error.add_note(f"told: {self.facts()}\nrecord: {self.record()}\n{self.log.read_text()[-3000:]}")
            raise

    def page(self) -> str:
        started = self.facts("service_started")[-1]
        with urllib.request.urlopen(f"http://{started['endpoints']['http'][0]}/index.html", timeout=5) as page:
            return str(page.read().decode())


@pytest.fixture
def mesh(own_server: Server, image: Engine, tmp_path: Path) -> Iterator[Mesh]:
    host = image.env.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    folder = Path("/tmp") / f"penstock-{os.getpid()}-{os.urandom(3).hex()}"  # a socket's path has 107 characters
    folder.mkdir()
    try:
        with docker_socket(folder, host) as between:
            yield Mesh(own_server, image, between, tmp_path)
    finally:
        shutil.rmtree(folder)
        left = image.docker("ps", "--all", "--quiet", "--filter", "label=penstock.mesh=penstock").split()
        if left:
            image.docker("rm", "--force", *left)


def test_a_service_is_applied_by_one_xadd_answers_and_is_stopped_started_and_deleted(mesh: Mesh) -> None:
    with mesh.serving() as process:
        command = mesh.send("service.apply", WEB)
        mesh.until(lambda: mesh.told() == ["service_created", "service_started"], "it is started")
        assert mesh.page() == "here I am"
        done = mesh.facts("job.completed")[0]
        assert done["job_id"] == f"containers-{command}"
        assert done["result"] == {"service": "web", "generation": 1, "changed": True}
        traces = {fact["trace"] for fact in mesh.facts()}
        assert len(traces) == 1
        shown = msgspec.json.decode(mesh.engine.docker("inspect", "penstock-web-g1-0"))[0]
        assert shown["HostConfig"]["CapDrop"] == ["ALL"]
        assert shown["HostConfig"]["PortBindings"]["8080/tcp"][0]["HostIp"] == "127.0.0.1"

        mesh.send("service.stop", {"name": "web"})
        mesh.until(lambda: mesh.told()[-1] == "service_stopped", "it is stopped")
        assert mesh.containers(running=True) == []
        mesh.send("service.start", {"name": "web"})
        mesh.until(lambda: mesh.told()[-1] == "service_started", "it is started again")
        assert mesh.page() == "here I am"
        mesh.send("service.delete", {"name": "web"})
        mesh.until(lambda: mesh.told()[-1] == "service_deleted", "it is deleted")
        assert mesh.containers() == []
        assert mesh.record() is None
        assert mesh.raw.hgetall("state:containers:ports") == {}
        assert mesh.told() == [f"service_{what}" for what in ("created", "started", "stopped", "started", "deleted")]
        process.terminate()
        assert process.wait(DEADLINE) == 0, mesh.log.read_text()


def test_the_command_line_declares_shows_plans_and_deletes(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    cli = Cli(mesh.server.url, tmp_path / "cli")
    cli.env |= {"PENSTOCK_TOPOLOGY": str(mesh.topology), "PENSTOCK_CONTAINERS_ENGINE": mesh.between.url}
    file = tmp_path / "web.json"
    file.write_bytes(msgspec.json.encode(WEB))
    assert "no container service" in cli("containers", "ls").stdout
    with mesh.serving():
        assert cli.json("containers", "apply", str(file)) == {"service": "web", "generation": 1, "changed": True}
        mesh.until(lambda: "service_started" in mesh.told(), "it is started")
        (row,) = cli.json("containers", "ls")
        assert (row["state"], row["generation"], row["replicas"]) == ("started", 1, 1)
        assert row["endpoints"] == mesh.facts("service_started")[0]["endpoints"]
        assert cli.json("containers", "show", "web")["declared"]["image"] == IMAGE
        refused = cli("containers", "apply", "-", stdin="{name: other, image: elsewhere}")
        assert (refused.returncode, "PENSTOCK_CONTAINERS_IMAGES" in refused.stderr) == (1, True)
        assert cli("containers", "show", "other").returncode == 1
        assert cli("containers", "stop", "web").stdout == "web: accepted (generation 1)\n"
        mesh.until(lambda: "service_stopped" in mesh.told(), "it is stopped")
    changes = [*mesh.between.changes]
    mesh.engine.docker("start", "penstock-web-g1-0")
    (planned,) = cli.json("containers", "plan", "web")
    assert planned["step"] == "stop penstock-web-g1-0"
    assert mesh.between.changes == changes
    mesh.between.hang_up()
    away = cli("containers", "plan")
    assert (away.returncode, "PENSTOCK_CONTAINERS_ENGINE" in away.stderr) == (2, True)


def test_what_the_policy_forbids_is_dead_with_the_rule_and_touches_nothing(mesh: Mesh) -> None:
    forbidden: list[tuple[dict[str, Any], str]] = [
        ({"image": "elsewhere/web:1"}, "PENSTOCK_CONTAINERS_IMAGES"),
        ({"image": "penstock-tests/web:1"}, "PENSTOCK_CONTAINERS_IMAGES"),
        ({"privileged": True}, "no container is privileged"),
        ({"network_mode": "host"}, "share no namespace of the host"),
        ({"volumes": {"data": "/data"}}, "PENSTOCK_CONTAINERS_VOLUMES"),
        ({"capabilities": ["SYS_ADMIN"]}, "PENSTOCK_CONTAINERS_CAPABILITIES"),
        ({"ports": {"http": {"container": 8080, "address": "0.0.0.0"}}}, "PENSTOCK_CONTAINERS_ADDRESSES"),
        ({"ports": {"http": {"container": 8080, "host": 9000}}, "replicas": 2}, "cannot have one port"),
        ({"memory": 1}, "memory"),
        ({"volumes": {"../outside": "/www"}}, "volumes"),
        ({"volumes": {"site/link": "/www"}}, "volumes"),
    ]
    with mesh.serving():
        for change, _ in forbidden:
            mesh.send("service.apply", {**WEB, **change})
        mesh.until(lambda: len(mesh.facts("job.dead")) == len(forbidden), "all are refused")
    for dead, (_, rule) in zip(mesh.facts("job.dead"), forbidden, strict=True):
        assert rule in dead["error"]
    assert mesh.between.changes == []


def test_a_folder_of_the_allowed_directory_is_a_volume(mesh: Mesh, tmp_path: Path) -> None:
    site = tmp_path / "volumes" / "site"
    site.mkdir(parents=True)
    (site / "index.html").write_text("from a volume")
    with mesh.serving(PENSTOCK_CONTAINERS_VOLUMES=str(tmp_path / "volumes")):
        mesh.send("service.apply", {**WEB, "volumes": {"site": "/www:ro"}})
        mesh.until(lambda: "service_started" in mesh.told(), "it is started")
        assert mesh.page() == "from a volume"


def test_the_same_declaration_again_changes_nothing_and_another_replaces_it(mesh: Mesh) -> None:
    with mesh.serving():
        mesh.send("service.apply", WEB)
        mesh.until(lambda: "service_started" in mesh.told(), "it is started")
        made = mesh.engine.docker("inspect", "--format", "{{.Id}}", "penstock-web-g1-0")
        mesh.send("service.apply", WEB)
        mesh.until(lambda: len(mesh.facts("job.completed")) == 2, "it is settled")
        assert mesh.facts("job.completed")[1]["result"]["changed"] is False
        assert mesh.engine.docker("inspect", "--format", "{{.Id}}", "penstock-web-g1-0") == made
        mesh.send("service.apply", {**WEB, "image": "penstock-test/web:2"})
        mesh.until(lambda: mesh.told().count("service_started") == 2, "it is replaced")
        assert mesh.containers() == ["penstock-web-g2-0"]
        assert mesh.facts("service_started")[-1]["image"] == "penstock-test/web:2"


def test_rolling_begins_the_new_tells_where_it_is_and_ends_the_old_after_it_has_drained(mesh: Mesh) -> None:
    web = {**WEB, "strategy": "rolling", "drain": 1, "replicas": 2}
    old = ["penstock-web-g1-0", "penstock-web-g1-1"]
    seen: list[list[str]] = []
    with mesh.serving():
        mesh.send("service.apply", web)
        mesh.until(lambda: "service_started" in mesh.told(), "it is started")

        def note(change: str) -> None:
            if change.endswith("/stop"):
                seen.append([*mesh.told()])

        mesh.between.after = note
        mesh.send("service.apply", {**web, "image": "penstock-test/web:2"})
        mesh.until(lambda: mesh.containers() == ["penstock-web-g2-0", "penstock-web-g2-1"], "only the new are there")
        owners = {b"web/2/0/http", b"web/2/1/http"}
        mesh.until(lambda: set(mesh.raw.hvals("state:containers:ports")) == owners, "the ports of the old are free")
        assert mesh.page() == "here I am"
    assert len(seen) == len(old), "\n".join(map(str, mesh.facts()))
    assert all(told.count("service_started") == 2 for told in seen)


def test_killed_after_every_step_each_thing_is_done_and_told_once(mesh: Mesh) -> None:
    """SIGKILL falls when the engine has done what was asked, and before the record can know."""
    web = {**WEB, "strategy": "rolling", "drain": 0}
    commands: list[tuple[str, dict[str, Any], str]] = [
        ("service.apply", web, "service_started"),
        ("service.apply", {**web, "image": "penstock-test/web:2"}, "service_started"),
        ("service.stop", {"name": "web"}, "service_stopped"),
        ("service.delete", {"name": "web"}, "service_deleted"),
    ]
    ends: list[str] = []
    for command, data, end in commands:
        mesh.send(command, data)
        ends.append(end)
        while _killed_by_a_change(mesh, ends):
            pass
    assert [change.split("/")[-1] for change in mesh.between.changes if change.startswith("POST")] == [
        *("create", "start") * 2,
        *("stop",) * 2,
    ]
    assert sum(change.startswith("DELETE") for change in mesh.between.changes) == 2
    assert mesh.told() == ["service_created", "service_started"] * 2 + ["service_stopped", "service_deleted"]
    assert mesh.containers() == []


def _killed_by_a_change(mesh: Mesh, ends: list[str]) -> bool:
    """Run the service until it has changed a container, which kills it, or all of `ends` has come about."""
    killed = threading.Event()
    with mesh.serving() as process:

        def kill(_: str) -> None:
            process.send_signal(signal.SIGKILL)
            killed.set()

        mesh.between.after = kill
        mesh.until(lambda: killed.is_set() or _settled(mesh, ends), f"it has come to {ends[-1]}")
    mesh.between.after = lambda _: None
    return killed.is_set()


def _settled(mesh: Mesh, ends: list[str]) -> bool:
    told = [one for one in mesh.told() if one != "service_created"]
    record = mesh.record()
    if told != ends:
        return False
    return record is None or [f"penstock-web-g{record.generation}-0"] == mesh.containers()


def test_a_process_that_was_frozen_in_a_step_finds_it_done_by_another(mesh: Mesh) -> None:
    with mesh.serving() as frozen:

        def freeze(change: str) -> None:
            if change.endswith("/create"):
                frozen.send_signal(signal.SIGSTOP)

        mesh.between.after = freeze
        mesh.send("service.apply", WEB)
        mesh.until(lambda: "POST /containers/create" in mesh.between.changes, "a container is made")
        mesh.between.after = lambda _: None
        with mesh.serving():
            mesh.until(lambda: "service_started" in mesh.told(), "the other has started it")
            frozen.send_signal(signal.SIGCONT)
            mesh.send("service.apply", WEB)
            mesh.until(lambda: len(mesh.facts("job.completed")) == 2, "both go on")
    assert mesh.told() == ["service_created", "service_started"]
    assert mesh.containers() == ["penstock-web-g1-0"]


def test_an_engine_that_is_away_is_told_once_and_nobody_is_said_to_be_dead(mesh: Mesh) -> None:
    with mesh.serving():
        mesh.send("service.apply", WEB)
        mesh.until(lambda: "service_started" in mesh.told(), "it is started")
        mesh.between.hang_up()
        mesh.send("service.apply", WEB)  # somebody looks
        mesh.until(lambda: "engine.lost" in mesh.told(), "it is told")
        assert mesh.page() == "here I am"
        mesh.between.answer()
        mesh.until(lambda: "engine.back" in mesh.told(), "it is back")
    assert mesh.told() == ["service_created", "service_started", "engine.lost", "engine.back"]


def test_what_somebody_removes_or_pauses_is_put_right_and_told(mesh: Mesh) -> None:
    with mesh.serving():
        mesh.send("service.apply", WEB)
        mesh.until(lambda: "service_started" in mesh.told(), "it is started")
        mesh.engine.docker("rm", "--force", "penstock-web-g1-0")
        mesh.until(lambda: mesh.told().count("service_started") == 2, "it is there again")
        assert mesh.page() == "here I am"
        mesh.engine.docker("pause", "penstock-web-g1-0")
        mesh.until(lambda: "POST /containers/create" in mesh.between.changes and _unpaused(mesh), "it goes on")
    reasons = {fact["phase"] for fact in mesh.facts("service_failed")}
    assert "drift" in reasons or "run" in reasons  # killed, then removed: which of the two is seen first is chance


def _unpaused(mesh: Mesh) -> bool:
    return any(change.endswith("/unpause") for change in mesh.between.changes)


def test_a_crash_is_told_with_its_last_words_and_a_loop_once(mesh: Mesh) -> None:
    crashing = {"name": "web", "image": IMAGE, "command": ["sh", "-c", "echo no more coal; exit 3"]}
    with mesh.serving():
        mesh.send("service.apply", crashing)
        mesh.until(lambda: _failures_without_waiting(mesh) > 5, "it is tried again after the fifth")
    failures = mesh.facts("service_failed")
    assert [fact["attempt"] for fact in failures] == [1, 2, 3, 4, 5]
    assert {(fact["phase"], fact["exit_code"], fact["log"].splitlines()[-1]) for fact in failures} == {
        ("run", 3, "no more coal")
    }


def _failures_without_waiting(mesh: Mesh) -> int:
    """Return how often it has failed; what waits for its next start gets that now."""
    record = mesh.record()
    if not (record and record.instances):
        return 0
    instance = record.instances[0]
    if instance.retry_at > time.time() + 1:
        instance.retry_at = 0.0
        mesh.raw.hset("state:containers:services", "web", msgspec.json.encode(record))
        mesh.raw.xadd("reconcile", {"type": "containers.reconcile", "data": '{"service":"web"}'})
    return instance.failures


def test_out_of_memory_is_told_as_that(mesh: Mesh) -> None:
    eater = {"name": "web", "image": IMAGE, "command": ["sh", "-c", "x=a; while :; do x=$x$x; done"]}
    with mesh.serving():
        mesh.send("service.apply", {**eater, "limits": {"memory": 12_582_912}})
        mesh.until(lambda: mesh.facts("service_failed"), "it fails")
    failed = mesh.facts("service_failed")[0]
    assert failed["out_of_memory"]
    assert "limits.memory" in failed["error"]


def test_a_port_that_something_else_has_is_left_for_another(mesh: Mesh) -> None:
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        stolen = thief.getsockname()[1]
        with mesh.serving(PENSTOCK_CONTAINERS_PORTS=f"{stolen}-{stolen}"):
            mesh.send("service.apply", WEB)
            mesh.until(lambda: mesh.facts("service_failed"), "it fails")
        assert mesh.facts("service_failed")[0]["phase"] == "start"
        with mesh.serving(PENSTOCK_CONTAINERS_PORTS="21000-21010"):
            mesh.until(lambda: "service_started" in mesh.told(), "it has another")
            assert mesh.page() == "here I am"


def test_an_image_that_is_not_there_is_told_and_tried_again(mesh: Mesh) -> None:
    with mesh.serving():
        mesh.send("service.apply", {**WEB, "image": "penstock-test/nothing:1"})
        mesh.until(lambda: len(mesh.facts("service_failed")) == 2, "it is tried again")
        assert {fact["phase"] for fact in mesh.facts("service_failed")} == {"pull"}
        mesh.engine.docker("tag", IMAGE, "penstock-test/nothing:1")
        mesh.until(lambda: "service_started" in mesh.told(), "it is there now")


def test_twenty_services_at_once_with_two_processes_each_get_their_own_port(mesh: Mesh) -> None:
    names = {f"web-{number}" for number in range(20)}
    with mesh.serving(), mesh.serving():
        for name in sorted(names):
            mesh.send("service.apply", {**WEB, "name": name})
        mesh.until(lambda: {fact["service"] for fact in mesh.facts("service_started")} == names, "all are started")
    endpoints = [fact["endpoints"]["http"][0] for fact in mesh.facts("service_started")]
    assert len(endpoints) == len(set(endpoints)) == len(names)
    assert mesh.told().count("service_created") == len(names)
