"""A message that somebody asked for, to see whether a channel works."""

from __future__ import annotations

import time
from typing import Any, Literal

from penstock import Context
from penstock.keys import DELIVERIES
from penstock.schemas import Alert, ChannelTest, DeliveryAttempt
from penstock.times import rfc3339
from penstock_services.notifier.channels import AnyChannel, Delivery, Receipt
from penstock_services.notifier.channels.wire import SendFailed
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery import channel_health as health
from penstock_services.notifier.delivery.deliver import presentable
from penstock_services.notifier.delivery.notification_log import delivery_id
from penstock_services.notifier.message.message import Remarks
from penstock_services.notifier.message.templates import render
from penstock_services.notifier.message.text import excerpt

RULE = "notification-test"


async def send_test(config: Config, request: ChannelTest, ctx: Context) -> None:
    """Send a sample alert once, whatever is known of the channel, and put the result on record.

    If it arrives, a channel that was not used any more is used again.
    """
    channel = config.channels.get(request.channel)
    if channel is None:
        known = ", ".join(sorted(config.channels))
        _record(ctx, request, "dead", error=f"there is no channel {request.channel}; there are {known}")
        return
    receipts: list[Receipt] = []
    for recipient in channel.recipients:
        delivery = sample_delivery(config, request.channel, channel, key=ctx.idempotency_key(), recipient=recipient)
        try:
            receipts.append(await channel.send(delivery, allow_private=config.may_be_private(channel)))
        except SendFailed as failure:
            reason = presentable(failure.reason, request.channel, channel)
            to = f"{recipient}: " if recipient else ""
            answer = excerpt(failure.answer, channel.secrets) or None
            _record(
                ctx,
                request,
                "dead",
                code=failure.code,
                latency=failure.latency,
                answer=answer,
                error=to + reason,
            )
            return
        await health.recovered(ctx, request.channel, recipient)
    health.enable(ctx, channel)
    last = receipts[-1]
    answer = excerpt(last.answer, channel.secrets) or None
    _record(ctx, request, "sent", code=last.code, latency=last.latency, answer=answer)


def sample_alert(now: float) -> Alert:
    """Return an alert that shows everything a message may hold."""
    return Alert(
        fingerprint=RULE,
        rule=RULE,
        severity="warning",
        status="firing",
        labels={"service": "worker", "job_type": "ticket.created"},
        summary="A test of this channel",
        reason="Error rate of ticket.created was 12 % over 5 min (31 of 258), above 5 %.",
        value=0.12,
        threshold=0.05,
        since=rfc3339(now - 300),
        exemplars=["4bf92f3577b34da6a3ce929d0e0e4736"],
        runbook="https://example.com/runbooks/error-rate",
    )


def sample_delivery(
    config: Config, name: str, channel: AnyChannel, *, key: str, alert: Alert | None = None, recipient: str | None
) -> Delivery:
    """Return a delivery about `alert`, or else about the sample, which then says that it is a test."""
    now = time.time()
    shown = alert or sample_alert(now)
    remarks = Remarks(test=alert is None)
    message = render(shown, remarks, channel.templates.over(config.templates), now=now, channel=name)
    return Delivery(
        key=f"msg_{key}",
        channel=name,
        alert=shown,
        message=message,
        episode=key,
        recipient=recipient,
        test=alert is None,
    )


def _record(ctx: Context, request: ChannelTest, status: Literal["sent", "dead"], **said: Any) -> None:
    data = DeliveryAttempt(
        delivery_id=delivery_id(ctx.event),
        channel=request.channel,
        fingerprint=RULE,
        rule=RULE,
        transition="test",
        attempt=ctx.attempt,
        status=status,
        **said,
    )
    ctx.emit(DELIVERIES, f"delivery.{status}", data)
