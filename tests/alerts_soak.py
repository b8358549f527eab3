"""Hours of random incidents in simulated time, and a model of what each channel must be told of them.

The alert manager's engine is real, and so is the notifier, on a real Redis; clock and channels are not. The model of
what people must be told keeps whole histories and goes back over them for each window, and the model of what must reach
them is in deliveries_model.py: they share no code with what they check.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from penstock.keys import ALERTS, NOTIFICATIONS
from penstock.mesh.deliveries import DUE, TEST
from penstock.schemas import Alert, ChannelTest, DeliveryAttempt, Notification, Series
from penstock.testing import Emitted
from penstock.times import rfc3339
from penstock_services.notifier.config.config import Config, parse
from penstock_services.notifier.config.routing import CHANNEL_RULE
from tests.alerting import Mesh, gauge
from tests.deliveries_model import DeliveriesModel
from tests.simulation import FAILURES, Clock, Endpoint, SimulatedNotifier

GROUPS = "abcdefgh"
NAMES = ("all", "pager", "team", "backup")
_OUTAGES = {3.0: 4, 20.0: 4, 90.0: 4, 600.0: 4, 3_600.0: 2, 9_000.0: 1, 21_600.0: 1}
"""Seconds that an outage of a channel lasts, and how often."""
_MISSING, _JOINED = 60.0, 300.0
_SEVERITIES = ("info", "warning", "critical")


class RuleUnderTest(msgspec.Struct, kw_only=True):
    """A rule, as the model sees it and as alerts.yaml has it."""

    above: float
    clear: float
    hold: float = 0.0
    keep: float = 0.0
    severity: str = "warning"
    repeat: float = 3_600.0
    excluded: str = ""
    by_group: bool = False
    as_one: bool = False
    flap: tuple[int, float, float] = (100, 1.0, 1.0)

    def yaml(self, name: str) -> str:
        """Return it as a part of alerts.yaml."""
        lines = [
            f"  {name}:",
            *("    kind: threshold", "    series: lag_age"),
            "    flap: {{triggers: {}, within: {:g}s, calm: {:g}s}}".format(*self.flap),
            *(f"    {key}: {value}" for key, value in (("above", self.above), ("clear", self.clear))),
            *(f"    {key}: {value:g}s" for key, value in (("for", self.hold), ("keep_firing", self.keep))),
            *(f"    severity: {self.severity}", f"    repeat: {self.repeat:g}s"),
            *([f"    where: ['group!={self.excluded}']"] if self.excluded else []),
            *(["    by: [group]"] if self.by_group else []),
            *(["    group_by: []"] if self.as_one else []),
        ]
        return "\n".join(lines)


def first_rules() -> dict[str, RuleUnderTest]:
    """Return the rules that a soak begins with."""
    return {
        "lag": RuleUnderTest(above=30, clear=10, flap=(3, 1_200.0, 300.0)),
        "stuck": RuleUnderTest(above=300, clear=30, hold=20, keep=30, severity="critical"),
        "pool": RuleUnderTest(above=60, clear=60, as_one=True, repeat=1_800),
    }


def text_of(rules: dict[str, RuleUnderTest]) -> str:
    """Return alerts.yaml."""
    return "rules:\n" + "\n".join(rule.yaml(name) for name, rule in rules.items()) if rules else "rules: {}"


def channels_text(team: str) -> str:
    """Return notify.yaml; `team` is the group whose alerts the team is told of."""
    channels = ", ".join(f"{name}: {{type: webhook, url: 'https://{name}.example.com/'}}" for name in NAMES)
    return f"""
channels: {{{channels}}}
routes:
  - {{channels: [all]}}
  - {{channels: [pager], min_severity: critical, failover: backup}}
  - {{channels: [team], match: [group={team}]}}
