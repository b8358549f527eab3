"""Escalation: who is told of an alert that nobody has acknowledged by then. The wait is a delayed event in Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import msgspec

from penstock import Context
from penstock.keys import NOTIFICATIONS
from penstock.mesh.deliveries import record_name
from penstock.schemas import Alert, Escalation, Notification
from penstock.times import duration
from penstock_services.notifier.config.config import Config

ESCALATE = "notification.escalate"
_BEGUN = "begun"  # field: the change by which the escalation began anew, if one did


async def plan(config: Config, alert: Alert, order: str, ctx: Context, planned: Collection[str]) -> None:
    """Plan the steps of every route that takes the alert, with the commit, but for those `planned` in this episode.

    A change that takes an acknowledgement back begins anew: what was planned before it does not count any more.
    """
    record = record_name(alert.fingerprint)
    if alert.unacknowledged_by:
        begun = f"{alert.since} {order}"
        ctx.state.hset(record, {_BEGUN: begun})
    else:
        begun = _of_episode(await ctx.redis.hget(ctx.state.key(record), _BEGUN), alert.since)
    for route in config.routes:
        if not route.takes(alert):
            continue
        for step in route.then:
            name = hashlib.blake2b(f"{route.channels}{route.match}{step}{begun}".encode(), digest_size=6).hexdigest()
            if name in planned:
                continue
            ctx.state.hset(record, {f"then:{name}": alert.since})
            escalation = Escalation(
                fingerprint=alert.fingerprint,
                since=alert.since,
                channels=list(step.channels),
                failover=list(route.substitutes),
                after=float(step.after),
                begun=begun,
            )
            ctx.emit(NOTIFICATIONS, ESCALATE, escalation, subject=alert.fingerprint, delay=float(step.after))


async def due(ctx: Context, escalation: Escalation) -> Notification | None:
    """Return what is to be told now, to no channel yet; None if it is over, or somebody is on it."""
    key = ctx.state.key(record_name(escalation.fingerprint))
    *fields, begun = await ctx.redis.hmget(key, ["status", "episode", "acknowledged", "alert", "order", _BEGUN])
    status, episode, acknowledged, alert, order = [(field or b"").decode() for field in fields]
    if (status, episode) != ("firing", escalation.since) or acknowledged:
        return None
    if _of_episode(begun, escalation.since) != escalation.begun:
        return None  # somebody was on it, and took that back: what was planned then has taken its place
    waited = duration(round(escalation.after))
    return Notification(
        channel="",
        alert=msgspec.json.decode(alert, type=Alert),
        order=order,
        escalated=f"Nobody has acknowledged it within {waited}.",
    )


def _of_episode(begun: bytes | None, since: str) -> str:
    text = (begun or b"").decode()
    return text if text.startswith(f"{since} ") else ""
