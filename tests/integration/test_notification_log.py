"""The notification log in Redis: who may send what when, whichever replica asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.keys import Keys
from penstock.redis.connection import client
from penstock_services.notifier.channels import Receipt, Slack
from penstock_services.notifier.channels.base import Rate
from penstock_services.notifier.delivery.notification_log import Admission, Go, NotificationLog, Sent, Superseded, Wait
from tests.alerts import ALERT, RESOLVED, make_alert, make_notification
from tests.servers import Server

KEYS = Keys()
CHANNEL = Slack(url="https://hooks.slack.com/services/T/B/X", rate=Rate.parse("999/s"))


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Any]:
    connected = client(server.url)
    yield connected
    await connected.aclose()


def log(redis: Any, alert: Any = ALERT, *, order: str = "1", channel: Slack = CHANNEL) -> NotificationLog:
    def key(name: str) -> str:
        return KEYS.state("notifier", name)

    return NotificationLog(redis, key, make_notification(alert, order=order), channel)


async def test_the_first_change_goes_out_at_once(redis: Any) -> None:
    assert await log(redis).admit("a", "triggered 10:00") == Go(None, ())


async def test_what_was_confirmed_is_never_sent_again(redis: Any) -> None:
    await log(redis).admit("a", "triggered")
    await log(redis).confirm("a", Receipt(code=200, answer="ok"))

    assert await log(redis).admit("a", "triggered") == Sent(Receipt(code=200, answer="ok"))
    assert await log(redis).admit("another event of the same change", "triggered") == Superseded()


async def test_only_the_newest_of_waiting_changes_goes_out(redis: Any) -> None:
    trigger, resolve = log(redis, order="1"), log(redis, RESOLVED, order="2")
    await trigger.admit("a", "triggered 10:00")
    await trigger.release("a", None)

    assert await resolve.admit("b", "resolved 10:05") == Go(None, ("triggered 10:00",))
    assert await trigger.admit("a", "triggered 10:00") == Superseded()


async def test_a_change_that_comes_too_late_is_superseded_by_what_arrived(redis: Any) -> None:
    resolve = log(redis, RESOLVED, order="2")
    await resolve.admit("b", "resolved")
    await resolve.confirm("b", Receipt())

    assert await log(redis, order="1").admit("a", "triggered") == Superseded()


async def test_changes_of_one_alert_do_not_overtake_one_that_is_being_sent(redis: Any) -> None:
    await log(redis, order="1").admit("a", "triggered")
    later = log(redis, RESOLVED, order="2")

    assert isinstance(await later.admit("b", "resolved"), Wait)
    await log(redis, order="1").confirm("a", Receipt(reference="77"))
    assert await later.admit("b", "resolved") == Go("77", ())


async def test_whoever_held_the_log_when_its_process_died_gets_it_back(redis: Any) -> None:
    await log(redis).admit("a", "triggered")

    assert await log(redis).admit("a", "triggered") == Go(None, ())


async def test_a_message_of_an_earlier_episode_is_not_edited(redis: Any) -> None:
    await log(redis, order="1").admit("a", "triggered")
    await log(redis, order="1").confirm("a", Receipt(reference="77"))
    again = make_alert(since="2027-01-01T00:00:00.000Z")

    assert await log(redis, again, order="3").admit("c", "triggered") == Go(None, ())


async def test_one_episode_is_resolved_once(redis: Any) -> None:
    await log(redis, RESOLVED, order="2").admit("b", "resolved")
    await log(redis, RESOLVED, order="2").confirm("b", Receipt())

    assert await log(redis, RESOLVED, order="3").admit("c", "resolved") == Superseded()


async def test_a_confirmation_that_comes_late_does_not_undo_a_later_one(redis: Any) -> None:
    await log(redis, order="1").admit("a", "triggered")
    await log(redis, RESOLVED, order="2").confirm("b", Receipt(reference="2"))
    await log(redis, order="1").confirm("a", Receipt(reference="1"))

    assert await log(redis, RESOLVED, order="2").admit("b", "resolved") == Sent(Receipt(reference="2"))


async def ask(redis: Any, number: int, channel: Slack) -> Admission:
    alert = make_alert(fingerprint=f"alert-{number}")
    return await log(redis, alert, channel=channel).admit(f"event-{number}", "triggered")


async def test_replicas_share_the_rate_of_a_channel(server: Server, redis: Any) -> None:
    channel = Slack(url="https://hooks.slack.com/services/T/B/Y", rate=Rate.parse("3/min"))
    other = client(server.url)
    answers = await asyncio.gather(*(ask((redis, other)[number % 2], number, channel) for number in range(9)))
    await other.aclose()

    waits = sorted(answer.seconds for answer in answers if isinstance(answer, Wait))
    assert sum(isinstance(answer, Go) for answer in answers) == 3
    # Three get the slots of the next minute, three those of the one after it.
    assert [round(wait / 60) for wait in waits] == [1, 1, 1, 2, 2, 2]


async def test_channels_with_the_same_target_share_its_rate(redis: Any) -> None:
    slow = [Slack(url="https://hooks.slack.com/services/T/B/Z", rate=Rate.parse("1/h")) for _ in range(2)]

    assert isinstance(await ask(redis, 1, slow[0]), Go)
    assert isinstance(await ask(redis, 2, slow[1]), Wait)


async def test_a_slot_is_kept_for_the_log_while_it_waits(redis: Any) -> None:
    channel = Slack(url="https://hooks.slack.com/services/T/B/V", rate=Rate.parse("1/h"))
    await ask(redis, 1, channel)
    first = await ask(redis, 2, channel)
    again = await ask(redis, 2, channel)
    newer = await log(redis, make_alert(RESOLVED, fingerprint="alert-2"), order="2", channel=channel).admit("n", "")

    assert isinstance(first, Wait)
    assert isinstance(again, Wait)
    assert isinstance(newer, Wait)
    assert newer.seconds <= again.seconds <= first.seconds


async def test_retry_after_gives_the_log_a_slot_at_exactly_that_time(redis: Any) -> None:
    asked = log(redis)
    await asked.admit("a", "triggered")
    before = await milliseconds(redis)
    due = await asked.release("a", 7.25)
    after = await milliseconds(redis)

    slot = int(await redis.hget("state:notifier:log:test:f1", "slot"))
    assert due == 7.25
    assert before + 7250 <= slot <= after + 7250
    assert int(await redis.get(f"state:notifier:blocked:{CHANNEL.scope}")) == slot


async def test_retry_after_holds_for_the_whole_channel(redis: Any) -> None:
    await ask(redis, 1, CHANNEL)
    await log(redis, make_alert(fingerprint="alert-1")).release("event-1", 3600.0)
    answer = await ask(redis, 2, CHANNEL)

    assert isinstance(answer, Wait)
    assert answer.seconds > 3500


async def test_a_pause_that_comes_with_a_confirmation_is_kept_too(redis: Any) -> None:
    await ask(redis, 1, CHANNEL)
    await log(redis, make_alert(fingerprint="alert-1")).confirm("event-1", Receipt(pause=3600.0))

    assert isinstance(await ask(redis, 2, CHANNEL), Wait)


async def test_a_flapping_alert_leaves_a_bounded_trace(redis: Any) -> None:
    for number in range(60):
        await log(redis, order=f"{number:03d}").admit("a", f"triggered {number}")

    waiting = [field for field in await redis.hkeys("state:notifier:log:test:f1") if field.startswith(b"waiting:")]
    assert len(waiting) <= 21
    assert await redis.pttl("state:notifier:log:test:f1") > 0


async def milliseconds(redis: Any) -> int:
    seconds, micros = await redis.time()
    return int(seconds * 1000 + micros // 1000)


async def test_nobody_is_told_of_a_beginning_after_its_end(redis: Any) -> None:
    await redis.hset("state:notifier:alert:f1", mapping={"status": "resolved", "episode": ALERT.since, "order": "2"})

    assert await log(redis, order="1").admit("a", "triggered") == Superseded()
    assert await log(redis, make_alert(since="2027-01-01T00:00:00.000Z"), order="3").admit("b", "triggered") == Go(
        None, ()
    )


async def test_whoever_is_about_to_be_told_of_a_beginning_is_noted_for_its_end(redis: Any) -> None:
    await log(redis).admit("a", "triggered")

    assert await redis.hget("state:notifier:alert:f1", "to:test") == ALERT.since.encode()


async def test_a_change_that_overtakes_the_first_one_misses_no_record(redis: Any) -> None:
    await redis.hset("state:notifier:alert:f1", mapping={"status": "firing", "episode": ALERT.since, "order": "2"})

    assert await log(redis, order="2").admit("b", "triggered") == Go(None, ())


async def test_an_end_of_which_nothing_at_all_is_known_says_so(redis: Any) -> None:
    assert await log(redis, RESOLVED).admit("a", "resolved") == Go(None, (), unrecorded=True)
