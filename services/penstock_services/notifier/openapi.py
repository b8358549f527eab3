"""The HTTP routes of the notifier, described."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from penstock.mesh.deliveries import FailedDelivery, RecordedAttempt
from penstock.settings import Settings
from penstock.web.common import COMMON
from penstock.web.openapi import Api, Operation, Parameter, answer


class Deliveries(msgspec.Struct):
    """Attempts to tell somebody, the newest first."""

    deliveries: list[RecordedAttempt]


class FailedDeliveries(msgspec.Struct):
    """Deliveries that were given up and not sent again since, the newest first."""

    deliveries: list[FailedDelivery]


_PARAMETERS = (
    Parameter(
        name="limit", description="At most so many; 50 if absent.", type=Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    ),
    Parameter(name="channel", description="Only those of this channel."),
    Parameter(name="fingerprint", description="Only those of this alert."),
    Parameter(name="status", description="Only those that ended so.", type=Literal["sent", "failed", "dead"]),
)

API: Final = Api(
    service="notifier",
    port=Settings().notifier_port,
    about="Who was told of which alert, with what result.",
    operations=(
        *COMMON,
        Operation(
            name="listDeliveries",
            path="/v1/deliveries",
            summary="Every attempt to deliver a message",
            parameters=_PARAMETERS,
            answers={200: answer(Deliveries, "The attempts.")},
            errors=(400, 503),
        ),
        Operation(
            name="listFailedDeliveries",
            path="/v1/deliveries/failed",
            summary="Deliveries that were given up",
            parameters=_PARAMETERS[:1],
            answers={200: answer(FailedDeliveries, "The deliveries.")},
            errors=(400, 503),
        ),
    ),
)
