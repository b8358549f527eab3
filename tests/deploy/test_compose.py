"""compose.yaml for real: the image is built, the stack comes up, and survives what operators and machines do to it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, TypeAlias

import pytest
from standardwebhooks import Webhook

from penstock.processes import dies_with_parent
from penstock.settings import Settings
from tests.deploy.stack import PATIENCE, SECRET, Stack, declared
from tests.processes import ROOT, eventually

Say: TypeAlias = Callable[[str], None]
pytestmark = [pytest.mark.docker, pytest.mark.timeout(600), pytest.mark.xdist_group("docker")]

_PORT = 9
_HOST = """
import socket, subprocess
print("a network of its own", flush=True)
input()
subprocess.run("ip address add {address}/30 dev in && ip link set in up", shell=True, check=True)
with socket.create_server(("{address}", {port})) as server:
    print("listening", flush=True)
    while True:
        server.accept()[0].close()
"""
TICKET = '{"ticket_id":"T-1","description":"printer on fire","priority":"high","tenant_id":"acme",' + (
    '"timestamp":"2026-11-22T10:00:00Z"}'
)


class Load:
    """Sends jobs to the gateway, some at a time, for as long as it is told to; notes those that were accepted."""

    def __init__(self, stack: Stack, *, seconds: float = 0.05) -> None:
        self.accepted: list[str] = []
        self._stack = stack
        self._event = {"type": "stack.work", "data": {"seconds": seconds}}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self.grows()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def grows(self) -> None:
        """Wait until more has been accepted."""
        before = len(self.accepted)
        eventually(lambda: len(self.accepted) >= before + 100, deadline=PATIENCE, what="the gateway accepts jobs")

    def _run(self) -> None:
        while not self._stop.is_set():
            key = str(uuid.uuid4())
            while not self._send(key) and not self._stop.is_set():
                time.sleep(0.05)  # as a client would that was refused

    def _send(self, key: str) -> bool:
        try:
            status, answer = self._stack.post("/v1/events", [self._event] * 20, **{"Idempotency-Key": key})
        except OSError:
            return False
        if status == 202:
            self.accepted += [job["job_id"] for job in answer["jobs"]]
        return status == 202


def test_the_image_is_slim_runs_as_nobody_and_holds_no_build_tools(stack: Stack, say: Say) -> None:
    inspect = ("image", "inspect", "--format", "{{.Size}} {{.Config.User}} {{.Config.Entrypoint}}", stack.image)
    size, user, entrypoint = stack.engine.docker(*inspect).strip().split(" ", 2)
    say(f"image: {int(size) / 1e6:.0f} MB")
    assert int(size) < 300e6
    assert user == "10001:10001"
    assert entrypoint.startswith("[tini")
    tools = "for tool in gcc cc make uv pip pip3; do command -v $tool && exit 1; done; python -c 'import pip' && exit 1"
    stack.engine.docker("run", "--rm", "--entrypoint", "sh", stack.image, "-c", f"{tools}; exit 0")


def test_dependencies_have_a_layer_of_their_own(stack: Stack) -> None:
    lines = stack.engine.docker("history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", stack.image)
    copied = [int(line.split(" ")[0]) for line in lines.splitlines() if "COPY" in line]
    ours, dependencies = sorted(copied)[-2:]
    assert ours < 8e6
    assert dependencies > 20e6


def test_every_service_comes_up_healthy(stack: Stack, say: Say) -> None:
    say(f"from `up` to healthy: {stack.up_seconds:.1f} s")
    running = Counter(service for service, _ in stack.containers().values())
    assert running == Counter({*declared(), "redis"}) + Counter(["worker"])


def test_nothing_in_the_containers_can_be_written_or_gain_rights(stack: Stack) -> None:
    for container, (service, _) in stack.containers().items():
        stack.engine.docker("exec", container, "sh", "-c", "! touch /here 2>&1 && [ $(id -u) != 0 ]")
        status = stack.engine.docker("exec", container, "cat", "/proc/self/status")
        assert "NoNewPrivs:\t1" in status, service
        assert "CapBnd:\t0000000000000000" in status, service


def test_only_the_gateway_is_published_and_only_to_this_machine(stack: Stack) -> None:
    label = f"label=com.docker.compose.project={stack.project}"
    ports = stack.engine.docker("ps", "--filter", label, "--format", "{{.Ports}}").splitlines()
    assert [line for line in ports if "->" in line] == [f"127.0.0.1:{stack.port}->8080/tcp"]


@pytest.mark.parametrize("service", ["gateway", "worker", "metrics", "alerts", "notifier"])
def test_a_service_reaches_redis_and_the_world_only_where_that_is_its_work(
    stack: Stack, outside: tuple[str, int], service: str
) -> None:
    assert _reaches(stack, service, "redis", 6379)
    assert _reaches(stack, service, *outside) == (service in {"gateway", "worker", "notifier"})


def test_redis_reaches_nobody_outside(stack: Stack, outside: tuple[str, int]) -> None:
    script = "timeout 3 bash -c '</dev/tcp/{}/{}' 2>/dev/null; echo $?".format(*outside)
    assert stack.compose("exec", "-T", "redis", "sh", "-c", script).strip() != "0"


@pytest.mark.parametrize(
    ("network", "reached"),
    [
        ("state", {"redis", "gateway", "worker", "metrics", "alerts", "notifier"}),
        ("telemetry", {"gateway", "worker", "metrics", "alerts", "notifier"}),
        ("world", {"gateway", "worker", "notifier"}),
        ("of-somebody-else", set()),
    ],
)
def test_who_stands_in_a_network_reaches_who_is_in_it_and_nobody_else(
    stack: Stack, network: str, reached: set[str]
) -> None:
    """By address, too: a name that is not told keeps nobody away."""
    code = f"""
