"""Redis in a container of testcontainers, as the tests of a team that uses Penstock may have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from testcontainers.community.redis import RedisContainer

from tests.deploy.engine import Engine
from tests.deploy.stack import compose_file
from tests.processes import eventually, service_process

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600), pytest.mark.xdist_group("docker")]
IMAGE = compose_file()["services"]["redis"]["image"]


def test_a_worker_does_its_job_on_redis_in_a_container(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine.provide(IMAGE)
    if engine.ours:  # it has no image of testcontainers' own helper, and ends with this run anyway
        monkeypatch.setenv("DOCKER_HOST", engine.env["DOCKER_HOST"])
        monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    with RedisContainer(IMAGE) as container, container.get_client() as client:
        url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
        with service_process("-m", "penstock_services.worker", env={"REDIS_URL": url}, log=tmp_path / "worker"):
            client.xadd("ingest", {"type": "demo.flaky", "data": '{"fail_times": 0}'})
            eventually(lambda: client.exists("events") and client.xlen("events") == 1)
