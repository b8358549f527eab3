"""What became of an attempt: an event on `deliveries`, and what follows from a failure."""

from __future__ import annotations

import time
from typing import Any, Literal

import msgspec

from penstock import Context
from penstock.keys import DELIVERIES
from penstock.mesh.deliveries import LATE, MOST_FAILED, UNDELIVERED, FailedDelivery
from penstock.schemas import Alert, DeliveryAttempt
from penstock.service.outcome import Dead, Done, Outcome, Retried
from penstock.times import rfc3339
from penstock_services.notifier.channels.wire import SendRefused
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery import channel_health as health
from penstock_services.notifier.delivery.deliver import DeliveryRun
from penstock_services.notifier.delivery.fanout import hand_over
from penstock_services.notifier.delivery.notification_log import delivery_id


def report(config: Config, ctx: Context, outcome: Outcome) -> None:
    """Put an attempt on record with the commit; call the substitute when it is late, and give up in the end."""
    run = ctx.notes.get("delivery")
    if not isinstance(run, DeliveryRun):
        return
    if isinstance(outcome, Retried):
        if not outcome.snoozed:
            _record(ctx, run, "failed", error=outcome.error, next_attempt_at=rfc3339(time.time() + outcome.delay))
        if run.late is not None:
            hand_over(config, run.notification, run.late, ctx)
            ctx.state.hset(LATE, {delivery_id(ctx.event): _failed(ctx, run, run.late)})
        if run.late is not None or (run.was_late and run.failure is not None):
            _tell_of_channel(ctx, run, run.late or outcome.error)
        return
    if run.was_late:
        ctx.state.hdel(LATE, delivery_id(ctx.event))
    if isinstance(outcome, Dead):
        _record(ctx, run, "dead", error=outcome.error)
    elif isinstance(outcome, Done) and run.receipt is not None:
        _record(ctx, run, "sent")
    elif run.given_up is not None:
        _give_up(config, ctx, run, run.given_up)


def transition(alert: Alert) -> Literal["triggered", "acknowledged", "unacknowledged", "resolved"]:
    """Return which change of an alert this is."""
    if alert.status == "resolved":
        return "resolved"
    if alert.unacknowledged_by:
        return "unacknowledged"
    return "acknowledged" if alert.acknowledged_by else "triggered"


def _give_up(config: Config, ctx: Context, run: DeliveryRun, why: str) -> None:
    """Keep what could not be delivered for people to send again.

    It is no dead letter: nothing is wrong with the event. And a rule about dead letters would raise alerts about it,
    which could not be delivered either.
    """
    _record(ctx, run, "dead", error=why)
    if not run.was_late:
        hand_over(config, run.notification, why, ctx)
    _tell_of_channel(ctx, run, why)
    ctx.state.push(UNDELIVERED, _failed(ctx, run, why), most=MOST_FAILED)
    if isinstance(run.failure, SendRefused) and run.failure.gone and run.channel is not None:
        health.disable(ctx, run.channel, why)


def _tell_of_channel(ctx: Context, run: DeliveryRun, why: str) -> None:
    """See to it that somebody learns of a channel that fails, or fails again."""
    if run.channel is not None and not run.known:
        health.began_to_fail(ctx, run.notification.channel, run.notification.recipient, why)


def _failed(ctx: Context, run: DeliveryRun, why: str) -> str:
    failed = FailedDelivery(
        delivery_id=delivery_id(ctx.event),
        time=rfc3339(time.time()),
        attempts=ctx.attempt,
        error=why,
        notification=run.notification,
    )
    return msgspec.json.encode(failed).decode()


def _record(ctx: Context, run: DeliveryRun, status: Literal["sent", "failed", "dead"], **more: Any) -> None:
    notification, said = run.notification, run.receipt or run.failure
    data = DeliveryAttempt(
        delivery_id=delivery_id(ctx.event),
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