import socket
for service, address, port in {_addresses(stack)}:
    try:
        socket.create_connection((address, port), 1).close()
    except OSError:
        continue
    print(service)
"""
    with contextlib.ExitStack() as ending:
        name = f"{stack.project}_{network}"
        if network == "of-somebody-else":
            stack.engine.docker("network", "create", name)
            ending.callback(stack.engine.docker, "network", "rm", name)
        options = ("--rm", "--network", name, "--entrypoint", "python")
        assert set(stack.engine.docker("run", *options, stack.image, "-c", code).split()) == reached


def test_a_service_is_let_in_nowhere_but_at_the_gateway(stack: Stack) -> None:
    doors = {"worker": "/metrics", "metrics": "/v1/metrics", "alerts": "/v1/alerts", "notifier": "/v1/deliveries"}
    asked = {f"http://{name}:{getattr(Settings(), f'{name}_port')}{path}": 401 for name, path in doors.items()}
    code = f"""
import json, urllib.error, urllib.request
def status(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status
    except urllib.error.HTTPError as refused:
        return refused.code
print(json.dumps({{url: status(url) for url in {[*asked, "http://gateway:8080/v1/traces"]}}}))
"""
    for service in ("gateway", *doors):
        answers = json.loads(stack.compose("exec", "-T", service, "python", "-c", code))
        assert answers == asked | {"http://gateway:8080/v1/traces": 200}, service


def _addresses(stack: Stack) -> list[tuple[str, str, int]]:
    """Return every address of every container, with its service and the port that it serves."""
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return [
        (service, address, 6379 if service == "redis" else getattr(Settings(), f"{service}_port"))
        for container, (service, _) in stack.containers().items()
        for address in stack.engine.docker("inspect", "--format", form, container).split()
    ]


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[str, int]]:
    """Listen on another host, which this one leads to: the engine's rules are about what it forwards.

    The host is a process: if this run is killed that is too, and takes its network and what leads there with it.
    """
    if os.geteuid():
        pytest.skip("only root can make another host")
    # Of the block that is for tests of networks (RFC 2544); other runs on this machine have addresses of their own.
    link = f"penstock{os.getpid()}"
    ours, theirs = ipaddress.IPv4Network((ipaddress.IPv4Address("198.18.0.0") + os.getpid() % 2**15 * 4, 30)).hosts()
    host = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", _HOST.format(address=theirs, port=_PORT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=dies_with_parent(signal.SIGKILL),  # noqa: PLW1509 - no threads; holds if this run is killed
    )
    with host:
        try:
            assert host.stdout is not None
            assert host.stdin is not None
            assert host.stdout.readline() == b"a network of its own\n"
            _ip("link", "add", link, "type", "veth", "peer", "name", "in", "netns", str(host.pid))
            _ip("address", "add", f"{ours}/30", "dev", link)
            _ip("link", "set", link, "up")
            host.stdin.write(b"there is a link\n")
            host.stdin.flush()
            assert host.stdout.readline() == b"listening\n"
            eventually(lambda: _answers(str(theirs), _PORT), what="the host outside is up")
            yield str(theirs), _PORT
        finally:
            host.kill()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


def _reaches(stack: Stack, service: str, host: str, port: int) -> bool:
    code = f"""
import socket
try:
    socket.create_connection(({host!r}, {port}), 3)
except OSError:
    print("no")
else:
    print("yes")
"""
    return stack.compose("exec", "-T", service, "python", "-c", code).strip() == "yes"


def test_an_event_by_http_and_one_by_redis_cli_are_both_done(stack: Stack) -> None:
    status, answer = stack.post("/v1/events", f'{{"type":"ticket.created","data":{TICKET}}}'.encode())
    assert status == 202
    added = stack.redis_cli("XADD", "ingest", "*", "type", "ticket.created", "data", TICKET).strip()
    jobs = [answer["job_id"], f"ingest-{added}"]
    eventually(lambda: stack.completions(jobs) == {1: 2}, deadline=PATIENCE)
    words = stack.redis_cli("XINFO", "GROUPS", "ingest").split()
    group = dict(zip(words[::2], words[1::2], strict=True))
    assert group["name"] == "worker"
    assert (group["pending"], group["lag"]) == ("0", "0")
    assert "ingest" in stack.compose("exec", "-T", "worker", "penstock", "status")


def test_the_page_of_traces_is_there_for_this_machine(stack: Stack) -> None:
    _, answer = stack.post("/v1/events", f'{{"type":"ticket.created","data":{TICKET}}}'.encode())
    eventually(lambda: stack.completions([answer["job_id"]]) == {1: 1}, deadline=PATIENCE)
    status, page = stack.get("/traces")
    assert status == 200
    assert page.lower().startswith("<!doctype html")
    assert json.loads(stack.get(f"/v1/traces/{answer['trace_id']}")[1])["state"] == "completed"


def test_the_secret_of_a_webhook_comes_from_a_file(stack: Stack) -> None:
    body = f'{{"type":"ticket.created","data":{TICKET}}}'
    now, sender = datetime.now(UTC), Webhook(SECRET)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": sender.sign("msg_1", now, body),
    }
    assert stack.post("/webhooks/demo", body.encode(), **headers)[0] == 202
    forged = headers | {"webhook-signature": Webhook("whsec_" + "A" * 32).sign("msg_1", now, body)}
    assert stack.post("/webhooks/demo", body.encode(), **forged)[0] == 401


def _all_workers(stack: Stack) -> None:
    stack.compose("kill", "worker")
    stack.up("--scale", "worker=2")


def _one_process(stack: Stack) -> None:
    """Kill what runs in one container: the restart policy brings it back."""
    container = next(iter(stack.containers("worker")))
    started = ("inspect", "--format", "{{.RestartCount}}", container)
    before = stack.engine.docker(*started)
    stack.engine.docker("exec", container, "sh", "-c", "kill -9 -1")  # all but the caller and process 1
    eventually(lambda: stack.engine.docker(*started) != before, deadline=PATIENCE, what="restarted")


@pytest.mark.parametrize("kill", [_all_workers, _one_process])
def test_killing_workers_under_load_loses_nothing(stack: Stack, kill: Callable[[Stack], None]) -> None:
    with Load(stack) as load:
        kill(stack)
        load.grows()
    eventually(lambda: stack.completions(load.accepted) == {1: len(load.accepted)}, deadline=PATIENCE)


def test_more_workers_share_the_work(stack: Stack) -> None:
    stack.up("--scale", "worker=3")
    with Load(stack, seconds=0.2) as load:
        load.grows()
    eventually(lambda: stack.completions(load.accepted) == {1: len(load.accepted)}, deadline=PATIENCE)
    results = stack.results()
    hosts = {results[job][0] for job in load.accepted}
    assert hosts == set(stack.containers("worker"))


def test_restarting_redis_costs_seconds_and_no_job(stack: Stack, say: Say) -> None:
    with Load(stack) as load:
        stack.compose("restart", "redis")
        began = time.monotonic()
        load.grows()
        say(f"accepting again {time.monotonic() - began:.1f} s after `restart redis` has returned")
    eventually(lambda: stack.completions(load.accepted) == {1: len(load.accepted)}, deadline=PATIENCE)
    stack.wait_until_healthy()


def test_down_and_up_keep_everything(stack: Stack) -> None:
    _, answer = stack.post("/v1/events", {"type": "stack.work", "data": {"seconds": 0}})
    eventually(lambda: stack.completions([answer["job_id"]]) == {1: 1}, deadline=PATIENCE)
    before = stack.results()
    stack.compose("down")
    assert not stack.containers()
    stack.up()
    assert stack.results() == before


def test_a_backup_as_documented_restores_everything_into_an_empty_volume(stack: Stack, tmp_path: Path) -> None:
    before = stack.results()
    page = (ROOT / "docs" / "operations.md").read_text().partition("test_compose.py runs these two blocks")[2]
    take, restore = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[:2]
    stack.shell(take, tmp_path)
    assert (tmp_path / "penstock.rdb").read_bytes().startswith((b"REDIS", b"VALKEY"))
    stack.shell(restore, tmp_path)
    stack.wait_until_healthy()
    assert stack.results() == before


def test_the_readme_s_commands_run(stack: Stack, tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(docker compose up .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    build, groups, scaled, observed = block.splitlines()
    stack.shell("\n".join((build, groups.replace("exec", "exec -T"), scaled)), tmp_path)
    stack.wait_until_healthy()
    assert len(stack.containers("worker")) == 3
    profile = observed.partition(" docker compose ")[2].partition(" up ")[0]
    services = stack.compose(*profile.split(), "config", "--services").split()
    assert {"jaeger", "prometheus", "grafana"} <= {*services}  # their images are too large to fetch for this
