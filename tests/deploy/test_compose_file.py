"""compose.yaml as it is written, and the probe that its health checks call; no engine is needed here."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from penstock.config import Duration
from penstock.settings import Settings, unknown_variables
from penstock.topology import load
from tests.deploy.stack import compose_commands, compose_file, declared
from tests.processes import ROOT

WRITTEN = compose_file()
SERVICES = WRITTEN["services"]
TOPOLOGY = load(ROOT / "streams.yaml")
SETTLING = 15  # seconds beyond the drain timeout that a service may take to settle and hand back
PROBE = ROOT / "deploy" / "probe"


@pytest.mark.parametrize("command", compose_commands() or [[]], ids=lambda command: " ".join(command) or "none")
def test_every_compose_that_is_here_accepts_it(command: list[str]) -> None:
    if not command:
        pytest.skip("there is no Compose here")
    done = subprocess.run(
        [*command, "--profile", "obs", "config"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # nor does it warn


def test_it_runs_redis_and_every_service_of_the_topology_and_the_rest_on_request() -> None:
    assert "version" not in WRITTEN
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {*declared(), "redis"}
    for name, service in TOPOLOGY.services.items():
        assert SERVICES[name]["command"] == ["python", "-m", service.run]


def test_nothing_is_published_beyond_this_machine_and_by_default_only_the_gateway() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert {name for name in published if "profiles" not in SERVICES[name]} == {"gateway"}


@pytest.mark.parametrize("name", [*TOPOLOGY.services, "redis"])
def test_every_container_is_confined_probed_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert {"mem_limit", "cpus", "pids_limit", "healthcheck", "stop_grace_period"} <= service.keys()


OBSERVERS = {name for name, service in SERVICES.items() if "profiles" in service}


def test_redis_is_reached_by_the_services_only_and_by_no_way_from_outside() -> None:
    inside = {name for name, network in WRITTEN["networks"].items() if network == {"internal": True}}
    assert inside == {"state", "telemetry", "charts"}
    assert SERVICES["redis"]["networks"] == ["state"]
    assert {name for name, service in SERVICES.items() if "state" in service["networks"]} == {*declared(), "redis"}
    assert {name for name, service in SERVICES.items() if "world" in service["networks"]} == {
        "gateway",
        "worker",
        "notifier",
    }
    # A port is published by way of a network that is not internal: who publishes none needs no way out.
    led_out = {name for name, service in SERVICES.items() if not set(service["networks"]) <= inside}
    assert led_out == {"gateway", "worker", "notifier"} | {name for name in OBSERVERS if "ports" in SERVICES[name]}


def test_each_pair_that_must_talk_shares_a_network_and_none_shares_one_for_nothing() -> None:
    shared = {
        frozenset((one, other))
        for one in SERVICES
        for other in SERVICES
        if one < other and set(SERVICES[one]["networks"]) & set(SERVICES[other]["networks"])
    }
    pairs = {frozenset((name, "redis")) for name in declared()}
    pairs |= {frozenset((name, observer)) for name in declared() for observer in ("prometheus", "jaeger")}
    pairs |= {frozenset(("grafana", "prometheus")), frozenset(("grafana", "jaeger"))}
    # These need not: they meet on the way to what both need. Their ports let nobody in without a scope.
    pairs |= {frozenset((one, other)) for one in declared() for other in declared() if one != other}
    pairs.add(frozenset(("prometheus", "jaeger")))
    assert shared == pairs


@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_what_looks_at_the_mesh_is_confined_too(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit"} <= service.keys()
    assert set(service.get("secrets", [])) <= {"scrape"}


@pytest.mark.parametrize("name", TOPOLOGY.services)
def test_a_service_starts_after_redis_is_healthy_and_has_the_time_to_drain(name: str) -> None:
    service = SERVICES[name]
    assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
    drain = float(service["environment"]["PENSTOCK_DRAIN_TIMEOUT"])
    assert Duration.parse(service["stop_grace_period"]) > drain + SETTLING


@pytest.mark.parametrize("name", TOPOLOGY.services)
def test_a_service_is_probed_where_it_listens(name: str) -> None:
    service = SERVICES[name]
    assert service["environment"][f"PENSTOCK_{name.upper()}_HOST"] == "0.0.0.0"
    assert service["healthcheck"]["test"] == ["CMD", "probe", str(getattr(Settings(), f"{name}_port"))]


@pytest.mark.parametrize("name", TOPOLOGY.services)
def test_every_setting_is_one_and_every_secret_is_granted(name: str) -> None:
    service = SERVICES[name]
    secrets = {hook.secret for hook in TOPOLOGY.webhooks.values()}
    settings = {key: value for key, value in service["environment"].items() if key.removesuffix("_FILE") not in secrets}
    assert unknown_variables(settings) == []
    files = {key: value for key, value in service["environment"].items() if key.endswith("_FILE")}
    assert sorted(files.values()) == [f"/run/secrets/{secret}" for secret in sorted(service.get("secrets", []))]
    for key, path in files.items():
        source = WRITTEN["secrets"][path.rpartition("/")[2]]["file"]
        assert source == f"${{{key}:-./deploy/secrets/none}}"


def test_every_webhook_of_the_topology_can_have_its_secret_from_a_file() -> None:
    given = SERVICES["gateway"]["environment"]
    assert {f"{hook.secret}_FILE" for hook in TOPOLOGY.webhooks.values()} <= given.keys()


def test_the_file_that_stands_for_no_secret_is_empty() -> None:
    assert (ROOT / "deploy" / "secrets" / "none").read_bytes() == b""


def test_the_image_is_built_by_the_uv_that_the_project_asks_for() -> None:
    (version,) = re.findall(r"uv==(\S+)", (ROOT / "deploy" / "Dockerfile").read_text())
    assert f"uv>={'.'.join(version.split('.')[:2])},<1" in (ROOT / "justfile").read_text()


class Answering(HTTPServer):
    """Answers the question for readiness with `status`, and any other with 404."""

    status = 200


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Answering)
        self.send_response(self.server.status if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b"because")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[Answering]:
    with Answering(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def probe(port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-IS", str(PROBE), str(port)]  # as its first line has it
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_probe_passes_on_what_the_service_says(answering: Answering) -> None:
    assert probe(answering.server_port).returncode == 0
    answering.status = 503
    done = probe(answering.server_port)
    assert (done.returncode, done.stderr) == (1, "503 because\n")


def test_the_probe_says_that_nothing_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        done = probe(taken.getsockname()[1])
    assert done.returncode == 1
    assert "nothing answers on port" in done.stderr
