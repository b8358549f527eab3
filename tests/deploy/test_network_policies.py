"""deploy/kubernetes/policies.yaml: each pair that must talk may, and no other, as Kubernetes evaluates policies."""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple

import pytest
import yaml

from penstock.topology import load
from tests.processes import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
SERVICES = list(load(ROOT / "streams.yaml").services)
NAME, PART = "app.kubernetes.io/name", "app.kubernetes.io/part-of"


def documents(file: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((FOLDER / file).read_text()) if one]


POLICIES = [
    one["spec"]
    for file in ("policies.yaml", "keda/scaled-object.yaml")
    for one in documents(file)
    if one["kind"] == "NetworkPolicy"
]
PORTS = {  # of each service's pod, as services.yaml declares it
    one["metadata"]["name"]: one["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]
    for one in documents("services.yaml")
}


class Peer(NamedTuple):
    """A pod with its labels and its namespace, or an address outside of the cluster."""

    labels: dict[str, str]
    namespace: str = "mesh"
    address: str = "10.1.2.3"

    @property
    def ours(self) -> bool:
        return self.namespace == "mesh"


PODS = {
    **{name: Peer({NAME: name, PART: "penstock"}) for name in (*SERVICES, "redis")},
    "somebody": Peer({NAME: "somebody"}),
    "prometheus": Peer({NAME: "prometheus"}, "monitoring"),
    "keda": Peer({"app": "keda-operator"}, "keda"),
    "ingress": Peer({NAME: "ingress-nginx"}, "ingress"),
}
WORLD = Peer({}, "", address="93.184.216.34")
METADATA = Peer({}, "", address="169.254.169.254")
NAMES = Peer({"k8s-app": "kube-dns"}, "kube-system")


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"  # the only one in use
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def matches(rule: dict[str, Any], peer: Peer) -> bool:
    if "ipBlock" in rule:
        address = ipaddress.ip_address(peer.address)
        inside = address in ipaddress.ip_network(rule["ipBlock"]["cidr"])
        return inside and not any(address in ipaddress.ip_network(one) for one in rule["ipBlock"].get("except", ()))
    if "namespaceSelector" not in rule:
        if not peer.ours:
            return False
    elif not selects(rule["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace}):
        return False
    return bool(peer.labels) and selects(rule.get("podSelector", {}), peer.labels)


def permits(direction: str, pod: Peer, other: Peer, port: int) -> bool:
    """Whether the policies that select a pod let it talk that way. Source: the NetworkPolicy API: they add up."""
    kind, peers = ("Ingress", "from") if direction == "ingress" else ("Egress", "to")
    chosen = [
        one for one in POLICIES if kind in one["policyTypes"] and pod.ours and selects(one["podSelector"], pod.labels)
    ]
    if not chosen:
        return True
    return any(
        (peers not in rule or any(matches(one, other) for one in rule[peers]))
        and (
            "ports" not in rule or any(one["port"] <= port <= one.get("endPort", one["port"]) for one in rule["ports"])
        )
        for policy in chosen
        for rule in policy.get(direction, ())
    )


def talk(source: Peer, target: Peer, port: int) -> bool:
    return permits("egress", source, target, port) and permits("ingress", target, source, port)


def test_each_pair_that_must_talk_may_and_no_other() -> None:
    ports = {**PORTS, "redis": 6379}
    may = {
        (source, target)
        for source, sender in PODS.items()
        for target, port in ports.items()
        if source != target and talk(sender, PODS[target], port)
    }
    to_redis = {(service, "redis") for service in SERVICES}
    scraped = {("prometheus", service) for service in SERVICES}
    to_the_gateway = {(source, "gateway") for source in PODS if source not in {*SERVICES, "redis"}}
    assert may == to_redis | scraped | to_the_gateway | {("keda", "metrics")}


@pytest.mark.parametrize("service", [*SERVICES, "redis"])
def test_the_world_is_reached_by_those_whose_work_it_is(service: str) -> None:
    assert talk(PODS[service], WORLD, 443) == (service in {"worker", "notifier"})
    assert not talk(PODS[service], METADATA, 80)


@pytest.mark.parametrize("service", [*SERVICES, "redis"])
def test_a_port_that_is_not_served_is_closed_to_all(service: str) -> None:
    assert not any(talk(sender, PODS[service], 22) for sender in PODS.values())


@pytest.mark.parametrize("service", [*SERVICES, "redis"])
def test_services_ask_the_cluster_for_names_and_nobody_else(service: str) -> None:
    assert permits("egress", PODS[service], NAMES, 53) == (service != "redis")
    elsewhere = [Peer(NAMES.labels), Peer(NAMES.labels, "somewhere"), Peer({"k8s-app": "other"}, "kube-system")]
    for other in (*elsewhere, *PODS.values(), METADATA):
        assert not permits("egress", PODS[service], other, 53)
    assert permits("egress", PODS[service], WORLD, 53) == (service in {"worker", "notifier"})
