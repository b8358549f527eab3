"""Which alert goes where, and the notifications that follow."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.schemas import Notification
from penstock.testing import Harness
from penstock_services.notifier.config.config import Config, parse
from penstock_services.notifier.config.routing import Destination
from penstock_services.notifier.service import build
from tests.alerts import ALERT, RESOLVED, make_alert

HOOK = "{type: webhook, url: 'https://example.com/hook'}"
CONFIG = f"""
channels:
  a: {HOOK}
  b: {HOOK}
  c: {{type: webhook, url: 'https://example.com/c', send_resolved: false}}
  mail: {{type: email, host: h, from: x@example.com, to: [one@example.com, two@example.com]}}
routes:
"""


def config(*routes: str) -> Config:
    return parse(CONFIG + "\n".join(f"  - {route}" for route in routes or ("{channels: [console]}",)), environ={})


def channels(found: list[Destination]) -> list[str]:
    return [one.channel for one in found]


def test_the_console_gets_every_alert() -> None:
    assert channels(config("{channels: [a], match: [team=x]}").destinations(ALERT)) == ["console"]


@pytest.mark.parametrize(
    ("route", "taken"),
    [
        ("{channels: [a]}", True),
        ("{channels: [a], min_severity: critical}", True),
        ("{channels: [a], match: [service=worker, job_type=ticket.*]}", True),
        ("{channels: [a], match: [service=worker, job_type=order.*]}", False),
        ("{channels: [a], match: [service!=worker]}", False),
        ("{channels: [a], match: [team!=x]}", True),
        ("{channels: [a], match: [rule=error-*, severity=critical]}", True),
        ("{channels: [a], match: [severity=warning]}", False),
    ],
)
def test_a_route_takes_what_meets_all_its_matchers(route: str, taken: bool) -> None:
    assert ("a" in channels(config(route).destinations(ALERT))) == taken


def test_a_route_takes_its_severity_and_graver_ones() -> None:
    made = config("{channels: [a], min_severity: warning}")
    severities = [
        s for s in ("info", "warning", "critical") if "a" in channels(made.destinations(make_alert(severity=s)))
    ]

    assert severities == ["warning", "critical"]


def test_every_route_that_fits_sends_and_each_channel_once() -> None:
    made = config("{channels: [a, b], failover: mail}", "{channels: [b, c], failover: a}")
    found = {one.channel: one.failover for one in made.destinations(ALERT)}

    assert found == {"a": ("mail",), "b": ("mail",), "c": ("a",), "console": ()}


def test_an_alert_about_a_channel_goes_around_it() -> None:
    about_a = make_alert(rule="notification-channel", labels={"channel": "a"})
    routed = config("{channels: [a, b], failover: [a, mail]}").destinations(about_a)

    assert {one.channel: one.failover for one in routed} == {"b": ("mail",), "console": ()}


def test_an_alert_about_the_only_channel_of_a_route_goes_to_all_others() -> None:
    about_a = make_alert(rule="notification-channel", labels={"channel": "a"})

    assert set(channels(config("{channels: [a]}").destinations(about_a))) == {"b", "c", "mail", "console"}


def notifications(events: list[Any]) -> list[Notification]:
    return [msgspec.json.decode(one.event.data, type=Notification) for one in events]


async def test_an_alert_becomes_a_notification_for_each_channel_and_recipient() -> None:
    run = await Harness(build(config("{channels: [a, mail], failover: b}"))).send("alerts", "alert.triggered", ALERT)

    made = notifications(run.events)
    assert [(one.channel, one.recipient) for one in made] == [
        ("a", None),
        ("mail", "one@example.com"),
        ("mail", "two@example.com"),
        ("console", None),
    ]
    assert {one.event.type for one in run.events} == {"notification.due"}
    assert {one.event.subject for one in run.events} == {"f1"}
    assert made[0].failover == ["b"]
    assert len({one.order for one in made}) == 1


async def test_a_channel_may_do_without_resolves() -> None:
    harness = Harness(build(config("{channels: [c]}")))
    run = await harness.send("alerts", "alert.resolved", RESOLVED)

    assert [one.channel for one in notifications(run.events)] == ["console"]


async def test_a_repeated_alert_is_told_again() -> None:
    run = await Harness(build(config("{channels: [a]}"))).send("alerts", "alert.repeated", ALERT)

    assert [one.channel for one in notifications(run.events)] == ["a", "console"]


async def test_the_order_is_that_of_publishing_and_the_resolve_comes_last_in_it() -> None:
    harness = Harness(build(config("{channels: [a]}")))
    orders = []
    for alert, time in (
        (ALERT, "2026-11-22T10:00:00.000Z"),
        (RESOLVED, "2026-11-22T10:00:00.000Z"),
        (make_alert(since="2026-11-22T09:00:00.000Z"), "2026-11-22T10:00:00.000Z"),
        (ALERT, "2026-11-22T10:00:00.001Z"),
    ):
        kind = "alert.resolved" if alert is RESOLVED else "alert.triggered"
        run = await harness.send("alerts", kind, alert, time=time)
        orders.append(notifications(run.events)[0].order)

    assert orders == sorted(orders)
    assert len(set(orders)) == 4


async def test_what_is_no_alert_is_dead_lettered_with_the_field_named() -> None:
    run = await Harness(build(config())).send("alerts", "alert.triggered", {"fingerprint": "f"})

    assert run.outcome.reason == "invalid"  # type: ignore[union-attr]
    assert "rule" in run.outcome.error  # type: ignore[union-attr]


async def test_a_notification_for_a_channel_that_is_gone_goes_to_its_substitute() -> None:
    gone = Notification(channel="old", alert=ALERT, order="1", failover=["older", "a", "b"])
    run = await Harness(build(config())).send("notifications", "notification.due", gone)

    attempt, substitute = run.events
    assert (attempt.stream, attempt.event.type) == ("deliveries", "delivery.dead")
    assert "notify.yaml has no channel old any more" in attempt.event.json()["error"]
    made = msgspec.json.decode(substitute.event.data, type=Notification)
    assert (made.channel, made.failover, made.instead_of) == ("a", ["b"], "old")
