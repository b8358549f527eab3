"""Backtest: what rules would have said of the roll-ups that `metrics` still holds."""

from __future__ import annotations

import time

import msgspec

from penstock.keys import METRICS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.schemas import Alert, MetricsWindow, Severity
from penstock.times import rfc3339, seconds_of
from penstock_services.alerts.engine import Engine
from penstock_services.alerts.input import entries, whole
from penstock_services.alerts.notify.grouping import RESOLVED, TRIGGERED
from penstock_services.alerts.rules.model import EventRule, Rules
from penstock_services.alerts.state.state import AlertState


class Episode(msgspec.Struct, frozen=True, kw_only=True):
    """One alert that people would have been told of. Times are RFC 3339; `until` is None if it fires still."""

    rule: str
    severity: Severity
    labels: dict[str, str]
    since: str
    until: str | None
    seconds: float
    reason: str
    flapping: bool


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `first` and `last` are the times looked at; `left_out` are rules on events."""

    windows: int
    first: str | None
    last: str | None
    alerts: list[Episode]
    left_out: list[str]


async def backtest(client: AsyncRedis, keys: Keys, rules: Rules, *, since: float | None, lateness: float) -> Backtest:
    """Run `rules` over the stored roll-ups of the last `since` seconds, or all of them; silences do not count.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    engine, state = Engine(rules, lateness=lateness), AlertState()
    after = "0-0" if since is None else f"{max(0, round((time.time() - since) * 1000))}-0"
    windows = 0
    first: str | None = None
    async for _, item in whole(entries(client, keys.stream(METRICS), after)):
        engine.fold(state, item)
        if isinstance(item, MetricsWindow):
            windows += 1
            first = first or item.start
    return Backtest(
        windows=windows,
        first=first,
        last=rfc3339(state.watermarks.now) if first else None,
        alerts=_episodes(state),
        left_out=[name for name, rule in rules.rules.items() if isinstance(rule, EventRule)],
    )


def _episodes(state: AlertState) -> list[Episode]:
    """Join each trigger with its resolve; one without fires still."""
    ended: dict[str, list[Alert]] = {}
    for kind, alert in state.outbox:
        if kind == RESOLVED:
            ended.setdefault(alert.fingerprint, []).append(alert)
    triggers = [alert for kind, alert in state.outbox if kind == TRIGGERED]
    return [_episode(alert, ended.get(alert.fingerprint, []), state.watermarks.now) for alert in triggers]


def _episode(alert: Alert, ends: list[Alert], now: float) -> Episode:
    until = ends.pop(0).resolved_at if ends else None
    return Episode(
        rule=alert.rule,
        severity=alert.severity,
        labels=alert.labels,
        since=alert.since,
        until=until,
        seconds=round((seconds_of(until) if until else now) - seconds_of(alert.since), 3),
        reason=alert.reason,
        flapping=alert.flapping,
    )
