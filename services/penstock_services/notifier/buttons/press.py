"""What follows when somebody has pressed a button: the acknowledgement that `penstock alerts ack` makes, and an answer.

Whoever hears a press publishes it before the provider is told that it was heard; so none is lost, and one that comes
twice counts once. Acknowledging is safe to do twice.
"""

from __future__ import annotations

from penstock import Context
from penstock.event import derived_id, encode, encode_data
from penstock.keys import NOTIFICATIONS
from penstock.mesh.alerts import AlertStore
from penstock.mesh.deliveries import SERVICE, log_name
from penstock.schemas import ButtonPressed
from penstock.service.runtime import Runtime
from penstock.streams.publish import Deduplication
from penstock_services.notifier.channels import AnyChannel, Slack
from penstock_services.notifier.channels.slack import edit_reference
from penstock_services.notifier.channels.wire import SendFailed
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery import test_message
from penstock_services.notifier.delivery.deliver import presentable

PRESSED = "button.pressed"
_REMEMBERED = 2 * 86_400  # seconds; Telegram repeats for a day what nobody has confirmed
_TEST = "This button works. It was a test: there is nothing to acknowledge."
_OVER = "This is over, or it fires anew: then its newest message has the buttons that count. Nothing was changed."
_NOBODY = "Nobody has taken this on, or it is over. Nothing was changed."


async def publish(runtime: Runtime, pressed: ButtonPressed, press_id: str) -> None:
    """Put a press on its way, once for all that comes under `press_id`.

    Raises:
        Unavailable: Redis could not take it.
    """
    fields = encode(
        PRESSED,
        encode_data(pressed),
        event_id=derived_id(SERVICE, PRESSED, press_id),
        source=SERVICE,
        subject=pressed.fingerprint,
    )
    once = Deduplication(PRESSED, press_id, _REMEMBERED, digest=press_id)
    await runtime.publisher.publish(NOTIFICATIONS, fields, dedupe=[once])


async def take(config: Config, pressed: ButtonPressed, ctx: Context) -> None:
    """Do what a press asks for, and answer whoever pressed; that is not tried again."""
    channel = config.channels.get(pressed.channel)
    if channel is None or channel.presses is None:  # notify.yaml has changed meanwhile
        ctx.log.warning("a button counts no more: its channel has none now", channel=pressed.channel, by=pressed.by)
        return
    text = await _act(channel, pressed, ctx)
    try:
        await channel.answer_press(pressed.answer_to, text, allow_private=config.may_be_private(channel))
    except SendFailed as failure:
        why = presentable(failure.reason, pressed.channel, channel)
        ctx.log.warning("whoever pressed a button was not answered", channel=pressed.channel, error=why)


async def _act(channel: AnyChannel, pressed: ButtonPressed, ctx: Context) -> str:
    """Do it, and return what to answer."""
    if pressed.fingerprint == test_message.RULE:
        return _TEST
    if isinstance(channel, Slack) and channel.token is None:  # a bot edits without being lent anything
        await _lend(pressed, ctx)
    store = AlertStore(ctx.redis, ctx.scope.keys)
    how = {"by": pressed.by, "comment": f"with a button in {pressed.channel}", "since": pressed.since}
    if pressed.action == "unack":
        withdrawn = await store.withdraw(pressed.fingerprint, **how)
        return _NOBODY if withdrawn is None else "Nobody is on it any more; escalations begin anew."
    said = await store.acknowledge(pressed.fingerprint, **how)
    if said is None:
        return _OVER
    return "You have taken it on." if said.by == pressed.by else f"{said.by} has taken it on already."


async def _lend(pressed: ButtonPressed, ctx: Context) -> None:
    """Let the messages that follow replace the one with the button: before any of them can come."""
    log = ctx.state.key(log_name(pressed.channel, pressed.fingerprint))
    if await ctx.redis.hget(log, "episode") == pressed.since.encode():
        await ctx.redis.hset(log, "reference", edit_reference(pressed.answer_to, pressed.since))
