"""Choosing where telemetry goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from penstock.telemetry.measures import Measures
from penstock.telemetry.variables import protocol


@contextmanager
def telemetry(service: str, redis_url: str, *, is_guest: bool = False) -> Iterator[Measures]:
    """Measure; send spans and measures over OTLP as far as OTEL_ variables ask for it.

    `redis_url` is the server that spans and measures name as theirs, if there is one. What is left is sent at the end.
    A guest leaves OpenTelemetry's own API to the program that it is in; else the spans that handlers make through it
    are sent too.

    Raises:
        ConfigurationError: an OTEL_ variable asks for what is not there.
    """
    traces, metrics = protocol("traces"), protocol("metrics")
    if traces is None and metrics is None:
        yield Measures()
        return
    from penstock.telemetry.otlp import Otlp  # noqa: PLC0415 - a third of a second that nobody else should pay

    otlp = Otlp(service, redis_url, traces=traces, metrics=metrics, is_guest=is_guest)
    try:
        yield otlp.measures
    finally:
        otlp.shutdown()
