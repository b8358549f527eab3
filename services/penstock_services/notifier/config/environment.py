"""Channels that need no file: a webhook, a Telegram chat and a mailbox from environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from penstock.config import Duration, did_you_mean
from penstock.errors import ConfigurationError
from penstock.settings import Port, Positive, read_variables
from penstock_services.notifier.channels import AnyChannel, Discord, Email, Slack, Telegram, Webhook
from penstock_services.notifier.channels.telegram import BOT_API
from penstock_services.notifier.config.routing import Route

OPS, TELEGRAM, EMAIL = "ops", "telegram", "email"
Provider = Literal["slack", "discord", "webhook"]
_PROVIDERS = ("auto", "slack", "discord", "webhook", "generic")
_HOSTS: dict[str, Provider] = {
    "hooks.slack.com": "slack",
    "hooks.slack-gov.com": "slack",
    "discord.com": "discord",
    "discordapp.com": "discord",
    "ptb.discord.com": "discord",
    "canary.discord.com": "discord",
}
_FAMILY = "OPS_ALERT"
_ALIKE = 0.85  # OPS_ALRT_WEBHOOK_URL is meant for us, OPS_WEBHOOK_URL may be somebody else's
_VARIABLES = {OPS: "OPS_ALERT_WEBHOOK_*", TELEGRAM: "TELEGRAM_*", EMAIL: "SMTP_*"}


def _env(name: str, default: Any = None) -> Any:
    return msgspec.field(name=name, default=default)


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The variables; any of them may be given as NAME_FILE instead. Durations are in seconds."""

    ops_url: str | None = _env("OPS_ALERT_WEBHOOK_URL")
    ops_provider: str = _env("OPS_ALERT_WEBHOOK_PROVIDER", "auto")
    ops_min_severity: str = _env("OPS_ALERT_WEBHOOK_MIN_SEVERITY", "warning")
    ops_timeout: Positive = _env("OPS_ALERT_WEBHOOK_TIMEOUT_SECONDS", 10.0)
    ops_auth_header: str | None = _env("OPS_ALERT_WEBHOOK_AUTH_HEADER")
    ops_auth_value: str | None = _env("OPS_ALERT_WEBHOOK_AUTH_VALUE")
    ops_secret: str | None = _env("OPS_ALERT_WEBHOOK_SECRET")
    ops_enabled: str = _env("OPS_ALERT_HOOKS_ENABLED", "true")

    telegram_token: str | None = _env("TELEGRAM_BOT_TOKEN")
    telegram_chat: str | None = _env("TELEGRAM_CHAT_ID")
    telegram_api: str = _env("TELEGRAM_API_URL", BOT_API)

    smtp_host: str | None = _env("SMTP_HOST")
    smtp_port: Port = _env("SMTP_PORT", 587)
    smtp_username: str | None = _env("SMTP_USERNAME")
    smtp_password: str | None = _env("SMTP_PASSWORD")
    smtp_from: str | None = _env("SMTP_FROM")
    smtp_to: str | None = _env("SMTP_TO")
    smtp_tls: Literal["auto", "starttls", "tls", "none"] = _env("SMTP_TLS", "auto")


class EnvironmentChannels(msgspec.Struct, frozen=True):
    """What the environment sets up: channels, and a route for each; `off` are channels that it switches off."""

    channels: dict[str, AnyChannel]
    routes: dict[str, Route]
    off: frozenset[str] = frozenset()


def read_environment(environ: Mapping[str, str] | None = None) -> EnvironmentChannels:
    """Make channels of the environment.

    Raises:
        ConfigurationError: a variable does not fit, one that belongs to it is missing, or nothing reads it.
    """
    _check_names(os.environ if environ is None else environ)
    found = read_variables(Environment, environ)
    channels: dict[str, AnyChannel] = {}
    routes: dict[str, Route] = {}
    for name, make, min_severity in (
        (OPS, _ops, found.ops_min_severity),
        (TELEGRAM, _telegram, "info"),
        (EMAIL, _email, "info"),
    ):
        try:
            channel = make(found)
            route = Route(channels=(name,), min_severity=min_severity)
        except ValueError as error:
            raise ConfigurationError(f"environment: {_VARIABLES[name]}: {error}") from None
        if channel is not None:
            channels[name], routes[name] = channel, route
    off = frozenset() if _switch("OPS_ALERT_HOOKS_ENABLED", found.ops_enabled) else frozenset({OPS})
    return EnvironmentChannels(channels, routes, off)


