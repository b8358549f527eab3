"""OpenTelemetry's own variables are obeyed, and one that cannot be stops the start with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.otlp import Receiver, otlp_receiver
from tests.processes import eventually, service_process
from tests.servers import Server, free_port


def run(server: Server, raw: Any, env: dict[str, str], *, log: Path | None = None) -> None:
    """Have a worker complete a job and end, which sends all that there is to send."""
    before = raw.xlen("events")
    with service_process("-m", "penstock_services.worker", env={"REDIS_URL": server.url, **env}, log=log) as worker:
        raw.xadd("ingest", {"type": "demo.flaky", "data": '{"fail_times": 0}'})
        eventually(lambda: raw.xlen("events") > before)
        worker.terminate()
        assert worker.wait(20) == 0


def names(receiver: Receiver) -> set[str]:
    return {span.name for span in receiver.spans}


def test_a_signal_has_an_endpoint_headers_and_compression_of_its_own(server: Server, raw: Any) -> None:
    with otlp_receiver() as receiver, otlp_receiver() as other:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": other.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=everybody",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.url}/v1/traces",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=of%20traces",
            "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "gzip",
        }
        run(server, raw, env)
    assert names(receiver) >= {"process ingest", "send events"}
    assert not receiver.metrics
    assert receiver.headers["/v1/traces"]["api-key"] == "of traces"
    assert receiver.headers["/v1/traces"]["Content-Encoding"] == "gzip"
    assert other.metrics
    assert not other.spans
    assert other.headers["/v1/metrics"]["api-key"] == "everybody"


@pytest.mark.parametrize(
    ("signal", "path"), [("TRACES", "/v1/traces"), ("METRICS", "/v1/metrics")], ids=["traces", "metrics"]
)
def test_an_endpoint_of_one_signal_alone_has_nothing_else_exported(
    server: Server, raw: Any, tmp_path: Path, signal: str, path: str
) -> None:
    log = tmp_path / "log"
    with otlp_receiver() as receiver:
        run(server, raw, {f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT": f"{receiver.url}{path}"}, log=log)
    assert set(receiver.headers) == {path}
    assert "not getting through" not in log.read_text(), "the other goes to the standard's default address"


@pytest.mark.parametrize(
    ("signal", "path"), [("TRACES", "/v1/metrics"), ("METRICS", "/v1/traces")], ids=["traces", "metrics"]
)
def test_an_exporter_none_sends_the_other_signal_alone(server: Server, raw: Any, signal: str, path: str) -> None:
    with otlp_receiver() as receiver:
        run(server, raw, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, f"OTEL_{signal}_EXPORTER": "None, none"})
    assert set(receiver.headers) == {path}


def test_the_protocol_of_a_signal_comes_before_that_of_all(server: Server, raw: Any) -> None:
    with otlp_receiver() as receiver:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "HTTP/protobuf",
            "OTEL_TRACES_EXPORTER": "OTLP",
        }
        run(server, raw, env)
    assert set(receiver.headers) == {"/v1/traces", "/v1/metrics"}


def test_an_empty_variable_is_an_unset_one(server: Server, raw: Any, tmp_path: Path) -> None:
    empty = ("PROTOCOL", "TIMEOUT", "COMPRESSION", "HEADERS", "TRACES_ENDPOINT", "TRACES_TIMEOUT", "METRICS_PROTOCOL")
    env = {f"OTEL_EXPORTER_OTLP_{name}": "" for name in empty}
    more = ("TRACES_EXPORTER", "METRICS_EXPORTER", "TRACES_SAMPLER", "TRACES_SAMPLER_ARG", "BSP_SCHEDULE_DELAY")
    env |= {f"OTEL_{name}": "" for name in (*more, "SERVICE_NAME", "RESOURCE_ATTRIBUTES", "SDK_DISABLED")}
    log = tmp_path / "log"
    with otlp_receiver() as receiver:
        run(server, raw, {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}, log=log)
    assert set(receiver.headers) == {"/v1/traces", "/v1/metrics"}
    assert "warning" not in log.read_text()


def test_what_a_resource_is_called_has_its_last_word_in_the_environment(server: Server, raw: Any) -> None:
    said = "service.name=beta,service.namespace=shop,deployment.environment.name=test"
    with otlp_receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_RESOURCE_ATTRIBUTES": said}
        run(server, raw, env)
        about = receiver.resources[-1]
        assert (about["service.name"], about["service.namespace"]) == ("beta", "shop")
        assert about["deployment.environment.name"] == "test"
        assert about["service.version"]
        run(server, raw, {**env, "OTEL_SERVICE_NAME": "a"})
    assert receiver.resources[-1]["service.name"] == "a"


WRONG = [
    ("TRACES_EXPORTER", "zipkin", "there is no exporter 'zipkin'; use otlp or none"),
    ("TRACES_EXPORTER", "otlp,console", "there is no exporter 'console'; use otlp or none"),
    ("TRACES_EXPORTER", "otlp,none", "none stands alone; use otlp or none"),
    (
        "METRICS_EXPORTER",
        "prometheus",
        "there is no exporter 'prometheus'; use otlp or none; for Prometheus every service has /metrics",
    ),
    ("EXPORTER_OTLP_PROTOCOL", "http/json", "'http/json' is not supported; use http/protobuf or grpc"),
    ("EXPORTER_OTLP_TRACES_PROTOCOL", "udp", "'udp' is not supported; use http/protobuf or grpc"),
    ("EXPORTER_OTLP_METRICS_PROTOCOL", "udp", "'udp' is not supported; use http/protobuf or grpc"),
    ("EXPORTER_OTLP_TRACES_ENDPOINT", "jaeger:4318", "it is no address over HTTP; for example http://localhost:4318"),
    ("EXPORTER_OTLP_ENDPOINT", "http://[", "it is no address over HTTP; for example http://localhost:4318"),
    ("EXPORTER_OTLP_TIMEOUT", "soon", "'soon' is no number of seconds; for example 10"),
    ("EXPORTER_OTLP_METRICS_TIMEOUT", "nan", "'nan' is no number of seconds; for example 10"),
    ("EXPORTER_OTLP_COMPRESSION", "zstd", "'zstd' is not supported; use gzip, deflate or none"),
    (
        "TRACES_SAMPLER",
        "jaeger_remote",
        "there is no sampler 'jaeger_remote'; there are always_on, always_off, traceidratio, parentbased_always_on, "
        "parentbased_always_off, parentbased_traceidratio",
    ),
]


@pytest.mark.parametrize(("variable", "value", "why"), WRONG, ids=[f"{name}={value}" for name, value, _ in WRONG])
def test_what_cannot_be_obeyed_stops_the_start_with_a_sentence(
    server: Server, tmp_path: Path, variable: str, value: str, why: str
) -> None:
    log = tmp_path / "log"
    nobody = f"http://127.0.0.1:{free_port()}"
    env = {"REDIS_URL": server.url, "OTEL_EXPORTER_OTLP_ENDPOINT": nobody, f"OTEL_{variable}": value}
    with service_process("-m", "penstock_services.worker", env=env, log=log) as worker:
        assert worker.wait(20) == 2
    assert f"environment: OTEL_{variable}: {why}" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_nothing_of_it_matters_where_the_sdk_is_disabled(server: Server, raw: Any) -> None:
    run(server, raw, {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "zipkin"})
