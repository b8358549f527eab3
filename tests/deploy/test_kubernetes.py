"""deploy/kubernetes: what kustomize makes of it is valid, and fits the services as they are."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from penstock.settings import Settings, redis_url, unknown_variables
from penstock.topology import load, parse
from penstock.web.clients import Clients
from penstock_services.gateway.sources import WebhookSource, sources
from tests.deploy.stack import compose_file
from tests.processes import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
TOPOLOGY = load(ROOT / "streams.yaml")
SETTLING = 15  # seconds beyond the drain timeout that a service may take to settle and hand back

README = (ROOT / "deploy" / "README.md").read_text()
OVERLAY, MANAGED_REDIS = (
    README.partition(f"```yaml\n# {name}.yaml\n")[2].partition("```")[0] for name in ("kustomization", "patches")
)
OLD, NEW = "an old secret, which has blanks", "a new secret, that is one too"
ENV = {
    "redis.env": "password=a/pass@word:#1",
    "scrape.env": "secret=presented-at-metrics-0123456789",
    "gateway.env": "SHOP_SECRET=old-secret-of-the-shop-01234 new-secret-of-the-shop-01234",
    "notifier.env": "SMTP_PASSWORD=secret",
    "github.secret": f"{OLD}\n{NEW}",
}

Manifests = dict[tuple[str, str], Any]
"""Resources by kind and name."""


def resources(text: str) -> Manifests:
    documents = [document for document in yaml.safe_load_all(text) if document]
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(found) == len(documents)
    return found


def kustomize(folder: Path) -> subprocess.CompletedProcess[str]:
    commands = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    command = next((command for program, command in commands.items() if shutil.which(program)), None)
    if command is None:
        pytest.skip("neither kubectl nor kustomize is there to build the manifests")
    return subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)


def build(folder: Path) -> Manifests:
    """Return what kustomize makes of a folder."""
    done = kustomize(folder)
    assert done.returncode == 0, done.stderr
    return resources(done.stdout)


@pytest.fixture(scope="module")
def base() -> Manifests:
    return build(FOLDER)


def write_overlay(folder: Path, text: str = OVERLAY) -> Path:
    """Write an overlay as deploy/README.md describes it, with the files that it names."""
    relative = Path(*[".."] * (len(folder.parts) - 1), *FOLDER.parts[1:])
    (folder / "kustomization.yaml").write_text(text.replace("../penstock/deploy/kubernetes", str(relative)))
    for name, content in ENV.items():
        (folder / name).write_text(content + "\n")
    shutil.copy(ROOT / "streams.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return build(write_overlay(tmp_path_factory.mktemp("overlay", numbered=True)))


def pod(manifests: Manifests, service: str) -> tuple[Any, Any]:
    """Return the pod of a service and its container."""
    spec = manifests["Deployment", service]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    return spec, container


def variables(manifests: Manifests, service: str) -> dict[str, str]:
    """Return the environment of a service's container, as a kubelet makes it."""
    found: dict[str, str] = {}
    _, container = pod(manifests, service)
    for source in container["envFrom"]:
        if "configMapRef" in source:
            found |= manifests["ConfigMap", source["configMapRef"]["name"]]["data"]
        elif ("Secret", source["secretRef"]["name"]) in manifests:
            found |= {name: secret(manifests, source["secretRef"]["name"], name) for name in _keys(manifests, source)}
    for one in container["env"]:
        if "value" in one:
            found[one["name"]] = one["value"]
        else:
            reference = one["valueFrom"]["secretKeyRef"]
            found[one["name"]] = secret(manifests, reference["name"], reference["key"])
    return found


def _keys(manifests: Manifests, source: Any) -> list[str]:
    return list(manifests["Secret", source["secretRef"]["name"]]["data"])


def secret(manifests: Manifests, name: str, key: str) -> str:
    return base64.b64decode(manifests["Secret", name]["data"][key]).decode()


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
        assert (("Secret", secret) in overlay) == (service in ("gateway", "notifier"))


def test_redis_asks_for_the_password_that_the_services_have(base: Manifests) -> None:
    (redis,) = base["StatefulSet", "redis"]["spec"]["template"]["spec"]["containers"]
    assert redis["args"][redis["args"].index("--requirepass") + 1] == "$(REDIS_PASSWORD)"
    for service in TOPOLOGY.services:
        _, container = pod(base, service)
        assert container["env"][:1] == redis["env"][:1]
        assert container["env"][1] == {"name": "REDIS_URL", "value": "redis://redis:6379/0"}


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


