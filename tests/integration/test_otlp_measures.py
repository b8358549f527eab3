"""What is measured, as a receiver of OTLP sees it; one of traces alone, such as Jaeger, need not be sent it."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from penstock.telemetry.measures import BUCKETS
from tests.otlp import Receiver, otlp_receiver
from tests.processes import eventually, service_process
from tests.servers import Server

CUMULATIVE, DELTA = 2, 1  # AggregationTemporality of the protocol


def completed(raw: Any, count: int) -> bool:
    return bool(raw.exists("events") and raw.xlen("events") == count)


def reports(receiver: Receiver) -> int:
    return len(receiver.metrics.get("messaging.process.duration", ()))


def reported(receiver: Receiver, count: int) -> bool:
    return reports(receiver) >= count


def run_twice(server: Server, raw: Any, receiver: Receiver, **env: str) -> None:
    """Have a worker complete a job and report, and another job, and end."""
    given = {
        "REDIS_URL": server.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "50",
        **env,
    }
    with service_process("-m", "penstock_services.worker", env=given) as worker:
        for number in (1, 2):
            raw.xadd("ingest", {"type": "demo.flaky", "data": '{"fail_times": 0}'})
            eventually(functools.partial(completed, raw, number))
            if env.get("OTEL_METRICS_EXPORTER") != "none":
                eventually(functools.partial(reported, receiver, reports(receiver) + 2))
        worker.terminate()  # sends whatever there is to tell
        assert worker.wait(20) == 0


def test_measures_are_not_sent_if_the_exporter_is_none(server: Server, raw: Any) -> None:
    with otlp_receiver() as receiver:
        run_twice(server, raw, receiver, OTEL_METRICS_EXPORTER="none")
        assert receiver.spans
        assert not receiver.metrics


@pytest.mark.parametrize(("preference", "temporality"), [("cumulative", CUMULATIVE), ("delta", DELTA)])
def test_what_is_sent_adds_up_to_what_was_done(server: Server, raw: Any, preference: str, temporality: int) -> None:
    with otlp_receiver() as receiver:
        run_twice(server, raw, receiver, OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=preference)
        sums = {name: metrics for name, metrics in receiver.metrics.items() if name.endswith("messages")}
        assert set(sums) == {"messaging.client.consumed.messages", "messaging.client.sent.messages"}
        for metrics in sums.values():
            assert all(metric.sum.is_monotonic for metric in metrics)
            assert {metric.sum.aggregation_temporality for metric in metrics} == {temporality}
            counts = [point.as_int for metric in metrics for point in metric.sum.data_points]
            assert (sum(counts) if temporality == DELTA else counts[-1]) == 2
        runs = receiver.metrics["messaging.process.duration"]
        assert {metric.histogram.aggregation_temporality for metric in runs} == {temporality}
        points = [point for metric in runs for point in metric.histogram.data_points]
        assert {tuple(point.explicit_bounds) for point in points} == {BUCKETS}
        assert all(point.count == sum(point.bucket_counts) for point in points)
        assert (sum(point.count for point in points) if temporality == DELTA else points[-1].count) == 2
        about = {item.key: item.value.string_value for item in points[-1].attributes}
        assert about == {
            "messaging.system": "redis",
            "messaging.operation.name": "process",
            "messaging.destination.name": "ingest",
            "messaging.consumer.group.name": "worker",
            "server.address": server.url.removeprefix("unix://"),
        }
        operations = receiver.metrics["messaging.client.operation.duration"]
        assert any(point.count for metric in operations for point in metric.histogram.data_points)


def test_a_wrong_interval_stops_the_start_with_a_sentence(server: Server, tmp_path: Any) -> None:
    log = tmp_path / "log"
    env = {
        "REDIS_URL": server.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_METRIC_EXPORT_INTERVAL": "soon",
    }
    with service_process("-m", "penstock_services.worker", env=env, log=log) as worker:
        assert worker.wait(20) == 2
    assert "OTEL_METRIC_EXPORT_INTERVAL: 'soon' is no number of milliseconds" in log.read_text()
