"""One attempt to take one change of an alert to one channel.

What is promised: a message is sent at least once, and never again once its confirmation is recorded, which
happens right after it came and before anything else. Its key is the same on every attempt, so that a receiver
that keeps keys sees it once. Waiting and retrying are the mesh's own, in Redis.
"""

from __future__ import annotations

import hashlib
import time

import msgspec

from penstock import Context, Reject, Snooze, TryAgain
from penstock.mesh.deliveries import LATE, address
from penstock.redis.connection import unavailable
from penstock.resilience.breaker import CircuitOpen
from penstock.schemas import Notification
from penstock_services.notifier.channels import AnyChannel, Channel, Delivery, Receipt
from penstock_services.notifier.channels.wire import SendFailed, SendRefused
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery import channel_health as health
from penstock_services.notifier.delivery.notification_log import (
    Go,
    NotificationLog,
    Superseded,
    Wait,
    delivery_id,
    receipt_field,
)
from penstock_services.notifier.message.message import Remarks, moment, when
from penstock_services.notifier.message.templates import render
from penstock_services.notifier.message.text import cut, excerpt, redact

LONGEST_RETRY_AFTER = 300.0
"""A Retry-After beyond so many seconds is a failure of the channel: substitutes are called, and it is tried sooner.

So are shorter ones that add up to that.
"""
_REDIS_AWAY = 1.0  # seconds
_MOST_ERRORS = 10  # of our own
_MOST_REASON = 500
MOVED = "moved"
"""Hash: where targets have moved to, by scope."""


class DeliveryRun(msgspec.Struct):
    """What the outcome hook has to know of a run; it lies in the context's notes under `delivery`.

    Only a run with a receipt or a failure was an attempt. `late` says why the substitute is called now although this
    channel goes on trying, `given_up` why it does not. `was_late`: an earlier run has called the substitute.
    `known`: that the channel fails is known; it may have worked since then, for others.
    """

    notification: Notification
    channel: AnyChannel | None = None
    receipt: Receipt | None = None
    failure: SendFailed | None = None
    late: str | None = None
    given_up: str | None = None
    was_late: bool = False
    known: bool = False


async def deliver(config: Config, notification: Notification, ctx: Context) -> None:
    """Send the notification if it is its turn.

    Raises:
        Snooze: it is not yet, or Redis is away; no attempt is used up.
        TryAgain: the attempt failed, and there are more.
        Reject: something is wrong on our own side.
    """
    try:
        await _deliver(config, notification, ctx)
    except Exception as error:
        if isinstance(error, Snooze | TryAgain):
            raise
        if unavailable(error) is not None:
            raise Snooze(_REDIS_AWAY) from error
        if ctx.attempt >= _MOST_ERRORS:
            raise Reject(f"{type(error).__name__}: {error}") from error
        raise


async def _deliver(config: Config, notification: Notification, ctx: Context) -> None:
    channel = config.channels.get(notification.channel)
    run = ctx.notes["delivery"] = DeliveryRun(notification, channel)
    run.was_late = bool(await ctx.redis.hexists(ctx.state.key(LATE), delivery_id(ctx.event)))
    if channel is None:
        run.failure = SendRefused(f"notify.yaml has no channel {notification.channel} any more")
        run.given_up = run.failure.reason
        return
    log = NotificationLog(ctx.redis, ctx.state.key, notification, channel)
    admission = await log.admit(delivery_id(ctx.event), _name(notification, ctx))
    if isinstance(admission, Superseded):
        return
    if isinstance(admission, Wait):
        if admission.asked and not run.was_late and _asks_too_much(ctx, admission.seconds):
            run.late = "it asks to be left alone, again and again"
        raise Snooze(admission.seconds)
    if isinstance(admission, Go):
        await _try(config, run, log, admission, ctx)
    else:
        run.receipt = admission.receipt
    if run.receipt is not None:
        ctx.state.hdel(log.name, receipt_field(delivery_id(ctx.event)))
        if run.receipt.moved_to is not None:
            ctx.state.hset(MOVED, {channel.scope: run.receipt.moved_to})
        await health.recovered(ctx, notification.channel, notification.recipient)


async def _try(config: Config, run: DeliveryRun, log: NotificationLog, go: Go, ctx: Context) -> None:
    try:
        run.receipt = await _send(config, run, log, go, ctx)
    except CircuitOpen as waiting:
        await log.release(delivery_id(ctx.event), None)
        if run.notification.failover and not run.was_late:
            run.late = f"its circuit breaker {waiting.name} is open"
        raise
    except SendFailed as failure:
        await _failed(config, run, log, failure, ctx)


async def _send(config: Config, run: DeliveryRun, log: NotificationLog, go: Go, ctx: Context) -> Receipt:
    """Send through the channel's circuit breaker, and record the confirmation before anything else."""
    channel, notification = run.channel, run.notification
    assert channel is not None
    gone = await health.disabled(ctx, channel)
    if gone is not None:
        raise SendRefused(f"the channel is not used any more: {gone}")
    if go.before is not None:
        end = msgspec.structs.replace(notification, alert=go.before.alert, order=go.before.order)
        try:
            receipt = await _send_one(config, channel, end, Go(go.before.previous, ()), ctx)
        except SendRefused as refusal:
            if refusal.gone:
                raise
        else:
            await log.confirm(go.before.event_id, receipt, go.before)
    receipt = await _send_one(config, channel, notification, go, ctx)
    await log.confirm(delivery_id(ctx.event), receipt)
    return receipt