@pytest.mark.parametrize("service", TOPOLOGY.services)
def test_a_pod_has_its_own_secrets_only_and_takes_redis_s_password_whatever_is_in_it(
    overlay: Manifests, service: str
) -> None:
    given = variables(overlay, service)
    told = {name for name in given if name.endswith(("SECRET", "PASSWORD"))}
    own = {"gateway": {"SHOP_SECRET", "GITHUB_WEBHOOK_SECRET"}, "notifier": {"SMTP_PASSWORD"}}
    assert told == {"REDIS_PASSWORD", "PENSTOCK_SCRAPE_SECRET"} | own.get(service, set())
    settings = Settings.from_env(given)
    assert urlsplit(redis_url(settings)).password == quote("a/pass@word:#1", safe="")
    assert settings.scrape_secret == "presented-at-metrics-0123456789"
    assert not settings.demo_webhook, "everybody knows its secret"


def test_while_a_secret_is_replaced_the_old_one_and_the_new_one_hold(
    overlay: Manifests, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = variables(overlay, "gateway")
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", given["GITHUB_WEBHOOK_SECRET"])
    monkeypatch.setenv("SHOP_SECRET", given["SHOP_SECRET"])
    source = sources(TOPOLOGY, demo=False)["github"]
    for one in (OLD, NEW):
        (of_one,) = WebhookSource("one", source.hook, [one]).verifiers
        assert source.verify(of_one.sign(b"{}", 0))
    declared = parse("streams: {ingest: {}}\nclients: {shop: {secret: SHOP_SECRET, scopes: [publish]}}")
    clients = Clients.of(declared, Settings.from_env(given))
    for one in ("old-secret-of-the-shop-01234", "new-secret-of-the-shop-01234"):
        caller = clients.find(f"Bearer {one}")
        assert caller is not None
        assert caller.name == "shop"


def test_with_a_redis_that_is_run_for_you_services_ask_that_one(tmp_path: Path) -> None:
    found = build(write_overlay(tmp_path, OVERLAY + MANAGED_REDIS))
    check(found)
    assert ("StatefulSet", "redis") not in found
    (egress,) = found["NetworkPolicy", "to-redis"]["spec"]["egress"]
    for service in TOPOLOGY.services:
        address = urlsplit(redis_url(Settings.from_env(variables(found, service))))
        assert (address.scheme, address.hostname) == ("rediss", "redis.example.com")
        assert address.password == quote("a/pass@word:#1", safe="")
        assert egress["ports"] == [{"port": address.port}]


def test_keda_alone_scales_the_worker_by_its_lag(base: Manifests, overlay: Manifests) -> None:
    assert ("HorizontalPodAutoscaler", "worker") in base
    assert ("HorizontalPodAutoscaler", "worker") not in overlay
    spec = overlay["ScaledObject", "worker"]["spec"]
    assert ("Deployment", spec["scaleTargetRef"]["name"]) in overlay
    (trigger,) = spec["triggers"]
    (presented,) = overlay["TriggerAuthentication", trigger["authenticationRef"]["name"]]["spec"]["secretTargetRef"]
    token = secret(overlay, presented["name"], presented["key"])
    assert token == Settings.from_env(variables(overlay, "metrics")).scrape_secret


@pytest.mark.parametrize("namespace", ["tickets", "default"])
def test_keda_asks_in_the_namespace_of_the_mesh_wherever_that_is_said(tmp_path: Path, namespace: str) -> None:
    below, above = tmp_path / "below", tmp_path / "above"
    for folder in (below, above):
        folder.mkdir()
    write_overlay(below, OVERLAY.replace("namespace: tickets\n", ""))
    nowhere = kustomize(below)
    assert (nowhere.returncode, "metadata.namespace" in nowhere.stderr) == (1, True), "none is said"
    (above / "kustomization.yaml").write_text(f"resources: [../below]\nnamespace: {namespace}\n")
    for folder in (above, write_overlay(below, OVERLAY.replace("namespace: tickets", f"namespace: {namespace}"))):
        (trigger,) = build(folder)["ScaledObject", "worker"]["spec"]["triggers"]
        assert trigger["metadata"]["url"] == f"http://metrics.{namespace}.svc:8081/metrics"
