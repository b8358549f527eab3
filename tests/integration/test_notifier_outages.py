"""Channels that fail and work again, for minutes and hours of simulated time: what they are told, and who else is."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from penstock.keys import ALERTS, NOTIFICATIONS
from penstock.mesh.deliveries import TEST
from penstock.redis.connection import client
from penstock.schemas import Alert, ChannelTest, DeliveryAttempt
from penstock.testing import Emitted
from penstock.times import rfc3339
from penstock_services.notifier.channels.telegram import BOT_API
from penstock_services.notifier.config.config import parse
from tests.alerting import EPOCH
from tests.alerts import make_alert
from tests.servers import Server
from tests.simulation import Clock, Endpoint, Request, SimulatedNotifier
from tests.standins import mail_server

HOUR = 3_600.0
NOTIFY = """
channels:
  pager: {type: webhook, url: 'https://pager.example.com/'}
  backup: {type: webhook, url: 'https://backup.example.com/'}
routes: [{channels: [pager], failover: backup}]
"""


class Scene:
    """A pager, what stands in for it, and what they were told."""

    def __init__(self, redis: Any) -> None:
        self.clock = Clock(EPOCH)
        self.pager, self.backup = Endpoint(self.clock), Endpoint(self.clock)
        at = {"https://pager.example.com/": self.pager, "https://backup.example.com/": self.backup}
        self.notifier = SimulatedNotifier(redis, parse(NOTIFY, environ={}), self.clock, at)
        self.notifier.on_published = self._published
        self.told: dict[str, list[str]] = {"pager": [], "backup": []}
        self.asked: list[float] = []
        self.records: list[str] = []
        self.trouble: list[str] = []
        self.pager.on_request = functools.partial(self._requested, "pager")
        self.backup.on_request = functools.partial(self._requested, "backup")

    def _requested(self, name: str, request: Request, taken: bool) -> None:
        body = request.json
        if name == "pager":
            self.asked.append(self.clock.time() - EPOCH)
        if taken and body["data"]["rule"] != "notification-channel":
            self.told[name].append(f"{body['type'].removeprefix('alert.')} {body['data']['summary']}")

    def _published(self, _: str, __: bytes, made: Emitted) -> None:
        if made.type in ("delivery.sent", "delivery.dead"):
            attempt = msgspec.json.decode(made.event.data, type=DeliveryAttempt)
            if attempt.channel != "console" and attempt.rule != "notification-channel":
                self.records.append(f"{attempt.channel} {attempt.status} {attempt.transition}")
        elif made.stream == ALERTS:
            self.trouble.append(made.type)

    def alert(self, summary: str, **changes: Any) -> Alert:
        return make_alert(fingerprint=summary[:1], summary=summary, since=rfc3339(self.clock.time()), **changes)

    def tell(self, alert: Alert, kind: str | None = None) -> None:
        kind = kind or ("resolved" if alert.status == "resolved" else "triggered")
        self.notifier.publish(ALERTS, f"alert.{kind}", alert)

    def end(self, alert: Alert) -> None:
        self.tell(make_alert(alert, status="resolved", resolved_at=rfc3339(self.clock.time())))

    async def pass_by(self, seconds: float) -> None:
        await self.notifier.run(self.clock.time() + seconds)


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Any]:
    connected = client(server.url)
    yield connected
    await connected.aclose()


@pytest.fixture
def scene(redis: Any) -> Iterator[Scene]:
    made = Scene(redis)
    with made.notifier.simulated():
        yield made


@pytest.mark.parametrize("down_for", [0.0, 600.0], ids=["the new one is sent first", "the end is sent first"])
async def test_who_was_told_of_a_beginning_is_told_of_its_end_before_it_begins_anew(
    scene: Scene, down_for: float
) -> None:
    first = scene.alert("a first")
    scene.tell(first)
    await scene.pass_by(60)
    scene.pager.become("down")
    scene.end(first)
    await scene.pass_by(140)
    scene.tell(scene.alert("a second"))
    await scene.pass_by(down_for)
    scene.pager.become("up")
    await scene.pass_by(1)
    at_once = list(scene.told["pager"])
    await scene.pass_by(300)

    assert scene.told["pager"] == ["triggered a first", "resolved a first", "triggered a second"]
    assert (at_once == scene.told["pager"]) == (down_for == 0.0)
    assert sorted(one for one in scene.records if one.startswith("pager")) == [
        "pager sent resolved",
        "pager sent triggered",
        "pager sent triggered",
    ]
    assert scene.notifier.idle


async def test_where_the_channel_can_edit_no_message_stays_red(scene: Scene, redis: Any) -> None:
    config = parse("", environ={"TELEGRAM_BOT_TOKEN": "1:abc", "TELEGRAM_CHAT_ID": "42"})
    chat = Endpoint(scene.clock, '{"ok": true, "result": {"message_id": 7}}')
    scene.notifier = SimulatedNotifier(redis, config, scene.clock, {f"{BOT_API}/bot1:abc/": chat})
    told: list[tuple[str, int | None]] = []
    chat.on_request = lambda request, taken: told.append((request.path, request.json.get("message_id")))
    with scene.notifier.simulated():
        first = scene.alert("a first")
        scene.tell(first)
        await scene.pass_by(60)
        chat.become("down")
        scene.end(first)
        await scene.pass_by(140)
        chat.become("up")
        told.clear()
        scene.tell(scene.alert("a second"))
        await scene.pass_by(1)

    assert told == [("editMessageText", 7), ("sendMessage", None)]


async def test_an_episode_of_which_nothing_arrived_is_no_message_of_its_own(scene: Scene) -> None:
    scene.pager.become("down")
    first = scene.alert("a first")
    scene.tell(first)
    await scene.pass_by(60)
    scene.end(first)
    await scene.pass_by(60)
    scene.tell(scene.alert("a second"))
    await scene.pass_by(60)
    scene.pager.become("up")
    await scene.pass_by(300)

    assert scene.told["pager"] == ["triggered a second"]


async def test_what_is_said_in_the_commit_of_an_alert_arrives_after_it(scene: Scene) -> None:
    alert = scene.alert("a")
    scene.tell(alert)
    scene.tell(make_alert(alert, acknowledged_by="ann", acknowledged_at=alert.since), "acknowledged")
    scene.tell(make_alert(alert, unacknowledged_by="ann"), "unacknowledged")
    await scene.pass_by(1)

    assert scene.told["pager"] == ["triggered a", "acknowledged a", "unacknowledged a"]


async def test_what_becomes_graver_in_the_commit_of_its_acknowledgement_is_told_after_it(scene: Scene) -> None:
    alert = scene.alert("a", severity="warning")
    scene.tell(alert)
    await scene.pass_by(60)
    scene.tell(make_alert(alert, acknowledged_by="ann", acknowledged_at=alert.since), "acknowledged")
    scene.tell(make_alert(alert, severity="critical"), "repeated")
    await scene.pass_by(1)

    assert scene.told["pager"] == ["triggered a", "acknowledged a", "triggered a"]


async def test_short_waits_that_add_up_are_a_failure_too_also_of_what_never_has_its_turn(scene: Scene) -> None:
    scene.pager.become("busy", retry_after=290)
    scene.tell(scene.alert("a"))
    scene.tell(scene.alert("b"))
    await scene.pass_by(300)

    assert sorted(scene.told["backup"]) == ["triggered a", "triggered b"]
    assert scene.trouble == ["alert.triggered"]


async def test_a_channel_that_works_for_a_moment_only_is_told_of_again(scene: Scene) -> None:
    scene.pager.become("down")
    scene.tell(scene.alert("a"))
    await scene.pass_by(200)
    scene.pager.become("up")
    scene.notifier.publish(NOTIFICATIONS, TEST, ChannelTest(channel="pager"))
    await scene.pass_by(1)
    scene.pager.become("down")
    await scene.pass_by(300)

    assert scene.trouble == ["alert.triggered", "alert.resolved", "alert.triggered"]
    assert scene.told["backup"] == ["triggered a"]


async def test_what_a_channel_still_owed_as_it_was_removed_is_told_once_and_is_not_tried_for_ever(
    scene: Scene, redis: Any
) -> None:
    scene.pager.become("down")
    alert = scene.alert("a")
    scene.tell(alert)
    await scene.pass_by(60)
    assert await redis.exists("state:notifier:late")
    backup = "{backup: {type: webhook, url: 'https://backup.example.com/'}}"
    scene.notifier.use(parse(f"channels: {backup}\nroutes: [{{channels: [backup]}}]", environ={}))
    await scene.pass_by(600)
    scene.end(alert)
    await scene.pass_by(60)

    assert scene.told["backup"] == ["triggered a", "resolved a"]
    assert not await redis.exists("state:notifier:late")
    assert scene.notifier.idle


async def test_what_the_last_attempt_was_asked_for_holds_for_the_next_message(scene: Scene) -> None:
    scene.pager.become("down")
    scene.tell(scene.alert("a"))
    await scene.pass_by(4 * 3_600 - 600)
    scene.pager.become("busy", retry_after=200)
    while "pager dead triggered" not in scene.records:
        await scene.pass_by(1)
    scene.pager.become("up")
    given_up = scene.asked[-1]
    scene.tell(scene.alert("b"))
    await scene.pass_by(300)

    assert scene.told["pager"] == ["triggered b"]
    assert scene.asked[-1] == given_up + 200


@pytest.mark.parametrize("asked", [0.0, 1.0, 290.0])
async def test_whatever_it_asks_for_a_channel_is_not_tried_faster_than_its_schedule(scene: Scene, asked: float) -> None:
    scene.pager.become("busy", retry_after=asked)
    scene.tell(scene.alert("a"))
    await scene.pass_by(1_000)

    pauses = [later - earlier for earlier, later in itertools.pairwise(scene.asked)]
    assert pauses[:3] == [max(asked, 1.0), max(asked, 2.0), max(asked, 4.0)][: len(pauses)]
    assert len(pauses) >= 3


@pytest.mark.parametrize("still_true", [True, False], ids=["it fires still", "it is over by then"])
async def test_mail_that_is_put_off_for_hours_arrives_once_with_what_is_true_by_then(
    scene: Scene, redis: Any, still_true: bool
) -> None:
    with mail_server() as post:
        notify = f"""
