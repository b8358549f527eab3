"""The health of channels: which of them fail, which must not be used any more, and the one alert that says so.

Deliveries report changes as events of their own; one handler makes them into state, and into one alert for all the
channels that fail. So however many fail at once, and whichever process sees it, people are told once, and what
comes within half a minute after that is told together.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import msgspec

from penstock import Context
from penstock.event import encode
from penstock.keys import ALERTS, NOTIFICATIONS
from penstock.mesh.deliveries import FAILING, SERVICE, ChannelTrouble
from penstock.schemas import Alert, ChannelChanged
from penstock.service.runtime import Runtime
from penstock.times import rfc3339
from penstock_services.notifier.channels import Channel
from penstock_services.notifier.config.routing import CHANNEL_RULE

CHANGED, REVIEW = "channel.changed", "channel.review"
_ALERT, _DISABLED = "channel-alert", "disabled"
_GATHER = 30.0  # seconds in which further changes are gathered into one message
_MOST_SHOWN = 10


class _Noted(msgspec.Struct, omit_defaults=True):
    """What is known of the alert itself: since when it fires, whom it names, and whether a review is to come."""

    since: str | None = None
    names: list[str] = []
    review: bool = False


async def failing(ctx: Context) -> frozenset[str]:
    """Return the names of the channels that fail now."""
    return frozenset(one.channel for one in (await _failing(ctx)).values())


async def is_failing(ctx: Context, channel: str, recipient: str | None) -> bool:
    """Return whether it is known that a channel fails."""
    return bool(await ctx.redis.hexists(ctx.state.key(FAILING), _address(channel, recipient)))


async def recovered(ctx: Context, channel: str, recipient: str | None) -> None:
    """Report, with the commit, that a channel delivers, if it was failing."""
    if await is_failing(ctx, channel, recipient):
        ctx.emit(NOTIFICATIONS, CHANGED, ChannelChanged(channel=channel, recipient=recipient, failing=False))


def began_to_fail(ctx: Context, channel: str, recipient: str | None, reason: str) -> None:
    """Report, with the commit of a failed attempt, that a channel fails."""
    change = ChannelChanged(channel=channel, recipient=recipient, failing=True, reason=reason)
    ctx.report(NOTIFICATIONS, CHANGED, change)


async def request_review(runtime: Runtime) -> None:
    """Have the record of failing channels compared with the channels there are: some may be gone."""
    if await runtime.redis.exists(runtime.keys.state(SERVICE, FAILING)):
        fields = encode(REVIEW, "null", event_id=f"review-{os.urandom(8).hex()}", source=SERVICE)
        await runtime.publisher.publish(NOTIFICATIONS, fields)


async def apply(ctx: Context, known: Iterable[str], change: ChannelChanged | None) -> None:
    """Take in a change, or with None review what was gathered, and tell people what is new.

    Channels that are not `known` any more are forgotten. All that is read here is guarded: what another process
    changes meanwhile has this run again.
    """
    raw = await ctx.redis.hget(ctx.state.key(_ALERT), "noted")
    noted = msgspec.json.decode(raw, type=_Noted) if raw else _Noted()
    ctx.state.expect(_ALERT, "noted", raw.decode() if raw else None)
    before = await _failing(ctx)
    after = {address: trouble for address, trouble in before.items() if trouble.channel in set(known)}
    if change is not None and change.channel in set(known):
        _take_in(after, change)
    ctx.state.hdel(FAILING, *(before.keys() - after.keys()))
    ctx.state.hset(FAILING, {name: _encode(one) for name, one in after.items() if before.get(name) != one})
    ctx.state.hset(_ALERT, {"noted": _encode(_tell(ctx, noted, after, review=change is None))})


def _take_in(troubles: dict[str, ChannelTrouble], change: ChannelChanged) -> None:
    address = _address(change.channel, change.recipient)
    if not change.failing:
        troubles.pop(address, None)
    else:
        since = troubles[address].since if address in troubles else rfc3339(time.time())
        troubles[address] = ChannelTrouble(
            channel=change.channel, recipient=change.recipient, since=since, reason=change.reason
        )


def _tell(ctx: Context, noted: _Noted, troubles: dict[str, ChannelTrouble], *, review: bool) -> _Noted:
    """Begin, repeat or end the alert where that is due; return what is to be noted."""
    names = sorted(troubles)
    pending = noted.review and not review
    if not names:
        if noted.since is not None:
            _emit(ctx, "alert.resolved", _resolved(noted.names, noted.since))
        return _Noted(review=pending)
    since = noted.since or rfc3339(time.time())
    if noted.since is None:
        _emit(ctx, "alert.triggered", _firing(troubles, since))
        return _Noted(since=since, names=names, review=pending)
    if names == noted.names:
        return _Noted(since=since, names=names, review=pending)
    if review:
        _emit(ctx, "alert.repeated", _firing(troubles, since))
        return _Noted(since=since, names=names)
    if not pending:
        ctx.emit(NOTIFICATIONS, REVIEW, None, delay=_GATHER)
    return _Noted(since=since, names=noted.names, review=True)


def _emit(ctx: Context, kind: str, alert: Alert) -> None:
    ctx.emit(ALERTS, kind, alert, subject=alert.fingerprint)


async def _failing(ctx: Context) -> dict[str, ChannelTrouble]:
    rows: dict[bytes, bytes] = await ctx.redis.hgetall(ctx.state.key(FAILING))
    return {name.decode(): msgspec.json.decode(row, type=ChannelTrouble) for name, row in rows.items()}


def _address(channel: str, recipient: str | None) -> str:
    return f"{channel}/{recipient}" if recipient else channel


def _encode(value: msgspec.Struct) -> str:
    return msgspec.json.encode(value).decode()


def _firing(troubles: dict[str, ChannelTrouble], since: str) -> Alert:
    lines = [f"{name}: {troubles[name].reason}" for name in sorted(troubles)]
    more = len(lines) - _MOST_SHOWN
    lines = [*lines[:_MOST_SHOWN], *([f"and {more} more"] if more > 0 else [])]
    lines.append(
        "What could not be delivered is in `penstock deliveries --failed`; `penstock notify test CHANNEL` shows when a "
        "channel works again."
    )
    return _alert(sorted(troubles), since, reason="\n".join(lines))


def _resolved(names: list[str], since: str) -> Alert:
    reason = "They deliver again, or are not in use any more." if len(names) > 1 else "It delivers again, or is gone."
    return _alert(names, since, reason=reason, resolved_at=rfc3339(time.time()))


def _alert(names: list[str], since: str, *, reason: str, resolved_at: str | None = None) -> Alert:
    listed = ", ".join(names[:_MOST_SHOWN]) + (" ..." if len(names) > _MOST_SHOWN else "")
    does = f"{len(names)} channels do not deliver" if len(names) > 1 else "A channel does not deliver"
    return Alert(
        fingerprint=CHANNEL_RULE,
        rule=CHANNEL_RULE,
        severity="critical",
        status="resolved" if resolved_at else "firing",
        labels={"channel": listed},
        summary=f"{does}: {listed}",
        reason=reason,
        since=since,
        resolved_at=resolved_at,
    )


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
