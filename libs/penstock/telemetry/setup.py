"""Choosing where telemetry goes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.telemetry.measures import Measures

_ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)


@contextmanager
def telemetry(service: str) -> Iterator[Measures]:
    """Measure; send spans and measures over OTLP if an OTEL_ endpoint is set and OTEL_SDK_DISABLED is not.

    What is left is sent at the end.

    Raises:
        ConfigurationError: an OTEL_ variable asks for what is not there.
    """
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or not any(os.environ.get(name) for name in _ENDPOINTS):
        yield Measures()
        return
    from penstock.telemetry.otlp import Otlp  # noqa: PLC0415 - a third of a second that nobody else should pay

    otlp = Otlp(service)
    try:
        yield otlp.measures
    finally:
        otlp.shutdown()