channels:
  mail:
    {{type: email, host: 127.0.0.1, port: {post.port}, from: a@example.com, to: [ann@example.com], allow_private: true}}
routes: [{{channels: [mail]}}]
"""
        scene.notifier = SimulatedNotifier(redis, parse(notify, environ={}), scene.clock, {})
        attempts: list[float] = []

        def published(_: str, __: bytes, made: Emitted) -> None:
            if made.type == "delivery.failed":
                attempts.append(scene.clock.time() - EPOCH)

        scene.notifier.on_published = published
        with scene.notifier.simulated():
            post.refusals["ann@example.com"] = deque(["451 4.7.1 greylisted, come back later"] * 1_000)
            first = scene.alert("a first")
            scene.tell(first)
            await scene.pass_by(5 * HOUR)
            assert post.mails == []
            pauses = [round(later - earlier) for earlier, later in itertools.pairwise(attempts)]
            assert pauses[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
            assert set(pauses[9:]) == {300}
            scene.tell(make_alert(first, summary="a worse"), "repeated")
            await scene.pass_by(HOUR)
            if not still_true:
                scene.end(first)
            await scene.pass_by(HOUR)
            post.refusals.clear()
            await scene.pass_by(HOUR)

    (mail,) = post.mails
    said = mail.message.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert ("RESOLVED" in mail.message["Subject"]) is not still_true
    assert ("a worse" in said) is still_true
    assert "Stands also for" in said
    assert scene.notifier.dead == []
    assert scene.notifier.idle
