"""From an alert to its deliveries: one for each channel, and for each recipient of a channel that has several."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence

import msgspec

from penstock import Context
from penstock.event import Event
from penstock.keys import NOTIFICATIONS
from penstock.mesh.deliveries import DUE, record_name
from penstock.redis.scripts import Script
from penstock.schemas import Alert, Digest, Escalation, Notification
from penstock.times import entry_order
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.config.routing import CHANNEL_RULE, CONSOLE, Destination
from penstock_services.notifier.delivery import channel_health, digest, escalation
from penstock_services.notifier.delivery.notification_log import LIFETIME_MS

_FIRST = "alert.triggered"  # of an episode
_fanout = Script("penstock_services.notifier.delivery", "fanout")


async def fan_out(config: Config, alert: Alert, ctx: Context) -> None:
    """Publish a notification for everyone a change of an alert goes to, with the commit of the change.

    A beginning goes where the routes say; its acknowledgement, that this is taken back, and its end to whoever was
    told of it, and where there is no record of that, where the routes say.
    """
    failing = await channel_health.failing(ctx) if alert.rule == CHANNEL_RULE else frozenset()
    found = config.destinations(alert, failing)
    routed = [one for one in found if one.batch is None]
    for destination in found:
        if destination.batch is not None:
            digest.gather(destination, alert, ctx)
    begins = alert.status == "firing" and alert.acknowledged_by is None
    order = order_of(ctx.event)
    told, planned = await _note(ctx, alert, order, [one.channel for one in routed] if begins else [])
    if begins:
        await escalation.plan(config, alert, order, ctx, planned)
    anew = begins and not alert.unacknowledged_by
    for destination in routed if anew or not told else _where(config, told, routed):
        send_to(config, ctx, Notification(channel=destination.channel, alert=alert, order=order), destination.failover)


async def escalate(config: Config, planned: Escalation, ctx: Context) -> None:
    """Tell others of an alert that is still firing, and that nobody has acknowledged."""
    notification = await escalation.due(ctx, planned)
    if notification is None:
        return
    now = time.time()
    failover = config.on_duty(planned.failover, now)
    for name in config.on_duty(planned.channels, now):
        if name in config.channels:
            rest = [one for one in failover if one != name]
            send_to(config, ctx, msgspec.structs.replace(notification, channel=name), rest)


async def send_digest(config: Config, gathered: Digest, ctx: Context) -> None:
    """Tell a channel what was gathered for it."""
    if gathered.channel not in config.channels:
        return
    notification = await digest.take(ctx, gathered)
    if notification is not None:
        send_to(config, ctx, notification, gathered.failover)


def send_to(config: Config, ctx: Context, notification: Notification, failover: Sequence[str]) -> None:
    """Publish a notification for each recipient of its channel, unless that is spared the ends of alerts."""
    channel = config.channels[notification.channel]
    if notification.alert.status == "resolved" and not channel.send_resolved:
        return
    delay = config.quiet_for(notification.channel, notification.alert.severity, time.time())
    for recipient in channel.recipients:
        one = msgspec.structs.replace(notification, recipient=recipient, failover=list(failover))
        ctx.emit(NOTIFICATIONS, DUE, one, subject=notification.alert.fingerprint, delay=delay)


def hand_over(config: Config, failed: Notification, why: str, ctx: Context) -> None:
    """Publish a failed notification for the next channel that stands in, if there is one."""
    left = [name for name in failed.failover if name in config.channels]
    if left:
        instead = msgspec.structs.replace(failed, channel=left[0], instead_of=failed.channel, why=why)
        send_to(config, ctx, instead, left[1:])


async def _note(ctx: Context, alert: Alert, order: str, channels: list[str]) -> tuple[list[str], set[str]]:
    """Note the change as the newest of its alert, and `channels` as told; return who was told, and what is planned."""
    found: list[bytes] = await _fanout(
        ctx.redis,
        [ctx.state.key(record_name(alert.fingerprint))],
        [
            order,
            alert.status,
            alert.since,
            alert.acknowledged_by or "",
            msgspec.json.encode(alert),
            LIFETIME_MS,
            int(ctx.event.type == _FIRST),
            *channels,
        ],
    )
    fields = [field.decode().partition(":") for field in found]
    return [name for kind, _, name in fields if kind == "to"], {name for kind, _, name in fields if kind == "then"}


def _where(config: Config, told: Collection[str], routed: Sequence[Destination]) -> Iterator[Destination]:
    """Return the channels that were told, with the substitutes that the routes give them now; and the console.

    Where one of them is not in notify.yaml any more, or has another name, those of the routes stand in for it.
    """
    substitutes = {one.channel: one.failover for one in routed}
    instead = () if config.channels.keys() >= set(told) else substitutes
    for name in dict.fromkeys((*told, *instead, CONSOLE)):
        if name in config.channels:
            yield Destination(name, substitutes.get(name, ()))


def order_of(event: Event) -> str:
    """Return where a change stands among those of its alert: the place of its entry, as a text that compares so.

    No time says it: one commit may bring about an acknowledgement and, as the rule was made graver, a repeat after it.
    """
    milliseconds, number = entry_order(event.entry_id)
    return f"{milliseconds:015d}.{number:020d}"
