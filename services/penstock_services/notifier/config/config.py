"""notify.yaml and the environment: channels, routes, the schedule of retries and templates, checked as a whole."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import msgspec

from penstock.config import NAME_RULE, Duration, did_you_mean, find_file, is_name
from penstock.errors import ConfigurationError
from penstock.schemas import Alert
from penstock.settings import Settings
from penstock_services.notifier.channels import AnyChannel, Apprise, Channel, Console
from penstock_services.notifier.config import notify_file
from penstock_services.notifier.config.environment import read_environment
from penstock_services.notifier.config.routing import CONSOLE, Destination, Route, destinations, rank
from penstock_services.notifier.config.schedule import OnCall, Quiet, quiet_for
from penstock_services.notifier.message.templates import Templates

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0  # seconds, beyond the schedule


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What the notifier works by: the file and the environment, joined."""

    channels: dict[str, AnyChannel]
    routes: tuple[Route, ...]
    retry: tuple[Duration, ...]
    templates: Templates
    allow_private: bool
    on_call: dict[str, OnCall] = {}
    quiet: tuple[Quiet, ...] = ()

    def destinations(self, alert: Alert, failing: frozenset[str] = frozenset()) -> list[Destination]:
        """Return where an alert goes now, but for channels that are `failing`."""
        now = time.time()
        routes = tuple(
            msgspec.structs.replace(
                route, channels=self.on_duty(route.channels, now), failover=self.on_duty(route.substitutes, now)
            )
            for route in self.routes
        )
        return destinations(alert, routes, tuple(self.channels), failing)

    def on_duty(self, names: Iterable[str], now: float) -> tuple[str, ...]:
        """Return channels for names: those on call for a name of a schedule, each once."""
        found = (self.on_call[name].on_duty(now) if name in self.on_call else name for name in names)
        return tuple(dict.fromkeys(found))

    def quiet_for(self, channel: str, severity: str, now: float) -> float:
        """Return for how many seconds from `now` on a channel is not to be disturbed by alerts of a severity."""
        rules = [
            rule
            for rule in self.quiet
            if rank(severity) < rank(rule.below) and (channel in rule.channels if rule.channels else channel != CONSOLE)
        ]
        return quiet_for(rules, now) if rules else 0.0

    def schedule(self, channel: Channel) -> tuple[float, ...]:
        """Return the seconds to wait after each of the first attempts; when they are used up it counts as failing."""
        return self.retry if channel.retry is None else channel.retry

    def pause(self, channel: Channel, attempt: int) -> float | None:
        """Return the seconds to wait after attempt number `attempt` has failed, None if it was the last.

        The schedule comes first; then each pause is twice the one before, up to five minutes. It was the last once
        all pauses together would be longer than the channel's `give_up_after`.
        """
        waits = self.schedule(channel)
        if attempt <= len(waits):
            return waits[attempt - 1]
        total, pause = sum(waits), waits[-1] if waits else _FIRST_PAUSE / 2
        longest = max(_LONGEST_PAUSE, pause)
        for _ in range(len(waits), attempt):
            pause = min(2 * pause, longest)
            total += pause
            if total > channel.give_up_after:
                return None
        return pause

    def without(self, off: frozenset[str]) -> Config:
        """Return the configuration without channels that are switched off: the others must work on."""
        on_call = {name: rest for name, one in self.on_call.items() if (rest := one.without(off)) is not None}
        off |= self.on_call.keys() - on_call.keys()
        return msgspec.structs.replace(
            self,
            routes=tuple(left for route in self.routes if (left := route.without(off)) is not None),
            on_call=on_call,
            quiet=tuple(quiet for rule in self.quiet if (quiet := rule.without(off)) is not None),
        )

    def may_be_private(self, channel: Channel) -> bool:
        """Whether a channel may connect to addresses that are not public."""
        return self.allow_private or channel.allow_private


