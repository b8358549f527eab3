"""Hours of random incidents: each channel is told exactly what a model says it must be told.

`just soak 24 7` runs 24 simulated hours from seed 7; here they are a few.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.keys import ALERTS
from penstock.redis.connection import client
from penstock.schemas import DeliveryAttempt
from penstock.testing import Emitted
from penstock_services.alerts.notify import grouping
from penstock_services.notifier.channels.telegram import BOT_API
from penstock_services.notifier.config.config import parse
from penstock_services.notifier.delivery import deliver
from tests.alerting import EPOCH, Mesh, gauge
from tests.alerts_soak import Soak
from tests.servers import Server
from tests.simulation import FAILURES, Clock, Endpoint, SimulatedNotifier

HOURS = float(os.environ.get("SOAK_HOURS", "2"))
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
    assert all(soak.counts[what] for what in (*FAILURES, "message", "trouble"))


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


async def test_the_model_notices_a_channel_that_is_left_alone_for_too_long(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "LONGEST_RETRY_AFTER", HOUR)

    with pytest.raises(AssertionError, match=r"stands in for|nobody was told|works and was not told"):
        await Soak(redis, hours=12, seed=1).run()
