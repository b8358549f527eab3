"""From an alert to its deliveries: one for each channel, and for each recipient of a channel that has several."""

from __future__ import annotations

import time
from collections.abc import Iterator

from penstock import Context
from penstock.event import Event
from penstock.keys import NOTIFICATIONS
from penstock.mesh.deliveries import DUE
from penstock.schemas import Alert, Notification
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.message.message import moment


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


def order_of(alert: Alert, event: Event) -> str:
    """Return where a change stands among those of its alert; texts that compare as the changes do.

    That is when it was published; of changes of one millisecond the later episode comes later, and within an
    episode the resolve.
    """
    published = _milliseconds(event.time) or round(time.time() * 1000)
    return f"{published:015d}.{_milliseconds(alert.since):015d}.{int(alert.status == 'resolved')}"


def _milliseconds(timestamp: str) -> int:
    found = moment(timestamp)
    return 0 if found is None else max(0, round(found * 1000))