def load(settings: Settings, environ: Mapping[str, str] | None = None) -> Config:
    """Read PENSTOCK_NOTIFY, else ./notify.yaml, else the one that ships with Penstock; add the environment's.

    Raises:
        ConfigurationError: the file or a variable is wrong; the message names the key and says what to do.
    """
    name, text = find_file(settings.notify, notify_file.FILE, "PENSTOCK_NOTIFY")
    console = Console(form="text" if settings.log_format == "console" else settings.log_format)
    return parse(text, name=name, console=console, allow_private=settings.allow_private_targets, environ=environ)


def parse(
    text: str,
    *,
    name: str = notify_file.FILE,
    console: Console | None = None,
    allow_private: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read a configuration from YAML text, calling it `name` in errors; `console` is the one that is always there.

    Raises:
        ConfigurationError: as for `load`.
    """
    file = notify_file.read(text, name, environ)
    given = read_environment(environ)
    off = given.off - file.channels.keys() - file.on_call.keys()
    config = Config(
        channels={CONSOLE: console or Console(), **given.channels, **file.channels},
        routes=(*file.routes, *_implied(given.routes, file.routes)),
        retry=file.retry,
        templates=file.templates,
        on_call=file.on_call,
        quiet=file.quiet,
        allow_private=allow_private,
    )
    problems = [*_clashes(file, given.channels), *_problems(config, off)]
    if problems:
        raise ConfigurationError("\n".join(f"{name}: {problem}" for problem in problems))
    return config.without(off)


def _implied(routes: dict[str, Route], written: tuple[Route, ...]) -> list[Route]:
    """Return the environment's own routes to channels that the file says nothing of."""
    named = {name for route in written for _, names in _names(route) for name in names}
    return [route for name, route in routes.items() if name not in named]


def _clashes(file: notify_file.NotifyFile, given: dict[str, AnyChannel]) -> list[str]:
    return [
        f"channels.{name}: the environment sets up a channel of this name; call yours otherwise, or unset its variables"
        for name in file.channels
        if name in given
    ]


def _problems(config: Config, off: frozenset[str]) -> list[str]:
    problems = [f"channels.{name}: {NAME_RULE}" for name in config.channels if not is_name(name)]
    if not isinstance(config.channels[CONSOLE], Console):
        problems.append(f"channels.{CONSOLE}: this name belongs to the channel of type console")
    for name, channel in config.channels.items():
        if isinstance(channel, Apprise) and not config.may_be_private(channel):
            problems.append(
                f"channels.{name}: apprise makes its own connections, so their addresses cannot be checked; "
                "say allow_private: true if that is all right"
            )
    channels = {*config.channels, *off}
    known = {*channels, *config.on_call}
    for index, route in enumerate(config.routes):
        problems += _unknown(f"routes[{index}].", _names(route), known)
    for name, schedule in config.on_call.items():
        if name in config.channels:
            problems.append(f"on_call.{name}: a channel has this name; call the schedule otherwise")
        problems += _unknown(f"on_call.{name}.", [("rotation, overrides", schedule.channels)], channels)
    for index, rule in enumerate(config.quiet):
        try:
            rank(rule.below)
        except ValueError as error:
            problems.append(f"quiet[{index}].below: {error}")
        problems += _unknown(f"quiet[{index}].", [("channels", rule.channels)], channels)
    return problems


def _names(route: Route) -> list[tuple[str, tuple[str, ...]]]:
    """Return the channels and schedules that a route names, by key."""
    steps = [("then", step.channels) for step in route.then]
    return [("channels", route.channels), ("failover", route.substitutes), *steps]


def _unknown(where: str, given: Iterable[tuple[str, tuple[str, ...]]], known: set[str]) -> list[str]:
    return [
        f"{where}{key}: there is no channel {name}; {did_you_mean(name, known)}"
        for key, names in given
        for name in names
        if name not in known
    ]
