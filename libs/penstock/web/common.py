"""What every service answers over HTTP (penstock.web.health), described."""

from __future__ import annotations

from typing import Final

from penstock.mesh.health import BreakersHealth, DlqHealth
from penstock.web.health import Lively, Ready
from penstock.web.openapi import TEXT, Operation, answer, look

COMMON: Final = (
    Operation(
        name="live",
        path="/livez",
        scope="public",
        summary="Whether the process runs; it asks nobody else",
        answers={200: answer(Lively, "It does.")},
    ),
    look(
        "ready",
        "/readyz",
        "Whether the process does its work now",
        Ready,
        "It does.",
        scope="public",
    ),
    look(
        "measurements",
        "/metrics",
        "Measurements for Prometheus",
        str,
        "Prometheus' text format.",
        media_type=TEXT,
        scope="scrape",
        description="Those of the process; at the metrics service those of the whole mesh.",
    ),
    look(
        "breakersHealth",
        "/health/circuit-breakers",
        "Health of the mesh's circuit breakers",
        BreakersHealth,
        "Every breaker and all together, at most 2 s old.",
    ),
    look(
        "deadLettersHealth",
        "/health/dlq",
        "Health of the mesh's dead letter queue, with what to do about it",
        DlqHealth,
        "Counts and recommendations, at most 2 s old.",
    ),
)
