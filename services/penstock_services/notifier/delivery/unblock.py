"""Lifting what keeps a channel from being used: a wait that it asked for, a target that was gone, growing pauses."""

from __future__ import annotations

import time

import msgspec

from penstock import Context
from penstock.errors import UNREADABLE
from penstock.keys import DELIVERIES, NOTIFICATIONS
from penstock.mesh.deliveries import SERVICE, UNBLOCKED
from penstock.schemas import ChannelUnblock, ChannelUnblocked, Notification
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery import channel_health as health
from penstock_services.notifier.delivery.notification_log import NotificationLog, blocked_name, gate_names

_PAGE = 500


async def unblock(config: Config, request: ChannelUnblock, ctx: Context) -> None:
    """Let a channel be used again at once, and have everything that waits for it tried now.

    Nothing here is part of the commit, for its order matters; to do it twice does no harm.
    """
    channel = config.channels.get(request.channel)
    if channel is None:
        known = ", ".join(sorted(config.channels))
        error = f"there is no channel {request.channel}; there are {known}"
        ctx.emit(DELIVERIES, UNBLOCKED, ChannelUnblocked(channel=request.channel, error=error))
        return
    health.enable(ctx, channel)
    await ctx.redis.delete(*(ctx.state.key(name) for name in (blocked_name(channel), *gate_names(channel))))
    waiting = await _waiting(ctx, request.channel)
    for member, notification in waiting:
        log = NotificationLog(ctx.redis, ctx.state.key, notification, channel)
        await ctx.redis.hdel(ctx.state.key(log.name), "slot")
        await ctx.redis.zadd(_delayed(ctx), {member: time.time() * 1000}, xx=True)
    ctx.emit(DELIVERIES, UNBLOCKED, ChannelUnblocked(channel=request.channel, waiting=len(waiting)))


async def _waiting(ctx: Context, channel: str) -> list[tuple[bytes, Notification]]:
    """Return what waits to be tried on a channel, with the members of the sorted set it lies in."""
    found: list[tuple[bytes, Notification]] = []
    start = 0
    while rows := await ctx.redis.zrange(_delayed(ctx), start, start + _PAGE - 1):
        found += [(row, told) for row in rows if (told := _notification(row)) and told.channel == channel]
        start += _PAGE
    return found


def _notification(member: bytes) -> Notification | None:
    try:
        fields = msgspec.msgpack.decode(member, type=list[str])
        return msgspec.json.decode(dict(zip(fields[::2], fields[1::2], strict=True))["data"], type=Notification)
    except (*UNREADABLE, KeyError, ValueError):  # of another kind
        return None


def _delayed(ctx: Context) -> str:
    return ctx.scope.keys.delayed(NOTIFICATIONS, SERVICE)
