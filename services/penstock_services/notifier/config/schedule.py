"""Times of people: who is on call when, and when it is to be quiet, by the clock on the wall of their time zone."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta
from typing import Any, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from penstock.config import Duration, Section

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24:00))")
_DAY = 86_400
_MOST_STRETCHES = 15  # of quiet that follow one another without a gap; longer than two weeks is off, not quiet


class Override(Section, frozen=True, kw_only=True):
    """From one time to another, local and without a zone, somebody else is on call."""

    begin: datetime = msgspec.field(name="from")
    end: datetime = msgspec.field(name="to")
    channel: str

    def __post_init__(self) -> None:
        _naive(self.begin, "from")
        _naive(self.end, "to")
        if self.end <= self.begin:
            raise ValueError("to must be later than from")


class OnCall(Section, frozen=True, kw_only=True):
    """Channels that take turns: the first from `starts` on, each for `every` (whole days), handed over at that hour."""

    rotation: tuple[str, ...]
    starts: datetime
    every: Duration = Duration(7 * _DAY)
    timezone: str = "UTC"
    overrides: tuple[Override, ...] = ()

    def __post_init__(self) -> None:
        _zone(self.timezone)
        _naive(self.starts, "starts")
        if not self.rotation:
            raise ValueError("rotation must name at least one channel")
        if self.every % _DAY or self.every < _DAY:
            raise ValueError("every: expected whole days, such as 1d or 7d")

    def on_duty(self, now: float) -> str:
        """Return the channel of whoever is on call at `now` (seconds since the epoch)."""
        local = datetime.fromtimestamp(now, _zone(self.timezone)).replace(tzinfo=None)
        for override in self.overrides:
            if override.begin <= local < override.end:
                return override.channel
        turn = (local - self.starts) // timedelta(seconds=float(self.every))
        return self.rotation[turn % len(self.rotation)]

    def without(self, names: frozenset[str]) -> Self | None:
        """Return the schedule without some channels, whose turns the others take; None if nobody is left."""
        left = tuple(name for name in self.rotation if name not in names)
        if not left:
            return None
        overrides = tuple(one for one in self.overrides if one.channel not in names)
        return msgspec.structs.replace(self, rotation=left, overrides=overrides)

    @property
    def channels(self) -> tuple[str, ...]:
        """All that may be on call."""
        return (*self.rotation, *(override.channel for override in self.overrides))


class Quiet(Section, frozen=True, kw_only=True):
    """Between `hours` (`22:00-07:00`, of the days they begin on) what is less grave than `below` waits for their end.

    `channels` are those it holds for; without them it holds for all but the console.
    """

    hours: str
    days: tuple[str, ...] = _DAYS
    timezone: str = "UTC"
    below: str = "critical"
    channels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _zone(self.timezone)
        if not _HOURS.fullmatch(self.hours):
            raise ValueError(f"hours: expected such as 22:00-07:00 or 00:00-24:00, got {self.hours!r}")
        for day in self.days:
            if day not in _DAYS:
                raise ValueError(f"days: there is no {day!r}; there are {', '.join(_DAYS)}")

    def without(self, names: frozenset[str]) -> Self | None:
        """Return the rule without some channels, None if it held for these alone."""
        left = tuple(name for name in self.channels if name not in names)
        return None if self.channels and not left else msgspec.structs.replace(self, channels=left)

    def end(self, now: float) -> float | None:
        """Return when the quiet that holds at `now` ends, None if it does not hold."""
        zone = _zone(self.timezone)
        local = datetime.fromtimestamp(now, zone).replace(tzinfo=None)
        for day in (local.date(), local.date() - timedelta(days=1)):
            begin, end = self._stretch(datetime.combine(day, time()))
            if _DAYS[day.weekday()] in self.days and begin <= local < end:
                return end.replace(tzinfo=zone).timestamp()
        return None

    def _stretch(self, midnight: datetime) -> tuple[datetime, datetime]:
        found = _HOURS.fullmatch(self.hours)
        assert found is not None
        begin = midnight + timedelta(hours=int(found[1]), minutes=int(found[2]))
        if found[5]:
            return begin, midnight + timedelta(days=1)
        end = midnight + timedelta(hours=int(found[3]), minutes=int(found[4]))
        return begin, end if end > begin else end + timedelta(days=1)


def quiet_for(rules: list[Quiet], now: float) -> float:
    """Return for how many seconds it is still to be quiet by any of these rules, one stretch joined to the next."""
    at = now
    for _ in range(_MOST_STRETCHES):
        ends = [end for rule in rules if (end := rule.end(at)) is not None and end > at]
        if not ends:
            break
        at = max(ends)
    return at - now


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"timezone: there is no {name!r}; expected such as Europe/Berlin or UTC") from None


def _naive(value: datetime, key: str) -> Any:
    if value.tzinfo is not None:
        raise ValueError(f"{key}: expected a local time without a zone, such as 2026-01-05T09:00:00")
