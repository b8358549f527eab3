"""The health of channels: which of them fail, which must not be used any more, and the alerts that say so."""

from __future__ import annotations

import time

from penstock import Context
from penstock.keys import ALERTS
from penstock.schemas import Alert
from penstock.times import rfc3339
from penstock_services.notifier.channels import Channel
from penstock_services.notifier.config.routing import CHANNEL_RULE

_FAILING, _DISABLED = "failing", "disabled"


async def began_to_fail(ctx: Context, address: str) -> str | None:
    """Note that a channel fails; return since when if this delivery is the one to raise the alert about it.

    The note names the delivery, so that it raises the alert also when it has to be handled again.
    """
    key = ctx.state.key(_FAILING)
    mine = f"{rfc3339(time.time())} {ctx.event.id}"
    async with ctx.redis.pipeline(transaction=True) as pipeline:
        pipeline.hsetnx(key, address, mine)
        pipeline.hget(key, address)
        _, noted = await pipeline.execute()
    since, _, event_id = noted.decode().partition(" ")
    return since if event_id == ctx.event.id else None


async def recovered(ctx: Context, address: str) -> None:
    """Resolve the alert about a channel if there is one: it delivers again."""
    noted = await ctx.redis.hget(ctx.state.key(_FAILING), address)
    if noted is None:
        return
    since = noted.decode().partition(" ")[0]
    ctx.state.hdel(_FAILING, address)
    alert = _alert(address, since, resolved_at=rfc3339(time.time()), reason="A message has arrived again.")
    ctx.emit(ALERTS, "alert.resolved", alert, subject=alert.fingerprint)


def raise_alert(ctx: Context, address: str, since: str, reason: str, *, gone: bool) -> None:
    """Raise the alert about a channel, with the commit."""
    name = address.partition("/")[0]
    remedy = (
        f"The channel is not used any more. Give it a new address, or run `penstock notify test {name}` once it works."
        if gone
        else f"`penstock notify test {name}` shows when it works again."
    )
    kept = "Messages it could not take are in `penstock deliveries --failed`."
    alert = _alert(address, since, reason=f"{reason}\n{kept} {remedy}")
    ctx.emit(ALERTS, "alert.triggered", alert, subject=alert.fingerprint)


async def disabled(ctx: Context, channel: Channel) -> str | None:
    """Return why a channel must not be used any more, None if it may."""
    reason = await ctx.redis.hget(ctx.state.key(_DISABLED), channel.scope)
    return None if reason is None else str(reason.decode())


def disable(ctx: Context, channel: Channel, reason: str) -> None:
    """Never use this target again, from the commit on; another target of the same channel may be."""
    ctx.state.hset(_DISABLED, {channel.scope: reason})


def enable(ctx: Context, channel: Channel) -> None:
    """Use this target again, from the commit on."""
    ctx.state.hdel(_DISABLED, channel.scope)


def _alert(address: str, since: str, *, reason: str, resolved_at: str | None = None) -> Alert:
    name, _, recipient = address.partition("/")
    return Alert(
        fingerprint=f"{CHANNEL_RULE}:{address}",
        rule=CHANNEL_RULE,
        severity="critical",
        status="resolved" if resolved_at else "firing",
        labels={"channel": name, **({"recipient": recipient} if recipient else {})},
        summary=f"Channel {name} does not deliver" + (f" to {recipient}" if recipient else ""),
        reason=reason,
        since=since,
        resolved_at=resolved_at,
    )
