"""Prometheus and Grafana: what they ask for is what the services tell."""

from __future__ import annotations

import json
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from penstock.spool.spooling import State
from penstock.topology import load
from penstock_services.metrics.prometheus import GAUGES
from tests.deploy.stack import compose_file
from tests.processes import ROOT, eventually, service_process
from tests.servers import Server, free_port

DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
SCRAPED = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]

Labels = dict[str, set[str]]


def panels() -> list[Any]:
    return [panel for path in DASHBOARDS for panel in json.loads(path.read_text())["panels"]]


def scraped() -> dict[str, int]:
    """Return the port that Prometheus asks of each service."""
    ports: dict[str, int] = {}
    for job in SCRAPED:
        for group in job.get("static_configs", ()):
            ports |= {host: int(port) for host, port in (target.split(":") for target in group["targets"])}
        for group in job.get("dns_sd_configs", ()):
            ports |= dict.fromkeys(group["names"], group["port"])
    return ports


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def samples(pages: list[str]) -> Labels:
    """Return the labels of each sample by its name."""
    found: Labels = defaultdict(set)
    for page in pages:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                found[sample.name] |= set(sample.labels)
    return found


def asked(expression: str) -> Labels:
    """Return the metrics that a PromQL expression selects, each with the labels it goes by."""
    found: Labels = defaultdict(set)
    grouped: set[str] = set()

    def note(node: Any) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector) and node.name:
            found[node.name] |= {matcher.name for matcher in node.matchers.matchers}
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            grouped.update(node.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), note)
    return {name: labels | grouped for name, labels in found.items()}


@pytest.fixture
def served(server: Server, tmp_path: Path) -> Labels:
    """What the metrics service and a worker tell after jobs that went well, failed and died."""
    ports = {"WORKER": free_port(), "METRICS": free_port()}
    env = {"REDIS_URL": server.url, **{f"PENSTOCK_{name}_PORT": str(port) for name, port in ports.items()}}
    with (
        service_process("-m", "penstock_services.worker", env=env, log=tmp_path / "worker"),
        service_process("-m", "penstock_services.metrics", env=env, log=tmp_path / "metrics"),
        server.client() as client,
    ):
        client.config_set("maxmemory", "1gb")
        client.hset(
            "spools", "1", msgspec.json.encode(State(program="gateway", host="a", events=3, bytes=300, aside=1))
        )
        for kind, data in (("demo.flaky", {"fail_times": 1}), ("demo.hopeless", None)):
            client.xadd("ingest", {"type": kind, "data": json.dumps(data)})
        eventually(lambda: client.xlen("dlq") == 1)

        def tell() -> Labels:
            try:
                return samples([read(f"http://127.0.0.1:{port}/metrics") for port in ports.values()])
            except OSError:
                return {}

        try:
            eventually(lambda: "penstock_job_duration_seconds_bucket" in tell(), what="a window was counted")
            return tell()
        finally:
            client.config_set("maxmemory", "0")


def test_every_metric_and_label_of_the_dashboard_exists(served: Labels) -> None:
    expressions = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    assert expressions
    for title, expression in expressions:
        wanted = asked(expression)
        assert wanted, f"{title}: asks for nothing"
        for name, labels in wanted.items():
            assert name in served, f"{title}: no service tells {name}"
            assert labels <= served[name], f"{title}: {name} has only the labels {sorted(served[name])}"


def test_every_gauge_is_on_the_dashboard_but_those_that_another_says_better() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in asked(target["expr"])}
    told = {f"penstock_{metric}" for metric, _ in GAUGES.values()}
    assert told - shown == {
        "penstock_redis_memory_bytes",  # its share is
        "penstock_spool_waiting_bytes",  # as events and seconds
        "penstock_ids_ahead_seconds",  # an alert is enough
    }


def test_what_keda_scales_the_worker_by_is_told(served: Labels) -> None:
    documents = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/keda/scaled-object.yaml").read_text()))
    (asked_for,) = (
        trigger["metadata"]
        for document in documents
        if document["kind"] == "ScaledObject"
        for trigger in document["spec"]["triggers"]
    )
    ((name, labels),) = asked(asked_for["valueLocation"]).items()
    assert labels <= served[name]
    selector: Any = promql_parser.parse(asked_for["valueLocation"])
    chosen = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
    assert chosen["group"] in load(ROOT / "streams.yaml").groups(chosen["stream"])
    assert asked_for["format"] == "prometheus"
    assert all(isinstance(value, str) for value in asked_for.values())


def test_prometheus_asks_each_service_at_the_port_where_it_is_asked_for_its_health() -> None:
    services = compose_file()["services"]
    for service, port in scraped().items():
        assert services[service]["healthcheck"]["test"] == ["CMD", "probe", str(port)], service


def test_grafana_finds_its_data_sources_in_the_stack() -> None:
    services = compose_file()["services"]
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/penstock.yaml").read_text())
    known = {source["uid"] for source in provisioned["datasources"]}
    for source in provisioned["datasources"]:
        assert urlsplit(source["url"]).hostname in services
    for panel in panels():
        assert {target["datasource"]["uid"] for target in panel["targets"]} <= known, panel["title"]


def test_the_dashboard_is_mounted_where_it_is_provisioned_from() -> None:
    mounts = dict(mount.split(":")[:2] for mount in compose_file()["services"]["grafana"]["volumes"])
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/penstock.yaml").read_text())
    (provider,) = provisioned["providers"]
    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
