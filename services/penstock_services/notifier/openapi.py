"""The HTTP routes of the notifier, described."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from penstock.mesh.deliveries import FailedDelivery, RecordedAttempt
from penstock.settings import Settings
from penstock.web.common import COMMON
from penstock.web.openapi import Api, Parameter, limit, look


class Deliveries(msgspec.Struct):
    """Attempts to tell somebody, the newest first."""

    deliveries: list[RecordedAttempt]


class FailedDeliveries(msgspec.Struct):
    """Deliveries that were given up and not sent again since, the newest first."""

    deliveries: list[FailedDelivery]


_PARAMETERS = (
    limit(50),
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
        look(
            "listDeliveries",
            "/v1/deliveries",
            "Every attempt to deliver a message",
            Deliveries,
            "The attempts.",
            errors=(400,),
            parameters=_PARAMETERS,
        ),
        look(
            "listFailedDeliveries",
            "/v1/deliveries/failed",
            "Deliveries that were given up",
            FailedDeliveries,
            "The deliveries.",
            errors=(400,),
            parameters=_PARAMETERS[:1],
        ),
    ),
)
