"""What every service answers over HTTP (penstock.web.health), described."""

from __future__ import annotations

from typing import Final

from penstock.mesh.health import BreakersHealth, DlqHealth
from penstock.web.health import Lively, Ready
from penstock.web.openapi import TEXT, Operation, answer

COMMON: Final = (
    Operation(
        name="live",
        path="/livez",
        summary="Whether the process runs; it asks nobody else",
        answers={200: answer(Lively, "It does.")},
    ),
    Operation(
        name="ready",
        path="/readyz",
        summary="Whether the process does its work now",
        answers={200: answer(Ready, "It does.")},
        errors=(503,),
    ),
    Operation(
        name="measurements",
        path="/metrics",
        summary="Measurements for Prometheus",
        description="Those of the process; at the metrics service those of the whole mesh.",
        answers={200: answer(str, "Prometheus' text format.", media_type=TEXT)},
        errors=(503,),
    ),
    Operation(
        name="breakersHealth",
        path="/health/circuit-breakers",
        summary="Health of the mesh's circuit breakers",
        answers={200: answer(BreakersHealth, "Every breaker and all together, at most 2 s old.")},
        errors=(503,),
    ),
    Operation(
        name="deadLettersHealth",
        path="/health/dlq",
        summary="Health of the mesh's dead letter queue, with what to do about it",
        answers={200: answer(DlqHealth, "Counts and recommendations, at most 2 s old.")},
        errors=(503,),
    ),
)
