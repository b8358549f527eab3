"""deploy/kubernetes: what kustomize makes of it is valid, and fits the services as they are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from penstock.settings import Settings, unknown_variables
from penstock.topology import load
from tests.deploy.stack import compose_file
from tests.processes import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
TOPOLOGY = load(ROOT / "streams.yaml")
SETTLING = 15  # seconds beyond the drain timeout that a service may take to settle and hand back

README = (ROOT / "deploy" / "README.md").read_text()
OVERLAY = README.partition("```yaml\n# kustomization.yaml\n")[2].partition("```")[0]

Manifests = dict[tuple[str, str], Any]
"""Resources by kind and name."""


def resources(text: str) -> Manifests:
    documents = [document for document in yaml.safe_load_all(text) if document]
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(found) == len(documents)
    return found


def build(folder: Path) -> Manifests:
    """Return what kustomize makes of a folder."""
    commands = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    command = next((command for program, command in commands.items() if shutil.which(program)), None)
    if command is None:
        pytest.skip("neither kubectl nor kustomize is there to build the manifests")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return resources(done.stdout)


@pytest.fixture(scope="module")
def base() -> Manifests:
    return build(FOLDER)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    """An overlay as deploy/README.md describes it."""
    folder = tmp_path_factory.mktemp("overlay", numbered=True)
    relative = Path(*[".."] * (len(folder.parts) - 1), *FOLDER.parts[1:])
    (folder / "kustomization.yaml").write_text(OVERLAY.replace("../penstock/deploy/kubernetes", str(relative)))
    for name in ("redis", "gateway", "metrics", "notifier"):
        (folder / f"{name}.env").write_text("password=secret\n")
    shutil.copy(ROOT / "streams.yaml", folder)
    return build(folder)


def pod(manifests: Manifests, service: str) -> tuple[Any, Any]:
    """Return the pod of a service and its container."""
    spec = manifests["Deployment", service]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def check(manifests: Manifests) -> None:
    for (kind, name), manifest in manifests.items():
        if not manifest["apiVersion"].startswith("keda.sh/"):  # a resource of its own, checked below
            try:
                kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
            except kubernetes_validate.ValidationError as error:
                pytest.fail(f"{kind} {name}: {error}")


@pytest.mark.parametrize("file", yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"])
def test_each_file_of_resources_is_valid(file: str) -> None:
    check(resources((FOLDER / file).read_text()))


def test_what_is_built_is_valid(base: Manifests, overlay: Manifests) -> None:
    check(base)
    check(overlay)


@pytest.mark.parametrize("service", TOPOLOGY.services)
def test_every_service_runs_probed_at_its_port_and_outlives_drained_nodes(base: Manifests, service: str) -> None:
    spec, container = pod(base, service)
    assert container["args"] == ["python", "-m", TOPOLOGY.services[service].run]
    (port,) = container["ports"]
    assert port["containerPort"] == getattr(Settings(), f"{service}_port")
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert spec["securityContext"]["runAsNonRoot"]
    labels = base["Deployment", service]["spec"]["template"]["metadata"]["labels"]
    budget = base["PodDisruptionBudget", service]["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()


def given(manifests: Manifests) -> dict[str, str]:
    (settings,) = [found for (kind, name), found in manifests.items() if name.startswith("penstock-settings")]
    variables: dict[str, str] = settings["data"]
    return variables


def test_every_setting_is_one_and_every_service_can_be_reached(base: Manifests) -> None:
    variables = given(base)
    assert unknown_variables(variables) == []
    settings = Settings.from_env(variables)
    for service in TOPOLOGY.services:
        assert getattr(settings, f"{service}_host") == "0.0.0.0"


@pytest.mark.parametrize("service", TOPOLOGY.services)
def test_a_pod_is_given_the_time_to_drain(base: Manifests, service: str) -> None:
    spec, _ = pod(base, service)
    assert spec["terminationGracePeriodSeconds"] > Settings.from_env(given(base)).drain_timeout + SETTLING


def test_redis_keeps_everything_as_in_compose(base: Manifests) -> None:
    (container,) = base["StatefulSet", "redis"]["spec"]["template"]["spec"]["containers"]
    ours = compose_file()["services"]["redis"]
    assert container["image"] == ours["image"]
    assert [one for one in container["args"][:-1] if one not in ("--requirepass", "$(REDIS_PASSWORD)")] == ours[
        "command"
    ][:-1]


def test_an_overlay_brings_its_image_its_topology_and_its_secrets(overlay: Manifests) -> None:
    configs = {name: found["data"] for (kind, name), found in overlay.items() if kind == "ConfigMap"}
    for service in TOPOLOGY.services:
        spec, container = pod(overlay, service)
        assert container["image"] == "registry.example.com/penstock:1.0"
        (config,) = [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
        assert configs[config]["streams.yaml"] == (ROOT / "streams.yaml").read_text()
        (secret,) = [source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source]
        assert secret.startswith(f"penstock-{service}")
        assert (("Secret", secret) in overlay) == (service in ("gateway", "metrics", "notifier"))


def test_redis_asks_for_the_password_that_the_services_have(base: Manifests) -> None:
    (redis,) = base["StatefulSet", "redis"]["spec"]["template"]["spec"]["containers"]
    assert redis["args"][redis["args"].index("--requirepass") + 1] == "$(REDIS_PASSWORD)"
    for service in TOPOLOGY.services:
        _, container = pod(base, service)
        assert container["env"][:1] == redis["env"][:1]
        assert container["env"][1] == {"name": "REDIS_URL", "value": "redis://:$(REDIS_PASSWORD)@redis:6379/0"}


def test_nobody_talks_but_those_who_must(base: Manifests) -> None:
    policies = {name: found["spec"] for (kind, name), found in base.items() if kind == "NetworkPolicy"}
    assert policies["nobody"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policies["nobody"]
    assert "egress" not in policies["nobody"]
    assert policies["nobody"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/part-of": "penstock"}
    (to_redis,) = policies["to-redis"]["podSelector"]["matchExpressions"]
    assert set(to_redis["values"]) == set(TOPOLOGY.services)
    (world,) = policies["to-the-world"]["podSelector"]["matchExpressions"]
    assert set(world["values"]) == {"worker", "notifier"}
    for service in TOPOLOGY.services:
        labels = base["Deployment", service]["spec"]["template"]["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "penstock"


def test_keda_alone_scales_the_worker_by_its_lag(base: Manifests, overlay: Manifests) -> None:
    assert ("HorizontalPodAutoscaler", "worker") in base
    assert ("HorizontalPodAutoscaler", "worker") not in overlay
    spec = overlay["ScaledObject", "worker"]["spec"]
    assert ("Deployment", spec["scaleTargetRef"]["name"]) in overlay
    (trigger,) = spec["triggers"]
    metadata = trigger["metadata"]
    assert metadata["url"] == "http://metrics.tickets.svc:8081/metrics"
    (secret,) = overlay["TriggerAuthentication", "penstock-scrape"]["spec"]["secretTargetRef"]
    assert ("Secret", secret["name"]) in overlay
