"""What is exported, by OpenTelemetry's variables alone; processes that obey them are in test_otlp_variables.py."""

from __future__ import annotations

import os

import pytest

from penstock.telemetry.variables import protocol, sampled_share

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({ENDPOINT: "http://x:4318"}, "http/protobuf"),
        ({ENDPOINT: "https://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        ({ENDPOINT: "x:4317", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": " gRPC "}, "grpc"),
        ({ENDPOINT: "http://x", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http/protobuf"),
        ({"OTEL_TRACES_EXPORTER": "otlp, OTLP"}, "http/protobuf"),
        ({ENDPOINT: "http://x", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({ENDPOINT: "http://x", "OTEL_TRACES_EXPORTER": ","}, "http/protobuf"),
        ({ENDPOINT: "nonsense", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({ENDPOINT: "http://x", "OTEL_SDK_DISABLED": "True"}, None),
    ],
)
def test_traces_are_exported_where_somebody_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert protocol("traces") == expected


@pytest.mark.parametrize(
    ("sampler", "share", "expected"),
    [
        ("", "", 1),
        ("always_off", "", 0),
        ("parentbased_always_off", "0.5", 0),
        ("Parentbased_TraceIDRatio", "0.25", 0.25),
        ("traceidratio", "", 1),
    ],
)
def test_the_sampler_says_which_share_is_kept(
    monkeypatch: pytest.MonkeyPatch, sampler: str, share: str, expected: float
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", share)
    assert sampled_share() == expected