async def _send_one(config: Config, channel: AnyChannel, notification: Notification, go: Go, ctx: Context) -> Receipt:
    moved_to = await ctx.redis.hget(ctx.state.key(MOVED), channel.scope)
    delivery = compose_delivery(config, channel, notification, go, moved_to=moved_to.decode() if moved_to else None)
    async with ctx.breaker(f"channel:{notification.channel}", failures=_is_down):
        with ctx.span(f"deliver {notification.channel}", kind="client") as call:
            try:
                receipt = await _post(channel, delivery, allow_private=config.may_be_private(channel))
            except SendFailed as failure:
                call.error = presentable(failure.reason, notification.channel, channel)
                call.attributes["error.type"] = str(failure.code or type(failure).__name__)
                raise
    return msgspec.structs.replace(receipt, answer=excerpt(receipt.answer, channel.secrets))


async def _post(channel: AnyChannel, delivery: Delivery, *, allow_private: bool) -> Receipt:
    """Send through the channel; whatever else goes wrong there is a failed attempt, without a cause to keep."""
    try:
        return await channel.send(delivery, allow_private=allow_private)
    except SendFailed:
        raise
    except Exception as error:  # noqa: BLE001 - of any library that a channel uses
        raise SendFailed(f"{type(error).__name__}: {error}") from None


def compose_delivery(
    config: Config, channel: AnyChannel, notification: Notification, go: Go, *, moved_to: str | None
) -> Delivery:
    """Make the message of a notification, addressed."""
    alert = notification.alert
    remarks = Remarks(
        superseded=go.superseded,
        instead_of=notification.instead_of,
        why=notification.why,
        escalated=notification.escalated,
        unrecorded=go.unrecorded,
    )
    who_and_what = f"{address(notification)} {alert.fingerprint}"
    digest = hashlib.blake2b(f"{who_and_what} {notification.order}".encode(), digest_size=16).hexdigest()
    templates = channel.templates.over(config.templates)
    return Delivery(
        key=f"msg_{digest}",
        channel=notification.channel,
        alert=alert,
        message=render(alert, remarks, templates, now=time.time(), channel=notification.channel),
        episode=f"{alert.fingerprint} {alert.since}",
        previous=go.previous,
        recipient=notification.recipient,
        moved_to=moved_to,
    )


async def _failed(config: Config, run: DeliveryRun, log: NotificationLog, failure: SendFailed, ctx: Context) -> None:
    """Decide on what comes after a failed attempt.

    The first few follow the schedule. Then the substitute is called, and this channel goes on with growing pauses,
    for as long as it may: an alert that is still true shall arrive when the channel is back.
    """
    channel, notification = run.channel, run.notification
    assert channel is not None
    run.failure = failure
    run.known = await health.is_failing(ctx, notification.channel, notification.recipient)
    wait = None if isinstance(failure, SendRefused) else config.pause(channel, ctx.attempt)
    asked = None
    if failure.after is not None:  # it holds for whatever comes next, even if this was the last attempt
        asked = max(wait or 0.0, min(failure.after, LONGEST_RETRY_AFTER))
        wait = None if wait is None else asked
    due = await log.release(delivery_id(ctx.event), asked)
    reason = failure.reason = presentable(failure.reason, notification.channel, channel)
    failure.answer = excerpt(failure.answer, channel.secrets)
    if wait is None:
        run.given_up = reason
        return
    if not run.was_late and (ctx.attempt > len(config.schedule(channel)) or _asks_too_much(ctx, failure.after)):
        run.late = reason
    raise TryAgain(reason, after=wait if asked is None else due) from None  # the cause may hold secrets


def _asks_too_much(ctx: Context, after: float | None) -> bool:
    """Whether the other side asks for a wait that would have this delivery wait for too long in all."""
    now = time.time()
    return after is not None and now + after - (moment(ctx.event.time) or now) > LONGEST_RETRY_AFTER


def presentable(reason: str, name: str, channel: Channel) -> str:
    """Return a reason without secrets, and with what would allow a refused address to this channel alone."""
    reason = cut(redact(reason, channel.secrets), _MOST_REASON)
    if "PENSTOCK_ALLOW_PRIVATE_TARGETS" not in reason:
        return reason
    return f"{reason}; allow_private: true under channels.{name} in notify.yaml allows it to this channel alone"


def _name(notification: Notification, ctx: Context) -> str:
    """Return what to call this change in a message that stands for it."""
    kind = "resolved" if notification.alert.status == "resolved" else "triggered"
    return f"{kind} {when(notification.alert.resolved_at or ctx.event.time)}"


def _is_down(error: BaseException) -> bool:
    """Whether an error means that the other side is down, rather than busy or of another mind."""
    return isinstance(error, SendFailed) and not isinstance(error, SendRefused) and error.after is None
