"""A receiver of traces alone, such as Jaeger, need not be sent metrics."""

from __future__ import annotations

from typing import Any

import pytest

from tests.otlp import otlp_receiver
from tests.processes import eventually, service_process
from tests.servers import Server


@pytest.mark.parametrize(("exporter", "expected"), [("otlp", True), ("none", False)])
def test_metrics_are_exported_unless_the_exporter_is_none(
    server: Server, raw: Any, exporter: str, expected: bool
) -> None:
    with otlp_receiver() as receiver:
        env = {
            "REDIS_URL": server.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_METRICS_EXPORTER": exporter,
        }
        with service_process("-m", "penstock_services.worker", env=env) as worker:
            raw.xadd("ingest", {"type": "demo.flaky", "data": '{"fail_times": 0}'})
            eventually(lambda: raw.exists("events"))
            worker.terminate()  # flushes whatever there is to tell
            assert worker.wait(20) == 0
        assert receiver.spans
        assert bool(receiver.metrics) == expected