def _check_names(environ: Mapping[str, str]) -> None:
    """Refuse variables of our own family that nothing reads, most likely slips of the pen."""
    known = {field.encode_name for field in msgspec.structs.fields(Environment)}
    ours = sorted(name for name in known if name.startswith(_FAMILY))
    for name in environ:
        meant = name.upper().removesuffix("_FILE")
        if name.removesuffix("_FILE") in known or not meant.startswith("OPS"):
            continue
        if meant.startswith(_FAMILY) or did_you_mean(meant, ours, otherwise="", cutoff=_ALIKE):
            raise ConfigurationError(f"environment: {name}: nothing reads it; {did_you_mean(meant, ours)}")


def _switch(name: str, value: str) -> bool:
    """Read a switch, however it is written.

    Raises:
        ConfigurationError: it is neither on nor off.
    """
    lowered = value.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ConfigurationError(f"environment: {name}: expected true or false, got {value!r}")


def provider_of(url: str) -> Provider:
    """Tell from a webhook's URL whose it is."""
    return _HOSTS.get((urlsplit(url).hostname or "").lower(), "webhook")


def _ops(found: Environment) -> AnyChannel | None:
    if found.ops_url is None or not _switch("OPS_ALERT_HOOKS_ENABLED", found.ops_enabled):
        return None
    asked = found.ops_provider.strip().lower()
    if asked not in _PROVIDERS:
        raise ValueError(f"_PROVIDER: there is no {found.ops_provider!r}; {did_you_mean(asked, _PROVIDERS)}")
    provider = provider_of(found.ops_url) if asked == "auto" else "webhook" if asked == "generic" else asked
    timeout = Duration(found.ops_timeout)
    if provider != "webhook":
        for variable, value in (
            ("_AUTH_HEADER", found.ops_auth_header),
            ("_AUTH_VALUE", found.ops_auth_value),
            ("_SECRET", found.ops_secret),
        ):
            if value is not None:
                raise ValueError(f"{variable} is for a generic webhook, and this one is {provider}'s; unset it")
        return (
            Slack(url=found.ops_url, timeout=timeout)
            if provider == "slack"
            else Discord(url=found.ops_url, timeout=timeout)
        )
    if (found.ops_auth_header is None) != (found.ops_auth_value is None):
        raise ValueError("_AUTH_HEADER and _AUTH_VALUE go together: set both or neither")
    headers = {found.ops_auth_header: found.ops_auth_value} if found.ops_auth_header and found.ops_auth_value else {}
    return Webhook(url=found.ops_url, timeout=timeout, headers=headers, secret=found.ops_secret)


def _telegram(found: Environment) -> AnyChannel | None:
    token, chat = found.telegram_token, found.telegram_chat
    if token is None and chat is None:
        return None
    if token is None or chat is None:
        raise ValueError("TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID go together: set both or neither")
    return Telegram(token=token, chat_id=chat, api=found.telegram_api)


def _email(found: Environment) -> AnyChannel | None:
    if found.smtp_host is None:
        return None
    if found.smtp_from is None or found.smtp_to is None:
        raise ValueError("SMTP_HOST needs SMTP_FROM and SMTP_TO (several addresses with commas between)")
    return Email(
        host=found.smtp_host,
        port=found.smtp_port,
        username=found.smtp_username,
        password=found.smtp_password,
        sender=found.smtp_from,
        to=tuple(address.strip() for address in found.smtp_to.split(",") if address.strip()),
        tls=found.smtp_tls,
    )
