"""The notifications that follow from an alert, and who is told of its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from penstock.event import Event
from penstock.redis.connection import client
from penstock.schemas import Alert, Notification
from penstock.testing import Harness
from penstock_services.notifier.config.config import parse
from penstock_services.notifier.delivery.fanout import order_of
from penstock_services.notifier.service import build
from tests.alerts import ALERT, RESOLVED, make_alert
from tests.servers import Server
from tests.unit.test_notifier_routing import CONFIG, config


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Any]:
    connected = client(server.url)
    yield connected
    await connected.aclose()


def notifications(events: list[Any]) -> list[Notification]:
    return [msgspec.json.decode(one.event.data, type=Notification) for one in events]


async def test_an_alert_becomes_a_notification_for_each_channel_and_recipient(redis: Any) -> None:
    run = await Harness(build(config("{channels: [a, mail], failover: b}")), redis=redis).send(
        "alerts", "alert.triggered", ALERT
    )

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


async def test_a_channel_may_do_without_resolves(redis: Any) -> None:
    harness = Harness(build(config("{channels: [c]}")), redis=redis)
    run = await harness.send("alerts", "alert.resolved", RESOLVED)

    assert [one.channel for one in notifications(run.events)] == ["console"]


async def test_a_repeated_alert_is_told_again(redis: Any) -> None:
    run = await Harness(build(config("{channels: [a]}")), redis=redis).send("alerts", "alert.repeated", ALERT)

    assert [one.channel for one in notifications(run.events)] == ["a", "console"]


def test_the_order_of_changes_is_that_of_their_entries_whatever_time_they_say() -> None:
    ids = ["999-7", "1000-0", "1000-2", "1000-10", "1001-0"]
    stated = ["2027-01-01T00:00:00.000Z", None, "2026-11-22T10:00:00.000Z", None, "1970-01-01T00:00:00.000Z"]
    orders = [
        order_of(Event(type="alert.repeated", data=b"{}", id="e", entry_id=entry_id, stated_time=time))
        for entry_id, time in zip(ids, stated, strict=True)
    ]

    assert orders == sorted(orders)
    assert len(set(orders)) == 5


async def test_what_is_no_alert_is_dead_lettered_with_the_field_named(redis: Any) -> None:
    run = await Harness(build(config()), redis=redis).send("alerts", "alert.triggered", {"fingerprint": "f"})

    assert run.outcome.reason == "invalid"  # type: ignore[union-attr]
    assert "rule" in run.outcome.error  # type: ignore[union-attr]


async def test_a_notification_for_a_channel_that_is_gone_goes_to_its_substitute(redis: Any) -> None:
    gone = Notification(channel="old", alert=ALERT, order="1", failover=["older", "a", "b"])
    run = await Harness(build(config()), redis=redis).send("notifications", "notification.due", gone)

    attempt, substitute = run.events
    assert (attempt.stream, attempt.event.type) == ("deliveries", "delivery.dead")
    assert "notify.yaml has no channel old any more" in attempt.event.json()["error"]
    made = msgspec.json.decode(substitute.event.data, type=Notification)
    assert (made.channel, made.failover, made.instead_of) == ("a", ["b"], "old")


async def told(harness: Harness, kind: str, alert: Alert) -> list[str]:
    return [one.channel for one in notifications((await harness.send("alerts", kind, alert)).events)]


async def test_who_was_told_of_a_beginning_is_told_of_its_end_whatever_severity_and_routes_say_by_then(
    redis: Any,
) -> None:
    before = Harness(build(config("{channels: [a], min_severity: critical}", "{channels: [b]}")), redis=redis)
    assert await told(before, "alert.triggered", ALERT) == ["a", "b", "console"]
    lowered = make_alert(severity="warning")
    assert await told(before, "alert.repeated", lowered) == ["b", "console"]

    narrowed = Harness(build(config("{channels: [c], match: [service=other]}")), redis=redis)
    over = make_alert(RESOLVED, severity="warning")
    assert sorted(await told(narrowed, "alert.resolved", over)) == ["a", "b", "console"]


async def test_who_was_not_told_of_a_beginning_is_not_told_of_its_end(redis: Any) -> None:
    assert await told(Harness(build(config("{channels: [a]}")), redis=redis), "alert.triggered", ALERT)
    widened = Harness(build(config("{channels: [a, b]}")), redis=redis)

    assert sorted(await told(widened, "alert.resolved", RESOLVED)) == ["a", "console"]


async def test_where_a_channel_that_was_told_has_gone_or_has_another_name_those_of_the_routes_are_told_of_the_end(
    redis: Any,
) -> None:
    before = Harness(build(config("{channels: [a, c]}")), redis=redis)
    assert await told(before, "alert.triggered", ALERT) == ["a", "c", "console"]
    renamed = parse(
        "channels: {z: {type: webhook, url: 'https://example.com/a'}, c: {type: webhook, url: 'https://example.com/c'}}\n"
        "routes: [{channels: [z, c]}]",
        environ={},
    )
    after = Harness(build(renamed), redis=redis)
    acknowledged = make_alert(acknowledged_by="ann", acknowledged_at="2026-11-22T10:05:00.000Z")
    assert sorted(await told(after, "alert.acknowledged", acknowledged)) == ["c", "console", "z"]
    assert sorted(await told(after, "alert.resolved", RESOLVED)) == ["c", "console", "z"]


async def test_where_there_is_no_record_of_who_was_told_the_routes_decide(redis: Any) -> None:
    assert await told(Harness(build(config("{channels: [a]}")), redis=redis), "alert.resolved", RESOLVED) == [
        "a",
        "console",
    ]


async def test_the_next_episode_begins_anew(redis: Any) -> None:
    first = Harness(build(config("{channels: [a]}")), redis=redis)
    await told(first, "alert.triggered", ALERT)
    second = Harness(build(config("{channels: [b]}")), redis=redis)
    again = make_alert(since="2027-01-01T00:00:00.000Z")
    await told(second, "alert.triggered", again)
    over = make_alert(RESOLVED, since="2027-01-01T00:00:00.000Z")

    assert sorted(await told(second, "alert.resolved", over)) == ["b", "console"]


async def test_an_acknowledgement_goes_to_whoever_was_told(redis: Any) -> None:
    harness = Harness(build(config("{channels: [a]}")), redis=redis)
    await told(harness, "alert.triggered", ALERT)

    acknowledged = make_alert(acknowledged_by="ann", acknowledged_at="2026-11-22T10:05:00.000Z")
    assert sorted(await told(harness, "alert.acknowledged", acknowledged)) == ["a", "console"]


def planned(events: list[Any], kind: str) -> list[Any]:
    return [one for one in events if one.event.type == kind]


ESCALATING = "{channels: [a], failover: [c], then: ['b, mail after 10m unless acknowledged']}"


async def commit(redis: Any, run: Any) -> None:
    """Carry out the state operations of a run, as its commit does."""
    for command, name, *arguments in run.state:
        await redis.execute_command(command, f"state:notifier:{name}", *arguments)


async def test_what_nobody_acknowledges_is_told_to_others(redis: Any) -> None:
    harness = Harness(build(config(ESCALATING)), redis=redis)
    run = await harness.send("alerts", "alert.triggered", ALERT)
    await commit(redis, run)
    again = await harness.send("alerts", "alert.repeated", make_alert(summary="worse by now"))

    (step,) = planned(run.events, "notification.escalate")
    assert step.delay == 600
    assert planned(again.events, "notification.escalate") == [], "once in an episode"
    due = notifications((await harness.send("notifications", "notification.escalate", step.event.json())).events)
    assert [one.channel for one in due] == ["b", "mail", "mail"]
    assert {one.alert.summary for one in due} == {"worse by now"}
    assert {one.escalated for one in due} == {"Nobody has acknowledged it within 10 min."}
    assert due[0].failover == ["c"]


@pytest.mark.parametrize(
    ("kind", "alert"),
    [
        ("alert.acknowledged", make_alert(acknowledged_by="ann")),
        ("alert.resolved", RESOLVED),
        ("alert.triggered", make_alert(since="2027-01-01T00:00:00.000Z")),
    ],
)
async def test_what_somebody_is_on_or_is_over_is_not_escalated(redis: Any, kind: str, alert: Alert) -> None:
    harness = Harness(build(config(ESCALATING)), redis=redis)
    run = await harness.send("alerts", "alert.triggered", ALERT)
    await harness.send("alerts", kind, alert)
    (step,) = planned(run.events, "notification.escalate")

    assert (await harness.send("notifications", "notification.escalate", step.event.json())).events == []


async def test_escalation_begins_anew_when_an_acknowledgement_is_taken_back(redis: Any) -> None:
    harness = Harness(build(config(ESCALATING)), redis=redis)
    first = await harness.send("alerts", "alert.triggered", ALERT)
    await commit(redis, first)
    await harness.send("alerts", "alert.acknowledged", make_alert(acknowledged_by="ann"))
    anew = await harness.send("alerts", "alert.unacknowledged", make_alert(unacknowledged_by="bob"))
    await commit(redis, anew)
    again = await harness.send("alerts", "alert.repeated", ALERT)

    assert sorted(one.channel for one in notifications(planned(anew.events, "notification.due"))) == ["a", "console"]
    assert planned(again.events, "notification.escalate") == []
    (before,), (step,) = (planned(run.events, "notification.escalate") for run in (first, anew))
    assert step.delay == 600
    assert (await harness.send("notifications", "notification.escalate", before.event.json())).events == []
    due = await harness.send("notifications", "notification.escalate", step.event.json())
    assert {one.channel for one in notifications(due.events)} == {"b", "mail"}


async def test_the_next_episode_escalates_whatever_was_taken_back_in_the_one_before(redis: Any) -> None:
    harness = Harness(build(config(ESCALATING)), redis=redis)
    before = await harness.send("alerts", "alert.unacknowledged", make_alert(unacknowledged_by="bob"))
    next_one = await harness.send("alerts", "alert.triggered", make_alert(since="2027-01-01T00:00:00.000Z"))
    await commit(redis, next_one)
    await commit(redis, before)  # of another replica, which is slow

    (step,) = planned(next_one.events, "notification.escalate")
    assert (await harness.send("notifications", "notification.escalate", step.event.json())).events != []


async def test_that_an_acknowledgement_is_taken_back_goes_to_whoever_was_told_of_it(redis: Any) -> None:
    before = Harness(build(config("{channels: [a, b]}")), redis=redis)
    await told(before, "alert.triggered", ALERT)
    await told(before, "alert.acknowledged", make_alert(acknowledged_by="ann"))
    narrowed = Harness(build(config("{channels: [a]}")), redis=redis)

    assert sorted(await told(narrowed, "alert.unacknowledged", make_alert(unacknowledged_by="ann"))) == [
        "a",
        "b",
        "console",
    ]


async def test_alerts_that_can_wait_are_told_in_one_message(redis: Any) -> None:
    harness = Harness(build(config("{channels: [a], batch: 15m}", "{channels: [b]}")), redis=redis)
    for number, severity in enumerate(("info", "warning")):
        alert = make_alert(fingerprint=f"f{number}", severity=severity, summary=f"alert {number}\nforged")
        run = await harness.send("alerts", "alert.triggered", alert)
        await commit(redis, run)
    run = await harness.send("alerts", "alert.resolved", make_alert(RESOLVED, fingerprint="f0", summary="alert 0"))
    await commit(redis, run)

    assert "a" not in {one.channel for one in notifications(planned(run.events, "notification.due"))}
    assert run.done, run.outcome
    (due, *_) = planned(run.events, "notification.digest")
    assert 0 < due.delay <= 900
    run = await harness.send("notifications", "notification.digest", due.event.json())
    (told,) = notifications(run.events)
    assert (told.channel, told.alert.severity, told.alert.summary) == ("a", "warning", "2 alerts in 15 min")
    assert told.alert.reason.splitlines() == ["warning: alert 1 forged", "resolved: alert 0"]
    assert run.guards, "what joins meanwhile is not lost"
    await commit(redis, run)
    assert (await harness.send("notifications", "notification.digest", due.event.json())).events == []


async def test_what_is_quiet_waits_for_the_end_of_it(redis: Any) -> None:
    made = parse(f"{CONFIG}  - {{channels: [a]}}\nquiet: [{{hours: 00:00-24:00}}]", environ={})
    run = await Harness(build(made), redis=redis).send("alerts", "alert.triggered", make_alert(severity="warning"))
    grave = await Harness(build(made), redis=redis).send("alerts", "alert.triggered", make_alert(fingerprint="f2"))

    delays = {one.event.json()["channel"]: one.delay for one in run.events}
    assert 0 < delays["a"] <= 15 * 86_400
    assert delays["console"] == 0
    assert {one.delay for one in grave.events} == {0}
