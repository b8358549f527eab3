"""What all who listen to presses have in common."""

from __future__ import annotations

import structlog

from penstock.errors import Unavailable
from penstock.schemas import ButtonPressed
from penstock.service.runtime import Runtime
from penstock_services.notifier.buttons import press
from penstock_services.notifier.channels import AnyChannel
from penstock_services.notifier.channels.wire import SendFailed
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery.deliver import presentable
from penstock_services.notifier.message.button import Button
from penstock_services.notifier.message.text import cut, one_line
from penstock_services.notifier.reload import LiveConfig

FOREIGN = "Buttons count only from where notify.yaml says, and not from here. Nothing was changed."
UNKNOWN = "This button is not one of ours any more. Nothing was changed."
_LONGEST_PAUSE = 60.0
_MOST_NAME = 100
_log = structlog.get_logger("notifier.buttons")


class Listener:
    """Listens to one app or bot, on behalf of all channels that use it."""

    def __init__(self, live: LiveConfig, runtime: Runtime, name: str, channel: AnyChannel) -> None:
        """`channel`, called `name` in notify.yaml, is one of them."""
        self.live = live
        self._runtime = runtime
        self.name = name
        self._one = channel
        self._failures = 0

    @property
    def config(self) -> Config:
        """The configuration that is valid now."""
        return self.live.current

    @property
    def allow_private(self) -> bool:
        """Whether it may connect to addresses that are not public."""
        return self.config.may_be_private(self._one)

    async def listen(self) -> None:
        """Listen until cancelled; what goes wrong is logged, and tried again."""
        raise NotImplementedError

    def heard(self) -> None:
        """Note that there is a connection."""
        if self._failures:
            _log.info("presses of buttons are heard again", channel=self.name)
        self._failures = 0

    def failed(self, reason: str, *, after: float | None = None) -> float:
        """Note that there is none; return in how many seconds to try again, no sooner than `after`."""
        pause = float(min(2**self._failures, _LONGEST_PAUSE))
        pause = max(pause, min(after or 0.0, _LONGEST_PAUSE))
        self._failures = min(self._failures + 1, 10)
        why = presentable(reason, self.name, self._one)
        _log.warning("presses of buttons are not heard", channel=self.name, error=why, next_in=pause)
        return pause

    async def publish(self, channel: str, button: Button, *, by: str, answer_to: str, press_id: str) -> bool:
        """Put a press on its way; False if Redis is away, and it has to come again."""
        pressed = ButtonPressed(
            channel=channel,
            action=button.action,
            fingerprint=button.fingerprint,
            since=button.since,
            by=cut(one_line(by), _MOST_NAME),
            answer_to=answer_to,
        )
        try:
            await press.publish(self._runtime, pressed, press_id)
        except Unavailable as error:
            _log.warning("a press of a button has to come again", channel=channel, error=str(error))
            return False
        return True

    async def refuse(self, answer_to: str, text: str, *, by: str, where: str) -> None:
        """Tell somebody whose press does not count."""
        _log.warning("a press of a button does not count", by=cut(one_line(by), _MOST_NAME), where=where, told=text)
        try:
            await self._one.answer_press(answer_to, text, allow_private=self.allow_private)
        except SendFailed as failure:
            why = presentable(failure.reason, self.name, self._one)
            _log.warning("whoever pressed a button was not answered", channel=self.name, error=why)
