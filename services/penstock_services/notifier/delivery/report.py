"""Telling what became of an attempt: an event on `deliveries`, and what follows from a failure that is final."""

from __future__ import annotations

import time
from typing import Any, Literal

from penstock import Context
from penstock.keys import DELIVERIES
from penstock.schemas import Alert, DeliveryAttempt
from penstock.service.outcome import Dead, Done, Outcome, Retried
from penstock.times import rfc3339
from penstock_services.notifier.channels.wire import SendRefused
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery import channel_health as health
from penstock_services.notifier.delivery.deliver import DeliveryRun
from penstock_services.notifier.delivery.fanout import hand_over
from penstock_services.notifier.delivery.notification_log import address


def report(config: Config, ctx: Context, outcome: Outcome) -> None:
    """Put an attempt on record with the commit; after the last one bring in the substitute and raise the alert."""
    run = ctx.notes.get("delivery")
    if not isinstance(run, DeliveryRun):
        return
    if isinstance(outcome, Retried) and not outcome.snoozed:
        due = rfc3339(time.time() + outcome.delay)
        _record(ctx, run, "failed", error=outcome.error, next_attempt_at=due)
    elif isinstance(outcome, Done) and run.receipt is not None:
        _record(ctx, run, "sent")
    elif isinstance(outcome, Done) and run.diverted is not None:
        _replace(config, ctx, run, run.diverted)
    elif isinstance(outcome, Dead):
        _record(ctx, run, "dead", error=outcome.error)
        _replace(config, ctx, run, outcome.error)


def transition(alert: Alert) -> Literal["triggered", "resolved"]:
    """Return which change of an alert this is."""
    return "resolved" if alert.status == "resolved" else "triggered"


def _record(ctx: Context, run: DeliveryRun, status: Literal["sent", "failed", "dead"], **more: Any) -> None:
    notification, said = run.notification, run.receipt or run.failure
    data = DeliveryAttempt(
        delivery_id=ctx.event.id,
        channel=notification.channel,
        recipient=notification.recipient,
        fingerprint=notification.alert.fingerprint,
        rule=notification.alert.rule,
        transition=transition(notification.alert),
        attempt=ctx.attempt,
        status=status,
        code=said.code if said else None,
        latency=round(said.latency, 6) if said and said.latency is not None else None,
        answer=(said.answer if said else None) or None,
        **more,
    )
    ctx.report(DELIVERIES, f"delivery.{status}", data)


def _replace(config: Config, ctx: Context, run: DeliveryRun, why: str) -> None:
    """Hand the message to the next substitute; see to it that somebody learns of the channel."""
    notification, failure = run.notification, run.failure
    hand_over(config, notification, why, ctx)
    gone = isinstance(failure, SendRefused) and failure.gone
    if gone and run.channel is not None:
        health.disable(ctx, run.channel, why)
    if run.alert_since is not None:
        health.raise_alert(ctx, address(notification), run.alert_since, why, gone=gone)
