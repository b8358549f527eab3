"""The notifier service: alerts in, deliveries out."""

from __future__ import annotations

import functools

from penstock import Context, Retry, Service
from penstock.keys import ALERTS, NOTIFICATIONS
from penstock.mesh.deliveries import DUE, SERVICE, TEST
from penstock.schemas import Alert, ChannelTest, Notification
from penstock_services.notifier.api import serve_api
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery import deliver, fanout, report, test_message

# An attempt has its channel's own time limit; this one holds while Redis is away and a confirmation must be kept.
_HANDLER_TIMEOUT = 3_600.0


def build(config: Config) -> Service:
    """Return the notifier for a configuration."""
    service = Service(SERVICE)
    longest = max(len(config.schedule(channel)) for channel in config.channels.values())
    retry = Retry(attempts=longest + 1, base=1.0, factor=2.0, jitter=0.0)  # for what goes wrong on our own side

    @service.on(ALERTS, type=["alert.triggered", "alert.repeated", "alert.resolved"])
    async def route(alert: Alert, ctx: Context) -> None:
        fanout.fan_out(config, alert, ctx)

    @service.on(NOTIFICATIONS, type=DUE, retry=retry, timeout=_HANDLER_TIMEOUT)
    async def send(notification: Notification, ctx: Context) -> None:
        await deliver.deliver(config, notification, ctx)

    @service.on(NOTIFICATIONS, type=TEST, retry=Retry(attempts=2))
    async def test(request: ChannelTest, ctx: Context) -> None:
        await test_message.send_test(config, request, ctx)

    service.on_outcome(functools.partial(report.report, config))
    service.task(serve_api)
    return service
