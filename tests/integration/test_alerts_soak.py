"""Hours of random incidents: each channel is told exactly what a model says it must be told.

`just soak 24 7` runs 24 simulated hours from seed 7; here they are a few.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import Context
from penstock.keys import ALERTS
from penstock.redis.connection import client
from penstock.schemas import DeliveryAttempt, Notification
from penstock.testing import Emitted
from penstock_services.alerts.evaluate import event as arrivals
from penstock_services.alerts.notify import grouping
from penstock_services.notifier.channels.telegram import BOT_API
from penstock_services.notifier.config.config import Config, parse
from penstock_services.notifier.config.routing import Destination
from penstock_services.notifier.delivery import deliver, fanout
from penstock_services.notifier.delivery.notification_log import NotificationLog
from tests.alerting import EPOCH, Mesh, gauge
from tests.alerts_soak import Soak
from tests.servers import Server
from tests.simulation import FAILURES, Clock, Endpoint, SimulatedNotifier

HOURS = float(os.environ.get("SOAK_HOURS", "6"))
SEED = int(os.environ.get("SOAK_SEED", "1"))
HOUR = 3_600.0
ROOT = Path(__file__).parents[2]
OPS = "https://ops.example.com/hook"
OPS_AND_TELEGRAM = {"OPS_ALERT_WEBHOOK_URL": OPS, "TELEGRAM_BOT_TOKEN": "1:abc", "TELEGRAM_CHAT_ID": "42"}


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Any]:
    connected = client(server.url)
    yield connected
    await connected.aclose()


@pytest.mark.timeout(3_600)
async def test_each_channel_is_told_what_it_must_be_told_and_nothing_else(redis: Any) -> None:
    soak = Soak(redis, hours=HOURS, seed=SEED)
    await soak.run()

    sys.stdout.write(f"{HOURS:g} simulated hours from seed {SEED}: {soak.counts}\n")
    assert all(soak.counts[f"alert.{kind}"] for kind in ("triggered", "repeated", "resolved"))
    assert soak.counts["alert.unacknowledged"]
    assert all(
        soak.counts[what] for what in ("restart", "edit", "silence", "acknowledgement", "withdrawal", "other routes")
    )
    assert all(soak.counts[f"channel {what}"] for what in ("added", "removed", "renamed"))
    assert all(soak.counts[what] for what in (*FAILURES, "message", "trouble", "event"))


@pytest.mark.parametrize("dead_letters", [False, True], ids=["given up", "even if they were dead letters"])
async def test_a_channel_that_is_gone_feeds_no_rule_that_ships(redis: Any, dead_letters: bool) -> None:
    mesh = Mesh((ROOT / "alerts.yaml").read_text())
    clock = Clock(mesh.now)
    ops, telegram = Endpoint(clock), Endpoint(clock, '{"ok": true, "result": {"message_id": 7}}')
    config = parse((ROOT / "notify.yaml").read_text(), environ=OPS_AND_TELEGRAM)
    notifier = SimulatedNotifier(redis, config, clock, {OPS: ops, BOT_API: telegram})
    made: list[tuple[float, DeliveryAttempt]] = []

    def published(_: str, __: bytes, event: Emitted) -> None:
        if event.type.startswith("delivery."):
            made.append((clock.time() - EPOCH, msgspec.json.decode(event.event.data, type=DeliveryAttempt)))

    notifier.on_published = published
    ops.become("gone")
    with notifier.simulated():
        while mesh.now < EPOCH + HOUR:
            behind = EPOCH + 300 <= mesh.now < EPOCH + 420
            given_up = sum(one.status == "dead" for _, one in made)
            mesh.window(
                gauge("consumers", 1, group="worker"),
                gauge("consumers", 1, group="notifier"),
                gauge("lag_age", 60 if behind else 0, stream="jobs", group="worker"),
                gauge("dead", 0, stream="jobs", group="worker"),
                gauge(
                    "dead", given_up if dead_letters else len(notifier.dead), stream="notifications", group="notifier"
                ),
                scope="mesh",
            )
            mesh.tick()
            await notifier.run(mesh.now)
            for kind, alert in mesh.state.outbox:
                notifier.publish(ALERTS, kind, alert)
            mesh.state.outbox.clear()
            await notifier.run(mesh.now)

    told = [f"{one.channel} {one.status}: {one.transition} {one.rule}" for _, one in made if one.channel != "console"]
    assert sorted(told) == [
        "ops dead: resolved lag",
        "ops dead: triggered lag",
        "telegram sent: resolved lag",
        "telegram sent: triggered lag",
        "telegram sent: triggered notification-channel",
    ]
    assert max(at for at, _ in made) < 600, "and then there is peace"
    assert notifier.dead == []


async def test_the_model_notices_a_group_that_joins_unheard(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "_forget_members_that_ended", lambda *_: None)

    with pytest.raises(AssertionError, match="at 20"):
        await Soak(redis, hours=12, seed=1).run()


async def test_the_model_notices_an_event_that_ends_nothing(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_end", lambda *_: None)

    with pytest.raises(AssertionError, match=r"not told \{.*'resolved', 'broken'"):
        await Soak(redis, hours=HOURS, seed=SEED).run()


async def test_the_model_notices_a_channel_that_is_left_alone_for_too_long(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "LONGEST_RETRY_AFTER", HOUR)

    with pytest.raises(AssertionError, match=r"stands in for|nobody was told|works and was not told"):
        await Soak(redis, hours=12, seed=1).run()


def _drop_one_end(original: Callable[..., None]) -> Callable[..., None]:
    ends = itertools.count()

    def send_to(config: Config, ctx: Context, notification: Notification, failover: Sequence[str]) -> None:
        if notification.alert.status == "firing" or next(ends) != 20:
            original(config, ctx, notification, failover)

    return send_to


def _double_one_beginning(original: Callable[..., None]) -> Callable[..., None]:
    beginnings = itertools.count()

    def send_to(config: Config, ctx: Context, notification: Notification, failover: Sequence[str]) -> None:
        original(config, ctx, notification, failover)
        if notification.alert.status == "firing" and next(beginnings) == 20:
            original(config, ctx, notification, failover)

    return send_to


@pytest.mark.parametrize("fault", [_drop_one_end, _double_one_beginning])
async def test_the_model_notices_one_fault_among_all_that_is_told(
    redis: Any, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Callable[..., None]], Callable[..., None]]
) -> None:
    monkeypatch.setattr(fanout, "send_to", fault(fanout.send_to))

    with pytest.raises(AssertionError, match="not told"):
        await Soak(redis, hours=HOURS, seed=SEED).run()


async def test_the_model_notices_a_renamed_channel_that_is_not_told_of_an_end(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def where(config: Config, told: Collection[str], _: Sequence[Destination]) -> Iterator[Destination]:
        return (Destination(name) for name in told if name in config.channels)

    monkeypatch.setattr(fanout, "_where", where)

    with pytest.raises(AssertionError, match=r"not told \{.*told set"):
        await Soak(redis, hours=12, seed=SEED).run()


async def test_the_model_notices_a_beginning_that_arrives_twice(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def confirm(*_: object) -> None:
        pass

    monkeypatch.setattr(NotificationLog, "confirm", confirm)

    with pytest.raises(AssertionError, match="told twice"):
        await Soak(redis, hours=12, seed=SEED).run()
