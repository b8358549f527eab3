"""Which alert goes to which channel, and what stands in for a channel that fails."""

from __future__ import annotations

from typing import get_args

import msgspec

from penstock.config import Section
from penstock.matchers import Matcher, all_match, impossible
from penstock.schemas import Alert, Severity

CONSOLE = "console"
CHANNEL_RULE = "notification-channel"
"""Rule of the alerts that the notifier raises about its own channels; label `channel` names the one."""
_SEVERITIES: tuple[str, ...] = get_args(Severity)


class Route(Section, frozen=True, kw_only=True):
    """Alerts of at least `min_severity` that meet every matcher go to `channels`; every such route sends.

    `rule` and `severity` can be matched like labels. `failover` lists the channels that stand in, one after the
    other, for one that fails for good.
    """

    channels: tuple[str, ...]
    min_severity: str = "info"
    match: tuple[Matcher, ...] = ()
    failover: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rank(self.min_severity)
        if not self.channels:
            raise ValueError("channels must name at least one channel")
        never = impossible(self.match, {"severity": _SEVERITIES[rank(self.min_severity) :]})
        if never is not None:
            raise ValueError(f"match: {never}")

    @property
    def substitutes(self) -> tuple[str, ...]:
        """The fail-over channels, in order."""
        return (self.failover,) if isinstance(self.failover, str) else self.failover

    def takes(self, alert: Alert) -> bool:
        """Whether an alert goes this way."""
        attributes = {**alert.labels, "rule": alert.rule, "severity": alert.severity}
        return rank(alert.severity) >= rank(self.min_severity) and all_match(self.match, attributes)


class Destination(msgspec.Struct, frozen=True):
    """A channel an alert goes to, and what stands in for it."""

    channel: str
    failover: tuple[str, ...] = ()


def destinations(
    alert: Alert, routes: tuple[Route, ...], channels: tuple[str, ...], failing: frozenset[str] = frozenset()
) -> list[Destination]:
    """Return where an alert goes: each channel once, with the substitutes of the first route that names it.

    The console gets everything. What is `failing` is passed over. Where that leaves nobody to tell of failing
    channels, the first of the others is told, and each of the rest stands in for the one before.
    """
    found: dict[str, tuple[str, ...]] = {}
    for route in routes:
        if route.takes(alert):
            for channel in route.channels:
                found.setdefault(channel, route.substitutes)
    found = {name: rest for name, rest in found.items() if name not in failing}
    if alert.rule == CHANNEL_RULE and not set(found) - {CONSOLE}:
        first, *rest = [name for name in channels if name != CONSOLE and name not in failing] or [CONSOLE]
        found[first] = tuple(rest)
    found.setdefault(CONSOLE, ())
    return [
        Destination(name, tuple(one for one in rest if one != name and one not in failing))
        for name, rest in found.items()
    ]


def rank(severity: str) -> int:
    """Return how grave a severity is, from 0 on.

    Raises:
        ValueError: there is no such severity; the message lists them.
    """
    try:
        return _SEVERITIES.index(severity.lower())
    except ValueError:
        raise ValueError(f"a severity is one of {', '.join(_SEVERITIES)}, not {severity!r}") from None
