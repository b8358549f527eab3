"""Which alert goes to which channel, and what stands in for a channel that fails."""

from __future__ import annotations

import re
from typing import Self, get_args

import msgspec

from penstock.config import Duration, Section
from penstock.matchers import Matcher, all_match, impossible
from penstock.schemas import Alert, Severity

CONSOLE = "console"
CHANNEL_RULE = "notification-channel"
"""Rule of the alerts that the notifier raises about its own channels; label `channel` names the one."""
DIGEST_RULE = "digest"
"""Rule of the alerts that are others, gathered."""
_SEVERITIES: tuple[str, ...] = get_args(Severity)
_STEP = re.compile(r"\[?([^\[\]]+?)\]?\s+after\s+(\S+)(?:\s+unless\s+acknowledged)?")


class Step(str):
    """A step of an escalation: `pager after 10m unless acknowledged`, or several channels with commas between."""

    __slots__ = ("after", "channels")
    channels: tuple[str, ...]
    after: Duration

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a step.

        Raises:
            ValueError: it has not that form.
        """
        found = _STEP.fullmatch(value.strip()) if isinstance(value, str) else None
        names = tuple(name.strip() for name in found[1].split(",")) if found else ()
        if found is None or not all(names):
            form = "'[pager, mail] after 10m unless acknowledged'"
            raise ValueError(f"expected such as {form}, one text in quotes for each step; got {value!r}")
        step = cls(value)
        step.channels = names
        step.after = Duration.parse(found[2])
        return step

    def without(self, names: frozenset[str]) -> Step | None:
        """Return the step without some channels, None if nobody is left."""
        left = tuple(name for name in self.channels if name not in names)
        if left == self.channels:
            return self
        return Step.parse(f"{', '.join(left)} after {self.after:g}s") if left else None


class Steps(tuple[Step, ...]):
    """Steps of an escalation, written as one or as a list of them."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read steps.

        Raises:
            ValueError: one of them has not the form of a step.
        """
        return cls(Step.parse(one) for one in (value if isinstance(value, list) else [value]))


class Route(Section, frozen=True, kw_only=True):
    """Alerts of at least `min_severity` that meet every matcher go to `channels`; every such route sends.

    `rule` and `severity` can be matched like labels. `failover` lists the channels that stand in, one after the
    other, for one that fails. `then` lists who is told when nobody has acknowledged it. With `batch` alerts are
    gathered, and told in one message each time so long is over.
    """

    channels: tuple[str, ...]
    min_severity: str = "info"
    match: tuple[Matcher, ...] = ()
    failover: str | tuple[str, ...] = ()
    then: Steps = Steps()
    batch: Duration | None = None

    def __post_init__(self) -> None:
        rank(self.min_severity)
        if not self.channels:
            raise ValueError("channels must name at least one channel")
        if self.batch is not None and self.then:
            raise ValueError("batch and then do not go together: what can wait is not escalated")
        never = impossible(self.match, {"severity": _SEVERITIES[rank(self.min_severity) :]})
        if never is not None:
            raise ValueError(f"match: {never}")

    @property
    def substitutes(self) -> tuple[str, ...]:
        """The fail-over channels, in order."""
        return (self.failover,) if isinstance(self.failover, str) else self.failover

    def without(self, names: frozenset[str]) -> Self | None:
        """Return the route without some channels, None if nobody is left."""
        left = tuple(name for name in self.channels if name not in names)
        if not left:
            return None
        rest = tuple(name for name in self.substitutes if name not in names)
        then = Steps(one for step in self.then if (one := step.without(names)) is not None)
        return msgspec.structs.replace(self, channels=left, failover=rest, then=then)

    def takes(self, alert: Alert) -> bool:
        """Whether an alert goes this way."""
        attributes = {**alert.labels, "rule": alert.rule, "severity": alert.severity}
        return rank(alert.severity) >= rank(self.min_severity) and all_match(self.match, attributes)


class Destination(msgspec.Struct, frozen=True):
    """A channel an alert goes to, and what stands in for it."""

    channel: str
    failover: tuple[str, ...] = ()
    batch: float | None = None


def destinations(
    alert: Alert, routes: tuple[Route, ...], channels: tuple[str, ...], failing: frozenset[str] = frozenset()
) -> list[Destination]:
    """Return where an alert goes: each channel once, with the substitutes of the first route that names it.

    The console gets everything. What is `failing` is passed over. Where that leaves nobody to tell of failing
    channels, the first of the others is told, and each of the rest stands in for the one before.
    """
    found: dict[str, tuple[str, ...]] = {}
    gathered: dict[str, float] = {}
    for route in sorted((route for route in routes if route.takes(alert)), key=lambda route: route.batch or 0.0):
        for channel in route.channels:
            if channel not in found and route.batch is not None and alert.rule not in (CHANNEL_RULE, DIGEST_RULE):
                gathered[channel] = route.batch
            found.setdefault(channel, route.substitutes)
    found = {name: rest for name, rest in found.items() if name not in failing}
    if alert.rule == CHANNEL_RULE and not set(found) - {CONSOLE}:
        first, *rest = [name for name in channels if name != CONSOLE and name not in failing] or [CONSOLE]
        found[first] = tuple(rest)
    found.setdefault(CONSOLE, ())
    return [
        Destination(name, tuple(one for one in rest if one != name and one not in failing), gathered.get(name))
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
