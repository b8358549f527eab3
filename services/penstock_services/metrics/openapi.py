"""The HTTP routes of the metrics service, described."""

from __future__ import annotations

from typing import Final, Literal

from penstock.metrics.report import LABELS, MetricsReport
from penstock.settings import Settings
from penstock.web.common import COMMON
from penstock.web.openapi import Api, Parameter, look

_TIME = "an RFC 3339 time, or a duration before now such as `15m`"

API: Final = Api(
    service="metrics",
    port=Settings().metrics_port,
    about="Windows of what happened on the mesh.",
    operations=(
        *COMMON,
        look(
            "listWindows",
            "/v1/metrics",
            "Windows of 10 s or 60 s, the open ones too, with a choice of series",
            MetricsReport,
            "The windows in their order.",
            errors=(400,),
            parameters=(
                Parameter(name="window", description="Length of the windows in seconds.", type=Literal["10", "60"]),
                Parameter(
                    name="since", description=f"Where they begin: {_TIME}; ten minutes or an hour ago if absent."
                ),
                Parameter(name="until", description=f"Where they end: {_TIME}; now if absent."),
                Parameter(name="name", description="Only series of this name."),
                *(Parameter(name=label, description=f"Only series whose `{label}` is this.") for label in LABELS),
            ),
        ),
    ),
)