"""


class _Told(msgspec.Struct):
    known: set[str]
    last: float
    severity: str
    acknowledged: bool = False
    channels: set[str] = set()


class Model:
    """What must be told to whom, from the values alone."""

    def __init__(self) -> None:
        self.rules = first_rules()
        self.silenced: dict[str, float] = {}
        self.team = "a"
        self._fired: dict[tuple[str, str], list[float]] = {}
        self._flapping: set[tuple[str, str]] = set()
        self._history: dict[tuple[str, str], list[tuple[float, str]]] = {}
        self._firing: set[tuple[str, str]] = set()
        self._told: dict[tuple[str, str], _Told] = {}
        self._said: set[tuple[str, str]] = set()
        self._taken_back: set[tuple[str, str]] = set()

    @property
    def firing(self) -> list[tuple[str, str]]:
        """Rule and group of what fires."""
        return sorted(self._firing)

    def window(self, now: float, values: dict[str, float]) -> list[tuple[str, str, str, str]]:
        """Return what must be told at the end of a window: channel, kind, rule and group ("" for all as one)."""
        for name, rule in self.rules.items():
            for group in GROUPS:
                if group != rule.excluded:
                    self._evaluate(name, rule, group, now, values.get(group))
        return sorted(self._notify(now))

    def edit(self, now: float, rules: dict[str, RuleUnderTest]) -> list[tuple[str, str, str, str]]:
        """Return what must be told because the rules are others now."""
        for name, group in [*self._history]:
            before, after = self.rules.get(name), rules.get(name)
            if after is None or before is None or before.by_group != after.by_group or after.excluded == group:
                del self._history[name, group]
                self._fired.pop((name, group), None)
                self._end(name, group)
        self.rules = rules
        return sorted(self._notify(now))

    def acknowledge(self, name: str, group: str) -> None:
        """Somebody takes an alert on."""
        self._said.add((name, group))
        self._taken_back.discard((name, group))

    def withdraw(self, name: str, group: str) -> None:
        """Somebody gives an alert back that was taken on, or was not."""
        self._taken_back.add((name, group))
        self._said.discard((name, group))

    def _evaluate(self, name: str, rule: RuleUnderTest, group: str, now: float, value: float | None) -> None:
        history = self._history.setdefault((name, group), [])
        history.append((now, _level(rule, value)))
        if (name, group) in self._firing:
            well = _trailing(history, {"good", "missing"})
            keep = max(rule.keep, _MISSING) if history[-1][1] == "missing" else rule.keep
            keep = max(keep, rule.flap[2]) if (name, group) in self._flapping else keep
            if well is not None and now - well >= keep:
                self._end(name, group)
                history.clear()
        elif history[-1][1] == "bad" and now - _begun(history) >= rule.hold:
            self._begin(name, group, rule, now)

    def _begin(self, name: str, group: str, rule: RuleUnderTest, now: float) -> None:
        self._firing.add((name, group))
        fired = self._fired.setdefault((name, group), [])
        fired.append(now)
        most, within, _ = rule.flap
        if sum(now - at < within for at in fired) >= most:
            self._flapping.add((name, group))

    def _end(self, name: str, group: str) -> None:
        self._firing.discard((name, group))
        self._flapping.discard((name, group))

    def _notify(self, now: float) -> Iterator[tuple[str, str, str, str]]:
        groups: dict[tuple[str, str], set[str]] = {}
        for name, group in self._firing:
            groups.setdefault((name, "" if self.rules[name].as_one else group), set()).add(group)
        self._said &= self._firing
        self._taken_back &= self._firing
        for key in [*self._told]:
            if key not in groups:
                yield from self._send("resolved", key, self._told.pop(key))
        for key, members in groups.items():
            yield from self._notify_group(key, members, now)

    def _notify_group(self, key: tuple[str, str], members: set[str], now: float) -> Iterator[tuple[str, str, str, str]]:
        rule, told = self.rules[key[0]], self._told.get(key)
        audible = {group for group in members if self.silenced.get(group, 0.0) <= now}
        if told:
            told.known &= members
            if told.severity != rule.severity:
                self._said -= {(key[0], group) for group in members}
                self._taken_back -= {(key[0], group) for group in members}
                told.acknowledged = told.acknowledged and not audible
        said = any((key[0], group) in self._said for group in members)
        taken_back = any((key[0], group) in self._taken_back for group in members)
        if audible and told is None:
            told = self._told[key] = _Told(known=set(audible), last=now, severity=rule.severity)
            yield from self._send("triggered", key, told)
        elif audible and told and self._is_due(rule, told, audible, said or taken_back, now):
            told.known |= audible
            told.last, told.severity = now, rule.severity
            yield from self._send("repeated", key, told)
        if said and told:
            self._said -= {(key[0], group) for group in members}
            if not told.acknowledged:
                told.acknowledged = True
                yield from self._send("acknowledged", key, told)
        if taken_back:
            self._taken_back -= {(key[0], group) for group in members}
            if told and told.acknowledged:
                told.acknowledged, told.last = False, now
                yield from self._send("unacknowledged", key, told)

    def _is_due(self, rule: RuleUnderTest, told: _Told, audible: set[str], said: bool, now: float) -> bool:
        if told.severity != rule.severity:
            return True
        if audible - told.known:
            return now - told.last >= _JOINED
        return not (said or told.acknowledged) and now - told.last >= rule.repeat

    def _send(self, kind: str, key: tuple[str, str], told: _Told) -> Iterator[tuple[str, str, str, str]]:
        """Yield who is told: of a beginning those it concerns, of all that follows who was told of that.

        What is given back concerns those whom it would if it began, too.
        """
        if kind in ("triggered", "repeated", "unacknowledged") and not told.acknowledged:
            now_told = {"all", "console"}
            now_told |= {"pager"} if told.severity == "critical" else set()
            now_told |= {"team"} if key[1] == self.team else set()
            told.channels = told.channels | now_told
        if kind not in ("triggered", "repeated") or told.acknowledged:
            now_told = told.channels
        return ((channel, kind, *key) for channel in now_told)


def _level(rule: RuleUnderTest, value: float | None) -> str:
    if value is None:
        return "missing"
    return "bad" if value > rule.above else "between" if value > rule.clear else "good"


def _trailing(history: list[tuple[float, str]], levels: set[str]) -> float | None:
    """Return since when the levels at the end have all been among these."""
    since = None
    for time, level in reversed(history):
        if level not in levels:
            break
        since = time
    return since


def _begun(history: list[tuple[float, str]]) -> float:
    """Return since when it is bad without a break; a hole shorter than a minute is none."""
    since = hole_end = history[-1][0]
    hole = False
    for time, level in reversed(history):
        if level == "bad":
            since, hole = time, False
        elif level == "missing":
            hole_end = hole_end if hole else time
            hole = True
            if hole_end - time >= _MISSING:
                break
        else:
            break
    return since


class Soak:
    """One run: `hours` of simulated time from a seed, and what it takes until all is well again."""

    def __init__(self, redis: Any, *, hours: float, seed: int) -> None:
        self._chance = random.Random(seed)
        self._redis = redis
        self._model = Model()
        self._mesh = Mesh(text_of(self._model.rules))
        self._clock = Clock(self._mesh.now)
        self._endpoints = {name: Endpoint(self._clock) for name in NAMES}
        self._healed: dict[str, float] = {}
        self._deliveries = DeliveriesModel(self._clock, self._endpoints)
        at = {f"https://{name}.example.com/": endpoint for name, endpoint in self._endpoints.items()}
        self._notifier = SimulatedNotifier(redis, self._config(), self._clock, at)
        self._notifier.on_published = self._published
        self._notifier.dies = self._dies
        self._told: list[tuple[str, str, str, str]] = []
        self._windows = round(hours * 360)
        self._values = dict.fromkeys(GROUPS, 0.0)
        self._until = dict.fromkeys(GROUPS, 0.0)
        self.counts: dict[str, int] = self._deliveries.counts

    async def run(self) -> None:
        """Run it.

        Raises:
            AssertionError: somebody was told what the models do not say, or not what they do.
        """
        with self._notifier.simulated():
            for _ in range(self._windows):
                self._move()
                await self._disturb()
                await self._window()
            await self._end_well()

    async def _window(self) -> None:
        values = {group: value for group, value in self._values.items() if value >= 0}
        self._mesh.window(*map(_series, values, values.values()), scope="mesh")
        self._mesh.tick()
        await self._notifier.run(self._mesh.now)
        await self._compare(self._model.window(self._mesh.now, values))
        self._deliveries.check()

    async def _end_well(self) -> None:
        """Let every channel work, somebody see to that, and everything become calm."""
        for name in self._endpoints:
            self._heal(name)
        self._values = dict.fromkeys(GROUPS, 0.0)
        while self._mesh.states.keys() - {key for key, state in self._mesh.states.items() if state != "firing"}:
            await self._window()
        while not self._notifier.idle:
            await self._window()
        self._deliveries.finish()
        assert self._notifier.dead == []
        assert await self._redis.llen("state:notifier:undelivered") == self.counts.get("given up", 0)
        assert not await self._redis.exists("state:notifier:late", "state:notifier:failing")

    def _move(self) -> None:
        """Let each group be calm, slow, stuck, gone or flapping for a while."""
        for group in GROUPS:
            if self._until[group] <= self._mesh.now:
                self._values[group] = self._chance.choice([0, 0, 0, 5, 20, 40, 40, 80, 350, 900, -1])
                self._until[group] = self._mesh.now + self._chance.choice([10, 20, 50, 60, 70, 300, 900, 3_000])

    def _config(self) -> Config:
        return parse(channels_text(self._model.team), environ={})

    def _disturb_channels(self) -> None:
        """Let a channel fail, or work again when its time has come."""
        for name, until in [*self._healed.items()]:
            if until <= self._mesh.now:
                self._heal(name)
        name = self._chance.choice(NAMES)
        if name not in self._healed and self._chance.random() < 0.02:
            health = self._chance.choice(FAILURES)
            self._endpoints[name].become(health, retry_after=self._chance.choice([0, 1, 30, 290, 3_600]))
            (seconds,) = self._chance.choices([*_OUTAGES], [*_OUTAGES.values()])
            self._healed[name] = self._mesh.now + seconds
            self._count(health)

    def _heal(self, name: str) -> None:
        """A channel works again; somebody sees to it that it is used, too."""
        self._healed.pop(name, None)
        self._endpoints[name].become("up")
        self._notifier.publish(NOTIFICATIONS, TEST, ChannelTest(channel=name))

    async def _disturb(self) -> None:
        self._disturb_channels()
        chance = self._chance.random()
        if chance < 0.01:
            self._mesh.restart()
            self._count("restart")
        elif chance < 0.015:
            await self._edit()
        elif chance < 0.025:
            group, seconds = self._chance.choice(GROUPS), self._chance.choice([60, 600, 3_600])
            self._mesh.silence(f"group={group}", seconds=seconds)
            until = max(self._model.silenced.get(group, 0.0), self._mesh.now + seconds)
            self._model.silenced[group] = until
            self._count("silence")
        elif chance < 0.05 and self._model.firing:
            self._acknowledge(*self._chance.choice(self._model.firing), withdrawn=chance > 0.04)
        elif chance < 0.055:
            self._model.team = self._chance.choice(GROUPS)
            self._notifier.use(self._config())
            self._count("other routes")

    def _acknowledge(self, rule: str, group: str, *, withdrawn: bool) -> None:
        (key,) = [
            key
            for key, record in self._mesh.state.alerts.items()
            if (record.rule, record.labels["group"], record.state) == (rule, group, "firing")
        ]
        self._mesh.acknowledge(key, withdrawn=withdrawn)
        if withdrawn:
            self._model.withdraw(rule, group)
        else:
            self._model.acknowledge(rule, group)
        self._count("withdrawal" if withdrawn else "acknowledgement")

    async def _edit(self) -> None:
        rules = msgspec.json.decode(msgspec.json.encode(self._model.rules), type=dict[str, RuleUnderTest])
        name = self._chance.choice(list(first_rules()))
        rule = rules.get(name)
        if rule is None:
            rules[name] = first_rules()[name]
        else:
            match self._chance.choice(["remove", "above", "severity", "where", "by", "repeat"]):
                case "remove":
                    del rules[name]
                case "above":
                    rule.above = max(rule.clear, self._chance.choice([15, 30, 60, 300]))
                case "severity":
                    rule.severity = self._chance.choice(_SEVERITIES)
                case "where":
                    rule.excluded = self._chance.choice(["", *GROUPS])
                case "by":
                    rule.by_group = not rule.by_group
                case "repeat":
                    rule.repeat = self._chance.choice([600, 1_800, 3_600])
        self._mesh.use(text_of(rules))
        self._count("edit")
        await self._compare(self._model.edit(self._mesh.now, rules))

    def _published(self, event_type: str, data: bytes, made: Emitted) -> None:
        """Show the models what a handler led to."""
        if made.stream == ALERTS:
            self._deliveries.changed(msgspec.json.decode(made.event.data, type=Alert))
        elif made.type == DUE:
            notification = msgspec.json.decode(made.event.data, type=Notification)
            alert, routed = notification.alert, event_type.startswith("alert.")
            self._deliveries.due(made.event.id, notification, routed=routed)
            # What the substitute is told, and what of channels, follows from deliveries.
            if routed and notification.channel != "backup" and alert.rule != CHANNEL_RULE:
                group = alert.labels.get("group", "")
                self._told.append((notification.channel, event_type.removeprefix("alert."), alert.rule, group))
        elif made.type.startswith("delivery."):
            self._deliveries.recorded(msgspec.json.decode(made.event.data, type=DeliveryAttempt))

    async def _compare(self, expected: list[tuple[str, str, str, str]]) -> None:
        self._told.clear()
        for kind, alert in self._mesh.state.outbox:
            self._deliveries.changed(alert)
            self._notifier.publish(ALERTS, kind, alert)
            self._count(kind)
        await self._notifier.run(self._mesh.now)
        history = [(entry.what, entry.rule, entry.labels, entry.why) for entry in self._mesh.state.history]
        self._mesh.state.outbox.clear()
        self._mesh.state.history.clear()
        if sorted(self._told) != expected:
            missing, more = set(expected) - set(self._told), set(self._told) - set(expected)
            raise AssertionError(f"at {rfc3339(self._mesh.now)}: not told {missing}, told {more}; {history}")

    def _dies(self, stream: str) -> bool:
        died = stream == NOTIFICATIONS and self._chance.random() < 0.01
        self._deliveries.handled(died=died)
        return died

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _series(group: str, value: float) -> Series:
    return gauge("lag_age", value, stream="s", group=group)
