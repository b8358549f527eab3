"""Alerts to notify of."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.schemas import Alert, Notification
from penstock.times import rfc3339
from penstock_services.notifier.channels import Delivery
from penstock_services.notifier.message.message import Remarks
from penstock_services.notifier.message.templates import Templates, render

SINCE = 1_793_000_000.0
ALERT = Alert(
    fingerprint="f1",
    rule="error-rate",
    severity="critical",
    status="firing",
    labels={"service": "worker", "job_type": "ticket.created"},
    summary="Error rate of ticket.created is 12 %",
    reason="31 of 258 attempts failed over 5 min, above 5 %",
    value=0.1201,
    threshold=0.05,
    since=rfc3339(SINCE),
    exemplars=["4bf92f3577b34da6a3ce929d0e0e4736"],
    runbook="https://example.com/runbooks/error-rate?a=1&b=2",
)
RESOLVED = msgspec.structs.replace(
    ALERT,
    status="resolved",
    reason="below 3 % for 2 min",
    value=0.01,
    resolved_at=rfc3339(SINCE + 243),
)


def make_alert(alert: Alert = ALERT, **changes: Any) -> Alert:
    return msgspec.structs.replace(alert, **changes)


def make_notification(alert: Alert = ALERT, **more: Any) -> Notification:
    return Notification(**{"channel": "test", "alert": alert, "order": "1", **more})


def make_delivery(
    alert: Alert = ALERT,
    *,
    remarks: Remarks | None = None,
    templates: Templates | None = None,
    now: float = SINCE + 60,
    **more: Any,
) -> Delivery:
    message = render(alert, remarks or Remarks(), templates or Templates(), now=now, channel="test")
    return Delivery(**{"key": "msg_1", "channel": "test", "alert": alert, "message": message, "episode": "e1", **more})
