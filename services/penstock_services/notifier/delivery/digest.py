"""Digests: alerts that can wait are gathered for a channel, and told in one message when their time is over."""

from __future__ import annotations

import time
from typing import get_args

import msgspec

from penstock import Context
from penstock.keys import NOTIFICATIONS
from penstock.schemas import Alert, Digest, Notification, Severity
from penstock.times import duration, rfc3339
from penstock_services.notifier.config.routing import DIGEST_RULE, Destination
from penstock_services.notifier.message.text import one_line

DIGEST = "notification.digest"
_SEVERITIES: tuple[str, ...] = get_args(Severity)
_FIELD = "alert:"
_MOST_SHOWN = 30


def gather(destination: Destination, alert: Alert, ctx: Context) -> None:
    """Put the newest change of an alert with what its channel is told next, at the end of the time that runs."""
    every = float(destination.batch or 1.0)
    ctx.state.hset(_name(destination.channel), {_FIELD + alert.fingerprint: msgspec.json.encode(alert).decode()})
    ctx.state.hincrby(_name(destination.channel), "version")
    told = Digest(channel=destination.channel, every=every, failover=list(destination.failover))
    ctx.emit(NOTIFICATIONS, DIGEST, told, subject=destination.channel, delay=every - time.time() % every)


async def take(ctx: Context, digest: Digest) -> Notification | None:
    """Take out what was gathered, with the commit, and return it as one notification; None if there is nothing."""
    name = _name(digest.channel)
    fields: dict[bytes, bytes] = await ctx.redis.hgetall(ctx.state.key(name))
    gathered = {key.decode(): row for key, row in fields.items() if key.startswith(_FIELD.encode())}
    if not gathered:
        return None
    version = fields.get(b"version", b"0").decode()
    ctx.state.expect(name, "version", version)  # what joins it meanwhile has this run again
    ctx.state.hdel(name, *gathered)
    ctx.state.hincrby(name, "version")
    alerts = sorted((msgspec.json.decode(row, type=Alert) for row in gathered.values()), key=_gravest_first)
    now = time.time()
    return Notification(
        channel=digest.channel, alert=_summary(alerts, digest, version, now), order=f"{round(now * 1000):015d}"
    )


def _summary(alerts: list[Alert], digest: Digest, version: str, now: float) -> Alert:
    lines = [f"{'resolved' if one.status == 'resolved' else one.severity}: {one_line(one.summary)}" for one in alerts]
    more = len(lines) - _MOST_SHOWN
    return Alert(
        fingerprint=f"{DIGEST_RULE}:{digest.channel}:{version}",
        rule=DIGEST_RULE,
        severity=alerts[0].severity,
        status="firing",
        summary=f"{len(alerts)} alert{'s' if len(alerts) > 1 else ''} in {duration(round(digest.every))}",
        reason="\n".join([*lines[:_MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]),
        since=rfc3339(now),
    )


def _gravest_first(alert: Alert) -> tuple[bool, int, str]:
    return (alert.status == "resolved", -_SEVERITIES.index(alert.severity), alert.since)


def _name(channel: str) -> str:
    return f"digest:{channel}"
