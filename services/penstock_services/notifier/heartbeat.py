"""The dead-man's switch: somebody outside is called every minute while alerts would reach people, and misses us else.

The call follows from the alert manager's sign of life, which follows from a measured window: so it stops when metrics,
alerts or notifier stop, lag by more than a minute or cannot reach Redis, and while a critical alert is late, or fires
still although it was given up.
"""

from __future__ import annotations

import time

import structlog

from penstock import Context, Service
from penstock.errors import ConfigurationError
from penstock.keys import ALERTS, Keys
from penstock.mesh.deliveries import given_up, late
from penstock.schemas import Watchdog
from penstock.settings import Settings
from penstock.times import seconds_of
from penstock_services.notifier.channels.base import checked_url
from penstock_services.notifier.channels.wire import SendFailed, request

_WATCHDOG = "alert.watchdog"
_FRESH = 60.0  # seconds; an older sign of life proves nothing of now
_TIMEOUT = 10.0
_log = structlog.get_logger("notifier.heartbeat")


def add_heartbeat(service: Service, settings: Settings) -> None:
    """Let the notifier call PENSTOCK_HEARTBEAT_URL, if there is one.

    Raises:
        ConfigurationError: it is no URL.
    """
    url = settings.heartbeat_url
    if url is None:
        return
    try:
        checked_url(url)
    except ValueError as error:
        raise ConfigurationError(f"environment: PENSTOCK_HEARTBEAT_URL: {error}") from None

    @service.on(ALERTS, type=_WATCHDOG)
    async def beat(watchdog: Watchdog, ctx: Context) -> None:
        why = await _silent(watchdog, ctx, Keys(settings.prefix))
        if why is not None:
            _log.warning("no heartbeat", why=why)
            return
        try:
            answer = await request("GET", url, b"", timeout=_TIMEOUT, allow_private=settings.allow_private_targets)
        except SendFailed as error:  # the next one comes in a minute; whoever is called notices if none does
            _log.warning("the heartbeat did not arrive", error=type(error.__cause__ or error).__name__)
        else:
            if not 200 <= answer.status < 300:
                _log.warning("the heartbeat was not accepted", status=answer.status)


async def _silent(watchdog: Watchdog, ctx: Context, keys: Keys) -> str | None:
    """Return why there must be no heartbeat now, None if there may be one."""
    behind = time.time() - seconds_of(watchdog.time)
    if behind > _FRESH:
        return f"the sign of life is {behind:.0f} s old"
    untold = [*await late(ctx.redis, keys), *await given_up(ctx.redis, keys)]
    critical = [one for one in untold if one.notification.alert.severity == "critical"]
    if critical:
        channels = sorted({one.notification.channel for one in critical})
        return f"critical alerts have not arrived on {', '.join(channels)}"
    return None
