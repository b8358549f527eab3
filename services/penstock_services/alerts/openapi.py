"""The HTTP routes of the alert manager, described."""

from __future__ import annotations

from typing import Final

import msgspec

from penstock.mesh.alerts import LifecycleState, ShownAcknowledgement, ShownAlert, ShownHistory, ShownSilence
from penstock.settings import Settings
from penstock.web.common import COMMON
from penstock.web.openapi import JSON, Api, Content, Operation, Parameter, answer, limit, look
from penstock_services.alerts.api import NewAcknowledgement, NewSilence


class Alerts(msgspec.Struct):
    """Alerts, the latest change first."""

    alerts: list[ShownAlert]


class History(msgspec.Struct):
    """What happened to alerts, the newest first."""

    history: list[ShownHistory]


class Silences(msgspec.Struct):
    """Silences, the first to end first."""

    silences: list[ShownSilence]


API: Final = Api(
    service="alerts",
    port=Settings().alerts_port,
    about="What is wrong, since when and why, and who is not to be told.",
    operations=(
        *COMMON,
        look(
            "listAlerts",
            "/v1/alerts",
            "Alerts that are pending, firing or resolved lately",
            Alerts,
            "The alerts.",
            errors=(400,),
            parameters=(Parameter(name="state", description="Only those in this state.", type=LifecycleState),),
        ),
        look(
            "listHistory",
            "/v1/alerts/history",
            "What happened to alerts, and why",
            History,
            "The history.",
            errors=(400,),
            parameters=(limit(100),),
        ),
        Operation(
            name="acknowledgeAlert",
            method="post",
            path="/v1/acknowledgements",
            scope="operate",
            summary="Take an alert on: it is not repeated, and nobody else needs to be called",
            body=Content(description="Who takes which alert on.", types={JSON: NewAcknowledgement}),
            answers={
                200: answer(ShownAcknowledgement, "Somebody else has taken it on already."),
                201: answer(ShownAcknowledgement, "The acknowledgement."),
            },
            errors=(400, 404, 413, 503),
        ),
        Operation(
            name="withdrawAcknowledgement",
            method="delete",
            path="/v1/acknowledgements/{fingerprint}",
            scope="operate",
            summary="Take an acknowledgement back: people are notified again, and escalations begin anew",
            parameters=(
                Parameter(name="fingerprint", description="The alert's, or how it begins.", place="path"),
                Parameter(name="by", description="Who takes it back.", required=True),
                Parameter(name="comment", description="Why."),
            ),
            answers={204: Content(description="It is taken back.", types={})},
            errors=(400, 404, 503),
        ),
        look(
            "listSilences",
            "/v1/silences",
            "Silences",
            Silences,
            "The silences, those that are over too until they are forgotten.",
        ),
        Operation(
            name="addSilence",
            method="post",
            path="/v1/silences",
            scope="operate",
            summary="Tell nobody about alerts that match, for a while",
            body=Content(description="What is to be silent, for how long, and who says so.", types={JSON: NewSilence}),
            answers={201: answer(ShownSilence, "The silence.")},
            errors=(400, 413, 503),
        ),
        Operation(
            name="removeSilence",
            method="delete",
            path="/v1/silences/{id}",
            scope="operate",
            summary="End a silence",
            parameters=(Parameter(name="id", description="Its id.", place="path"),),
            answers={204: Content(description="It is over.", types={})},
            errors=(404, 503),
        ),
    ),
)
