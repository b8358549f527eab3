"""The kinds of channels, one file each. Every rule of a provider stands in its file, with where it comes from."""

from __future__ import annotations

from penstock_services.notifier.channels.apprise import Apprise
from penstock_services.notifier.channels.base import Channel, Delivery, Receipt
from penstock_services.notifier.channels.console import Console
from penstock_services.notifier.channels.discord import Discord
from penstock_services.notifier.channels.email import Email
from penstock_services.notifier.channels.ntfy import Ntfy
from penstock_services.notifier.channels.opsgenie import Opsgenie
from penstock_services.notifier.channels.pagerduty import PagerDuty
from penstock_services.notifier.channels.slack import Slack
from penstock_services.notifier.channels.teams import Teams
from penstock_services.notifier.channels.telegram import Telegram
from penstock_services.notifier.channels.webhook import Webhook

AnyChannel = Console | Slack | Discord | Teams | Telegram | Email | PagerDuty | Opsgenie | Ntfy | Webhook | Apprise

__all__ = [
    "AnyChannel",
    "Apprise",
    "Channel",
    "Console",
    "Delivery",
    "Discord",
    "Email",
    "Ntfy",
    "Opsgenie",
    "PagerDuty",
    "Receipt",
    "Slack",
    "Teams",
    "Telegram",
    "Webhook",
]
