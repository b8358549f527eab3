"""What a configuration says, and how an alert would look on each channel it goes to, without sending anything."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from penstock.errors import UNREADABLE, ConfigurationError
from penstock.schemas import Alert
from penstock.times import duration
from penstock_services.notifier.channels import AnyChannel
from penstock_services.notifier.config.config import Config
from penstock_services.notifier.delivery.test_message import sample_alert, sample_delivery


def render_all(config: Config, alert: bytes, *, only: list[str]) -> str:
    """Return what each channel would be sent for an alert given as JSON, or for a sample if it is empty.

    `only` names the channels to show, by default those that the alert is routed to.

    Raises:
        ConfigurationError: the JSON is no alert, or there is no such channel.
    """
    try:
        given = msgspec.json.decode(alert, type=Alert) if alert.strip() else None
    except UNREADABLE as error:
        raise ConfigurationError(f"this is no alert: {error}") from None
    names = only or [found.channel for found in config.destinations(given or sample_alert(time.time()))]
    return "\n".join(_one(config, name, given) for name in names)


def describe(config: Config) -> str:
    """Return in lines what a configuration says: each channel with its kind, each route with what it takes."""
    lines = [f"channel {name}: {_kind(channel)}{_presses(channel)}" for name, channel in config.channels.items()]
    for route in config.routes:
        takes = ", ".join([f"{route.min_severity} and graver", *route.match])
        instead = f", instead {', '.join(route.substitutes)}" if route.substitutes else ""
        later = "".join(f", then {step}" for step in route.then)
        gathered = "" if route.batch is None else f", gathered for {duration(round(route.batch))}"
        lines.append(f"route to {', '.join(route.channels)}{instead}: {takes}{later}{gathered}")
    lines += [f"on call for {name} now: {one.on_duty(time.time())}" for name, one in config.on_call.items()]
    lines += [f"quiet {one.hours} {one.timezone}: below {one.below}" for one in config.quiet]
    return "\n".join([*lines, "it is all right\n"])


def _kind(channel: AnyChannel) -> Any:
    return channel.__struct_config__.tag


def _presses(channel: AnyChannel) -> str:
    return "" if channel.presses is None else f", with buttons for {channel.presses}"


def _one(config: Config, name: str, alert: Alert | None) -> str:
    channel = config.channels.get(name)
    if channel is None:
        raise ConfigurationError(f"there is no channel {name}; there are {', '.join(sorted(config.channels))}")
    delivery = sample_delivery(config, name, channel, key="preview", alert=alert, recipient=channel.recipients[0])
    payload = channel.payload(delivery)
    shown = payload if isinstance(payload, str) else msgspec.json.format(msgspec.json.encode(payload)).decode()
    return f"--- {name} ({_kind(channel)})\n{shown}\n"
