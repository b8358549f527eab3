"""The button under an alert: what it says, and what comes back when somebody presses it."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from penstock.schemas import Alert
from penstock_services.notifier.config.routing import CHANNEL_RULE, DIGEST_RULE

Action = Literal["ack", "unack"]
_LABELS: dict[Action, str] = {"ack": "Acknowledge", "unack": "Undo acknowledgement"}
_MOST_DATA = 64  # bytes: Telegram's limit of callback_data, the least of all


class Button(msgspec.Struct, frozen=True):
    """Acknowledges an episode of an alert, or takes that back."""

    action: Action
    fingerprint: str
    since: str

    @property
    def label(self) -> str:
        """What stands on it."""
        return _LABELS[self.action]

    def encode(self) -> str:
        """Return what a provider gives back when it is pressed."""
        return f"{self.action} {self.since} {self.fingerprint}"

    @classmethod
    def decode(cls, data: str) -> Button | None:
        """Read what came back; None if it is not from a button of ours."""
        action, _, rest = data.partition(" ")
        since, _, fingerprint = rest.partition(" ")
        found: Action | None = next((one for one in get_args(Action) if one == action), None)
        return cls(found, fingerprint, since) if found and since and fingerprint else None


def button_for(alert: Alert) -> Button | None:
    """Return the button to show under an alert; None where there is nothing to acknowledge.

    What the notifier raises itself (its channels, digests) the alert manager knows nothing of.
    """
    if alert.status == "resolved" or alert.rule in (CHANNEL_RULE, DIGEST_RULE):
        return None
    button = Button("unack" if alert.acknowledged_by else "ack", alert.fingerprint, alert.since)
    data = button.encode()
    fits = len(data.encode(errors="replace")) <= _MOST_DATA and data.isprintable()
    return button if fits and Button.decode(data) == button else None
