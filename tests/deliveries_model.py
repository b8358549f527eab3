"""What each channel must have been told, from what was published, and from when the channel could be reached.

Nothing untrue; every change once; who was told of a beginning is told of its end; and whatever is still owed to a
channel that can be reached again arrives before long.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec

from penstock.schemas import Alert, DeliveryAttempt, Notification
from penstock_services.notifier.config.routing import CHANNEL_RULE
from tests.simulation import Clock, Endpoint, Request, alert_in

_AT_ONCE = 30.0  # seconds in which a channel that works is told
_PAUSE = 300.0  # the longest between two attempts, and the longest Retry-After that is obeyed
_PATIENCE = 300.0 + _AT_ONCE  # seconds after which the substitute must have been called
_GIVEN_UP = 3.5 * 3_600  # the pauses of a channel add up to four hours
_Episode = tuple[str, str]  # fingerprint and since


class _Owed(msgspec.Struct):
    """The newest change that a channel, called `name`, is to be told of; `before` is the one whose place it took."""

    name: str
    alert: Alert
    order: str
    at: float
    failover: list[str]
    before: Alert | None = None
    told: bool = False


class _Message(msgspec.Struct):
    """One message as a channel got it: how often, and how many of its confirmations were lost."""

    alert: Alert
    name: str
    copies: int = 0
    lost: int = 0
    at: float = 0.0


class _Channel:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.owed: dict[str, _Owed] = {}
        self.changes: dict[_Episode, dict[str, str]] = {}
        self.ends: dict[_Episode, Alert] = {}
        self.messages: dict[str, _Message] = {}
        self.last: dict[str, dict[str, _Episode]] = {}  # by fingerprint, and the channel's name by then
        self.names: dict[_Episode, set[str]] = {}
        self.sent: dict[_Episode, int] = {}
        self.excused: set[_Episode] = set()
        self.gone = False
        self.not_before = 0.0

    def told(self, episode: _Episode) -> list[_Message]:
        return [one for one in self.messages.values() if _episode(one.alert) == episode]

    def reachable_since(self) -> float | None:
        return self.endpoint.since if self.endpoint.health == "up" and not self.gone else None


class DeliveriesModel:
    """Sees what is published and what arrives, and complains with an AssertionError.

    `names` is what notify.yaml calls each endpoint now, None where there is no channel.
    """

    def __init__(self, clock: Clock, endpoints: Mapping[str, Endpoint], names: Mapping[str, str | None]) -> None:
        self._clock = clock
        self._names = names
        self._channels = {name: _Channel(endpoint) for name, endpoint in endpoints.items()}
        self._newest: dict[str, Alert] = {}
        self._trouble_ended = 0.0
        self._failed: dict[str, float] = {}
        self._begun: dict[str, tuple[Alert, float]] = {}
        self._said_now: list[_Channel] = []
        self.counts: dict[str, int] = {}
        for name, endpoint in endpoints.items():
            endpoint.on_request = functools.partial(self.requested, name)

    def changed(self, alert: Alert) -> None:
        """A change of an alert was handled: from now on it is what is true."""
        before = self._newest.get(alert.fingerprint)
        self._newest[alert.fingerprint] = alert
        if alert.rule == CHANNEL_RULE and alert.status == "firing" and (before is None or before.status == "resolved"):
            self._count("trouble")
        if alert.rule == CHANNEL_RULE and alert.status == "resolved":
            self._trouble_ended = self._clock.time()
        for endpoint, channel in self._channels.items() if alert.status == "resolved" else ():
            if self._names[endpoint] not in channel.names.get(_episode(alert), ()):
                channel.excused.add(_episode(alert))  # there is none of that name to be told

    def due(self, delivery: str, notification: Notification, *, routed: bool) -> None:
        """A channel is to be told of a change: of one that was just published, where it is `routed`."""
        self._begun[delivery] = (notification.alert, self._clock.time())
        channel, alert = self._channel(notification.channel), notification.alert
        if channel is None or (alert.status == "firing" and not self._is_open(alert)):
            return
        channel.changes.setdefault(_episode(alert), {})[notification.order] = alert.status
        channel.names.setdefault(_episode(alert), set()).add(notification.channel)
        if alert.status == "resolved":
            channel.ends[_episode(alert)] = alert
            told = channel.told(_episode(alert))
            if told and notification.channel not in {one.name for one in told}:
                channel.excused.add(_episode(alert))  # under this name it began nothing, and gives way to what comes
        before = channel.owed.get(alert.fingerprint)
        if before is None or routed or before.order < notification.order:
            channel.owed[alert.fingerprint] = _Owed(
                name=notification.channel,
                alert=alert,
                order=notification.order,
                at=self._clock.time(),
                failover=notification.failover,
                before=before.alert if before else None,
            )

    def requested(self, name: str, request: Request, taken: bool) -> None:
        """Something came to a channel."""
        channel, now = self._channels[name], self._clock.time()
        body = request.json
        if body["type"] == "alert.test":
            channel.gone = channel.gone and not taken
            return
        key, alert = request.headers["webhook-id"], alert_in(body["data"])
        what = f"{name}, {body['type']} {alert.rule} {alert.labels} of {alert.since}"
        assert not channel.gone, f"{what}: it said that it is gone"
        assert now >= channel.not_before, f"{what}: it asked to be left alone until {channel.not_before}"
        match channel.endpoint.health:
            case "busy":
                channel.not_before = now + min(channel.endpoint.retry_after, _PAUSE)
            case "gone":
                channel.gone = True
                self._said_now.append(channel)
        if taken:
            self._check_message(channel, alert, what)
            self._take(channel, key, alert, what)

    def handled(self, *, died: bool) -> None:
        """An event was handled, and committed if the process has not `died`: if so, nobody knows what it was told."""
        for channel in self._said_now if died else ():
            channel.gone = False
        self._said_now.clear()

    def _check_message(self, channel: _Channel, alert: Alert, what: str) -> None:
        if alert.status == "firing":
            # the notifier's own alert may have ended, with the event that says so not handled yet
            just_ended = alert.rule == CHANNEL_RULE and self._trouble_ended == self._clock.time()
            assert self._is_open(alert) or just_ended, f"{what}: told that it fires, when it was over"
        else:
            assert not self._is_open(alert), f"{what}: told that it is over, when it was firing"
        owed = channel.owed.get(alert.fingerprint)
        assert owed, f"{what}: it does not concern this channel"
        allowed = [owed.alert, *map(channel.ends.get, channel.last.get(alert.fingerprint, {}).values())]
        if owed.at == self._clock.time():
            allowed.append(owed.before)
        assert alert in allowed, f"{what}: neither the newest change, {owed.alert}, nor the end of what was told last"

    def _take(self, channel: _Channel, key: str, alert: Alert, what: str) -> None:
        owed = channel.owed[alert.fingerprint]
        message = channel.messages.setdefault(key, _Message(alert, owed.name))
        assert message.copies == message.lost, f"{what}: told twice"
        message.copies += 1
        message.lost += channel.endpoint.health == "slow"
        self._count("repetition" if message.copies > 1 else "message")
        episode = _episode(alert)
        channel.last.setdefault(alert.fingerprint, {})[owed.name] = episode
        told = [one for one in channel.told(episode) if one.alert.status == alert.status]
        allowed = len(channel.changes[episode]) if alert.status == "firing" else 1
        assert len(told) <= allowed, f"{what}: told {len(told)} times, of {allowed} changes"
        owed.told = owed.told or alert == owed.alert

    def recorded(self, attempt: DeliveryAttempt) -> None:
        """What became of an attempt is on record."""
        channel = self._channel(attempt.channel)
        if channel is None:
            assert attempt.status == "sent"
            return
        if attempt.transition == "test":
            return
        if attempt.status == "failed":
            pause = self._clock.time() - self._failed.get(attempt.delivery_id, 0.0)
            assert pause >= 1.0, f"{attempt.channel}: tried again after {pause:g} s: {attempt}"
            self._failed[attempt.delivery_id] = self._clock.time()
            return
        alert, begun = self._begun[attempt.delivery_id]
        if attempt.status == "sent":
            channel.sent[_episode(alert)] = channel.sent.get(_episode(alert), 0) + 1
            return
        lasted = self._clock.time() - begun
        known = attempt.channel in self._names.values()
        may_be = not known or channel.gone or (channel.reachable_since() is None and lasted >= _GIVEN_UP)
        assert may_be, f"{attempt.channel}: {alert} was given up after {lasted:.0f} s"
        self._count("given up")
        channel.excused.add(_episode(alert))
        owed = channel.owed[alert.fingerprint]
        owed.told = owed.told or owed.alert == alert

    def check(self) -> None:
        """See whether anybody waits who should not have to."""
        now = self._clock.time()
        for name, channel in self._channels.items():
            since = channel.reachable_since()
            for owed in channel.owed.values():
                if owed.told or (owed.alert.status == "firing" and not self._is_open(owed.alert)):
                    continue
                if owed.name not in self._names.values():
                    continue
                waited = now - owed.at
                if since is not None and now - since >= _PAUSE + _AT_ONCE:
                    assert waited < _AT_ONCE, f"{name} works and was not told for {waited:.0f} s: {owed.alert}"
                if waited >= _PATIENCE and owed.alert.rule != CHANNEL_RULE:
                    self._check_trouble(name, channel, owed)

    def _check_trouble(self, name: str, channel: _Channel, owed: _Owed) -> None:
        for substitute in owed.failover[:1]:
            stands_in = self._channel(substitute)
            assert stands_in is not None
            assert _episode(owed.alert) in stands_in.changes, f"{substitute} stands in for {name}: {owed}"
        if channel.reachable_since() is None and self._clock.time() - channel.endpoint.since >= _PATIENCE + _AT_ONCE:
            told = [one for one in self._newest.values() if one.rule == CHANNEL_RULE and one.status == "firing"]
            named = told[0].labels["channel"].split(", ") if told else []
            assert owed.name in named, (
                f"nobody was told that {name} does not work, but {named}: {channel.endpoint} {owed}"
            )

    def finish(self) -> None:
        """Check what must be so when all is over and every channel works."""
        self.check()
        for name, channel in self._channels.items():
            for episode, statuses in channel.changes.items():
                told = channel.told(episode)
                confirmed = sum(one.copies > one.lost for one in told)
                on_record = channel.sent.get(episode, 0)
                assert on_record == confirmed or episode in channel.excused, f"{name}: {on_record} on record of {told}"
                ends = sum(one.alert.status == "resolved" for one in told)
                newest = _episode(channel.owed[episode[0]].alert) == episode
                must = bool(told) or (newest and "resolved" in statuses.values())
                assert ends == must or (episode in channel.excused and not ends), f"{name}: {episode} {statuses} {told}"
        assert not any(one.status == "firing" for one in self._newest.values())

    def _channel(self, name: str) -> _Channel | None:
        """Return what a channel leads to, or led to under a name that it has no more."""
        return self._channels.get(name.removesuffix("-2"))

    def _is_open(self, alert: Alert) -> bool:
        newest = self._newest.get(alert.fingerprint)
        return newest is not None and newest.status == "firing" and newest.since == alert.since

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _episode(alert: Alert) -> _Episode:
    return (alert.fingerprint, alert.since)
