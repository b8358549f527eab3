"""The notifier service: alerts in, deliveries out."""

from __future__ import annotations

import functools

from penstock import Context, Event, Retry, Service
from penstock.keys import ALERTS, NOTIFICATIONS
from penstock.mesh.deliveries import DUE, SERVICE, TEST, UNBLOCK
from penstock.schemas import (
    Alert,
    ButtonPressed,
    ChannelChanged,
    ChannelTest,
    ChannelUnblock,
    Digest,
    Escalation,
    Notification,
)
from penstock_services.notifier.api import serve_api
from penstock_services.notifier.buttons import press
from penstock_services.notifier.buttons.listen import listen
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery import (
    channel_health,
    deliver,
    digest,
    escalation,
    fanout,
    report,
    test_message,
    unblock,
)
from penstock_services.notifier.reload import LiveConfig

# An attempt has its channel's own time limit; this one holds while Redis is away and a confirmation must be kept.
_HANDLER_TIMEOUT = 3_600.0
_CHANGES = ("alert.triggered", "alert.repeated", "alert.acknowledged", "alert.unacknowledged", "alert.resolved")
# The notifier says itself when a delivery is tried again, and when not any more.
_RETRY = Retry(attempts=1_000_000, base=1.0, factor=2.0, jitter=0.0)


def build(config: Config | LiveConfig) -> Service:
    """Return the notifier for a configuration, which may change while it runs."""
    live = config if isinstance(config, LiveConfig) else LiveConfig(config)
    service = Service(SERVICE)

    @service.on(ALERTS, type=_CHANGES)
    async def route(alert: Alert, ctx: Context) -> None:
        await fanout.fan_out(live.current, alert, ctx)

    @service.on(NOTIFICATIONS, type=DUE, retry=_RETRY, timeout=_HANDLER_TIMEOUT)
    async def send(notification: Notification, ctx: Context) -> None:
        await deliver.deliver(live.current, notification, ctx)

    @service.on(NOTIFICATIONS, type=escalation.ESCALATE)
    async def escalate(planned: Escalation, ctx: Context) -> None:
        await fanout.escalate(live.current, planned, ctx)

    @service.on(NOTIFICATIONS, type=press.PRESSED)
    async def pressed(button: ButtonPressed, ctx: Context) -> None:
        await press.take(live.current, button, ctx)

    @service.on(NOTIFICATIONS, type=digest.DIGEST)
    async def send_digest(gathered: Digest, ctx: Context) -> None:
        await fanout.send_digest(live.current, gathered, ctx)

    @service.on(NOTIFICATIONS, type=TEST, retry=Retry(attempts=2))
    async def test(request: ChannelTest, ctx: Context) -> None:
        await test_message.send_test(live.current, request, ctx)

    @service.on(NOTIFICATIONS, type=UNBLOCK)
    async def lift(request: ChannelUnblock, ctx: Context) -> None:
        await unblock.unblock(live.current, request, ctx)

    @service.on(NOTIFICATIONS, type=channel_health.CHANGED)
    async def take_in(change: ChannelChanged, ctx: Context) -> None:
        await channel_health.apply(ctx, live.current.channels, change)

    @service.on(NOTIFICATIONS, type=channel_health.REVIEW)
    async def review(_: Event, ctx: Context) -> None:
        await channel_health.apply(ctx, live.current.channels, None)

    service.on_outcome(lambda ctx, outcome: report.report(live.current, ctx, outcome))
    service.task(serve_api)
    service.task(channel_health.request_review)
    service.task(live.watch)
    service.task(functools.partial(listen, live))
    return service
