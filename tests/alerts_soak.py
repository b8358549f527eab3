"""Hours of random incidents in simulated time, and a model of what each channel must be told of them.

The alert manager's engine is real, and so is the notifier, on a real Redis; clock and channels are not. The model of
what people must be told is in alerts_model.py, that of what must reach them in deliveries_model.py: they share no code
with what they check.
"""

from __future__ import annotations

import random
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
from tests.alerts_model import ENDPOINTS, GROUPS, Model, RuleUnderTest, first_rules, text_of
from tests.deliveries_model import DeliveriesModel
from tests.simulation import FAILURES, Clock, Endpoint, SimulatedNotifier

_OUTAGES = {3.0: 4, 20.0: 4, 90.0: 4, 600.0: 4, 3_600.0: 2, 9_000.0: 1, 21_600.0: 1}
"""Seconds that an outage of a channel lasts, and how often."""
_SEVERITIES = ("info", "warning", "critical")


class Soak:
    """One run: `hours` of simulated time from a seed, and what it takes until all is well again."""

    def __init__(self, redis: Any, *, hours: float, seed: int) -> None:
        self._chance = random.Random(seed)
        self._redis = redis
        self._model = Model()
        self._mesh = Mesh(text_of(self._model.rules))
        self._clock = Clock(self._mesh.now)
        self._endpoints = {name: Endpoint(self._clock) for name in ENDPOINTS}
        self._healed: dict[str, float] = {}
        self._deliveries = DeliveriesModel(self._clock, self._endpoints, self._model.channels.names)
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
        self._model.channels.names.update({name: name for name in ENDPOINTS})
        self._use_channels()
        for name in self._endpoints:
            self._heal(name)
        self._values = dict.fromkeys(GROUPS, 0.0)
        for group in GROUPS:
            await self._event("broken.over", group)
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
        return parse(self._model.channels.yaml(), environ={})

    def _use_channels(self) -> None:
        """Go on with notify.yaml as it is now."""
        self._notifier.use(self._config())

    def _edit_channels(self) -> None:
        """Let somebody add, remove or rename a channel, or let the team be told of another group."""
        channels = self._model.channels
        endpoint = self._chance.choice([name for name in ENDPOINTS if name != "backup"])
        names = {None, endpoint, f"{endpoint}-2"} - {channels.names[endpoint]}
        if self._chance.random() < 0.3:
            channels.team = self._chance.choice(GROUPS)
            self._count("other routes")
        else:
            before, after = channels.names[endpoint], self._chance.choice(sorted(names, key=str))
            channels.names[endpoint] = after
            self._count("channel " + ("added" if before is None else "removed" if after is None else "renamed"))
        self._use_channels()
        if self._endpoints[endpoint].health == "up":
            self._try(endpoint)

    def _disturb_channels(self) -> None:
        """Let a channel fail, or work again when its time has come."""
        for name, until in [*self._healed.items()]:
            if until <= self._mesh.now:
                self._heal(name)
        name = self._chance.choice(ENDPOINTS)
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
        self._try(name)

    def _try(self, endpoint: str) -> None:
        name = self._model.channels.names[endpoint]
        if name is not None:
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
        elif chance < 0.06:
            self._edit_channels()
        await self._send_events()

    async def _send_events(self) -> None:
        """Let events come that should not be, now and then several at once, and some that tell that it is over."""
        group = self._chance.choice(GROUPS)
        if self._chance.random() < 0.05:
            for _ in range(self._chance.choice([1, 2, 3, 4])):
                await self._event("failed", group)
        elif self._chance.random() < 0.02:
            await self._event(self._chance.choice(["broken", "broken.over"]), group)

    async def _event(self, name: str, group: str) -> None:
        self._mesh.event(name, {"group": group})
        self._count("event")
        await self._compare(self._model.event(self._mesh.now, name, group))

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
