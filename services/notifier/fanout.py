"""From an alert to its deliveries: one for each channel, and for each recipient of a channel that has several."""

from __future__ import annotations

from collections.abc import Iterator

from penstock import Context
from penstock.schemas import Alert, Notification
from penstock.service.deliveries import DUE, NOTIFICATIONS
from services.notifier.config import Config
from services.notifier.order import order_of


def fan_out(config: Config, alert: Alert, ctx: Context) -> None:
    """Publish a notification for everyone an alert goes to, with the commit of the alert."""
    order = order_of(alert, ctx.event)
    for destination in config.destinations(alert):
        if alert.status == "resolved" and not config.channels[destination.channel].send_resolved:
            continue
        for recipient in config.channels[destination.channel].recipients:
            _publish(
                ctx,
                Notification(
                    channel=destination.channel,
                    recipient=recipient,
                    alert=alert,
                    order=order,
                    failover=list(destination.failover),
                ),
            )


def hand_over(config: Config, failed: Notification, why: str, ctx: Context) -> None:
    """Publish a failed notification for the next channel that stands in, if there is one."""
    for notification in _substitutes(config, failed, why):
        _publish(ctx, notification)


def _substitutes(config: Config, failed: Notification, why: str) -> Iterator[Notification]:
    left = [name for name in failed.failover if name in config.channels]
    if not left:
        return
    for recipient in config.channels[left[0]].recipients:
        yield Notification(
            channel=left[0],
            recipient=recipient,
            alert=failed.alert,
            order=failed.order,
            failover=left[1:],
            instead_of=failed.channel,
            why=why,
        )


def _publish(ctx: Context, notification: Notification) -> None:
    ctx.emit(NOTIFICATIONS, DUE, notification, subject=notification.alert.fingerprint)
