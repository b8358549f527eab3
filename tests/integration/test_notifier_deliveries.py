"""From an alert on its stream to people: retries, Retry-After, superseding, edits, fail-over, the record."""

from __future__ import annotations

import functools
import json
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_services.notifier.channels import Receipt
from penstock_services.notifier.message.message import moment
from tests import standins
from tests.alerts import ALERT, RESOLVED, make_alert, make_notification
from tests.notifiers import DELAYED, Mesh
from tests.processes import eventually
from tests.servers import Server
from tests.standins import Discord, Reply, Slack, StandIn, Telegram, mail_server, refusal


@pytest.fixture
def slack() -> Iterator[Slack]:
    with Slack() as running:
        yield running


@pytest.fixture
def substitute() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


def file_for(main: StandIn, substitute: StandIn, *, kind: str = "slack") -> str:
    return f"""
retry: [10ms, 10ms, 10ms]
channels:
  main: {{type: {kind}, url: "{main.url}", rate: 100/s}}
  pager: {{type: webhook, url: "{substitute.url}"}}
routes:
  - channels: [main]
    match: [service=worker]
    failover: pager
"""


@pytest.fixture
def mesh(server: Server, raw: Any, tmp_path: Path, slack: Slack, substitute: StandIn) -> Mesh:
    return Mesh(server, raw, tmp_path, file_for(slack, substitute))


def test_an_alert_and_its_resolve_arrive_and_are_on_record(mesh: Mesh, slack: Slack) -> None:
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: len(slack.requests) == 1)
        mesh.tell(RESOLVED)
        eventually(lambda: mesh.statuses() == ["sent", "sent"])

    assert "CRITICAL" in slack.payloads[0]["text"]
    assert "RESOLVED" in slack.payloads[1]["text"]
    first = mesh.attempts()[0]
    assert (first.channel, first.rule, first.fingerprint) == ("main", "error-rate", "f1")
    assert (first.transition, first.attempt, first.code, first.answer) == ("triggered", 1, 200, "ok")
    assert first.latency is not None
    assert mesh.statuses("console") == ["sent", "sent"]


def test_after_the_schedule_the_substitute_is_called_and_the_channel_goes_on_until_it_is_back(
    mesh: Mesh, slack: Slack, substitute: StandIn, raw: Any
) -> None:
    slack.script.extend([Reply(500, "one"), Reply(502, "two"), Reply(503, "three"), Reply(500, "four"), Reply(500)])
    with mesh.notifier(CIRCUIT_BREAKER_FAILURE_THRESHOLD="1000"):
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("main")[-1:] == ["sent"] and mesh.settled)

    attempts = mesh.attempts("main")
    assert [one.attempt for one in attempts] == [1, 2, 3, 4, 5, 6]
    assert [one.status for one in attempts] == ["failed"] * 5 + ["sent"]
    assert [one.answer for one in attempts][:4] == ["one", "two", "three", "four"]
    told = [payload["data"] for payload in substitute.payloads if payload["data"]["fingerprint"] == "f1"]
    assert len(told) == 1
    assert "Sent here because channel main failed" in told[0]["notices"][0]
    assert mesh.alerts_about("main") == ["alert.triggered", "alert.resolved"]
    assert not raw.exists("state:notifier:late")


def test_deliveries_of_two_sources_under_one_id_are_two(
    mesh: Mesh, slack: Slack, substitute: StandIn, raw: Any
) -> None:
    down = threading.Event()
    down.set()
    slack.answer = lambda: Reply(503) if down.is_set() else None
    with mesh.notifier(CIRCUIT_BREAKER_FAILURE_THRESHOLD="1000"):
        for source, fingerprint in (("crm", "f1"), ("notifier", "f2"), ("shop", "f3")):
            notification = make_notification(make_alert(fingerprint=fingerprint), channel="main", failover=["pager"])
            data = msgspec.json.encode(notification)
            raw.xadd("notifications", {"type": "notification.due", "data": data, "id": "n-1", "source": source})
        eventually(lambda: raw.hlen("state:notifier:late") == 3, what="all three are late")
        eventually(lambda: {"f1", "f2", "f3"} <= {one["data"]["fingerprint"] for one in substitute.payloads})
        down.clear()
        eventually(lambda: mesh.settled)

    assert sorted(one.fingerprint for one in mesh.attempts("main") if one.status == "sent") == ["f1", "f2", "f3"]
    assert {one.delivery_id for one in mesh.attempts("main")} == {"crm:n-1", "n-1", "shop:n-1"}
    assert not raw.exists("state:notifier:late")


@pytest.mark.parametrize(("source", "messages"), [("notifier", 0), ("crm", 1)])
def test_a_receipt_of_an_older_release_is_for_the_notifiers_own_delivery(
    mesh: Mesh, slack: Slack, raw: Any, source: str, messages: int
) -> None:
    raw.hset("state:notifier:log:main:f1", "receipt:n-1", msgspec.json.encode(Receipt(code=200, answer="ok")))
    with mesh.notifier():
        data = msgspec.json.encode(make_notification(channel="main"))
        raw.xadd("notifications", {"type": "notification.due", "data": data, "id": "n-1", "source": source})
        eventually(lambda: mesh.statuses("main") == ["sent"])

    assert len(slack.requests) == messages


def test_what_is_not_true_any_more_when_the_channel_is_back_is_not_told(
    mesh: Mesh, slack: Slack, substitute: StandIn
) -> None:
    down = threading.Event()
    down.set()
    slack.answer = lambda: Reply(503) if down.is_set() else None
    mesh.configure("retry: [10ms, 300s]")
    with mesh.notifier(CIRCUIT_BREAKER_FAILURE_THRESHOLD="1000"):
        mesh.tell(ALERT)
        eventually(lambda: mesh.waiting)
        mesh.tell(RESOLVED)
        eventually(lambda: len(mesh.waiting) == 2)
        down.clear()
        before = len(slack.requests)
        mesh.let_time_pass()
        eventually(lambda: mesh.settled)

    assert len(slack.requests) == before + 1
    assert "RESOLVED" in slack.payloads[-1]["text"]


def test_what_is_given_up_is_kept_and_is_no_dead_letter(mesh: Mesh, slack: Slack, raw: Any) -> None:
    mesh.configure("  main: {type: slack, url: URL, rate: 100/s, give_up_after: 50ms}".replace("URL", slack.url))
    slack.script.extend([Reply(500)] * 20)
    with mesh.notifier(CIRCUIT_BREAKER_FAILURE_THRESHOLD="1000"):
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("main")[-1:] == ["dead"] and mesh.settled)

    assert len(mesh.attempts("main")) == 5, "waits of 10, 10, 10 and 20 ms; the next would be too much"
    assert raw.llen("state:notifier:undelivered") == 1
    assert raw.xlen("dlq") == 0


@pytest.mark.parametrize("schedule", [[1.0, 2.0, 4.0], [30.0, 300.0]])
def test_the_schedule_and_the_growing_pauses_are_kept_in_redis(
    mesh: Mesh, slack: Slack, raw: Any, schedule: list[float]
) -> None:
    mesh.configure(f"retry: {schedule}")
    slack.script.extend([Reply(500)] * 10)
    pauses = [*schedule, min(2 * schedule[-1], 300.0)]
    with mesh.notifier(CIRCUIT_BREAKER_FAILURE_THRESHOLD="1000"):
        before = mesh.now_ms
        mesh.tell(ALERT)
        for number, delay in enumerate(pauses, start=1):
            eventually(functools.partial(mesh.has_attempts, "main", number))
            score = raw.zrange(DELAYED, -1, -1, withscores=True)[0][1]
            assert before + delay * 1000 <= score <= mesh.now_ms + delay * 1000
            before = mesh.now_ms
            mesh.let_time_pass()  # nobody waits
        eventually(lambda: len(mesh.attempts("main")) == len(pauses) + 1)


@pytest.mark.parametrize("kind", ["header", "body"])
def test_retry_after_is_obeyed_to_the_millisecond(
    server: Server, raw: Any, tmp_path: Path, substitute: StandIn, kind: str
) -> None:
    busy = Reply(429, json.dumps({"retry_after": 240.25} if kind == "body" else {}), {"Retry-After": "240"})
    asked = 240_250 if kind == "body" else 240_000
    with Discord() as discord:
        mesh = Mesh(server, raw, tmp_path, file_for(discord, substitute, kind="discord"))
        discord.script.append(busy)
        with mesh.notifier():
            before = mesh.now_ms
            mesh.tell(ALERT)
            eventually(lambda: mesh.waiting)

            assert before + asked <= mesh.waiting[0] <= mesh.now_ms + asked
            told = moment(mesh.attempts("main")[0].next_attempt_at)
            assert told is not None
            assert before + asked - 1 <= told * 1000 <= mesh.now_ms + asked
            mesh.let_time_pass()
            eventually(lambda: mesh.statuses("main") == ["failed", "sent"])
    assert substitute.requests == []


@pytest.mark.parametrize("asked", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_retry_after_of_no_time_is_no_reason_to_hurry(mesh: Mesh, slack: Slack, raw: Any, asked: str) -> None:
    mesh.configure("retry: [100s]")
    slack.script.append(Reply(429, "", {"Retry-After": asked}))
    with mesh.notifier():
        before = mesh.now_ms
        mesh.tell(ALERT)
        eventually(lambda: mesh.waiting)

    assert mesh.waiting[0] >= before + 100_000


@pytest.mark.parametrize("kind", ["discord", "telegram"])
def test_a_body_that_asks_for_no_time_is_no_reason_to_hurry(
    server: Server, raw: Any, tmp_path: Path, kind: str
) -> None:
    with Discord() as discord, Telegram() as telegram:
        discord.script.extend([Reply(429, json.dumps({"retry_after": 0, "global": False}))] * 2)
        telegram.script.extend([refusal(429, "Too Many Requests", retry_after=0)] * 2)
        settings = {
            "discord": f"url: '{discord.url}'",
            "telegram": f"token: '{telegram.token}', chat_id: '42', api: '{telegram.base}'",
        }
        channel = f"{{main: {{type: {kind}, {settings[kind]}}}}}"
        mesh = Mesh(server, raw, tmp_path, f"retry: [100s, 200s]\nchannels: {channel}\nroutes: [{{channels: [main]}}]")
        with mesh.notifier():
            before = mesh.now_ms
            mesh.tell(ALERT)
            for number, pause in enumerate([100_000, 200_000], start=1):
                eventually(functools.partial(mesh.has_attempts, "main", number))
                eventually(lambda: mesh.waiting)
                assert before + pause <= mesh.waiting[0] <= mesh.now_ms + pause
                before = mesh.now_ms
                mesh.let_time_pass()
            eventually(lambda: mesh.statuses("main") == ["failed", "failed", "sent"])


@pytest.mark.parametrize("asked", ["3600", "1000000000", "1" + "0" * 300, "body"])
def test_a_channel_that_asks_for_hours_fails_for_now(
    server: Server, raw: Any, tmp_path: Path, substitute: StandIn, asked: str
) -> None:
    body = json.dumps({"retry_after": 1e300}) if asked == "body" else ""
    headers = {} if asked == "body" else {"Retry-After": asked}
    with Discord() as discord:
        discord.script.append(Reply(429, body, headers))
        mesh = Mesh(server, raw, tmp_path, file_for(discord, substitute, kind="discord"))
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: mesh.waiting and len(substitute.requests) == 2)

            assert mesh.waiting[0] <= mesh.now_ms + 300_000
            assert mesh.alerts_about("main") == ["alert.triggered"]
            mesh.let_time_pass()
            eventually(lambda: mesh.statuses("main") == ["failed", "sent"])


def test_a_message_is_not_sent_before_the_time_that_was_asked_for(mesh: Mesh, slack: Slack) -> None:
    slack.script.append(Reply(429, "", {"Retry-After": "1"}))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses() == ["failed", "sent"])

    assert slack.requests[1].at - slack.requests[0].at >= 1.0


def test_newer_changes_are_joined_in_one_message_while_the_channel_wants_to_be_left_alone(
    mesh: Mesh, slack: Slack
) -> None:
    slack.script.append(Reply(429, "", {"Retry-After": "240"}))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.waiting)
        mesh.tell(RESOLVED)
        eventually(lambda: len(mesh.waiting) == 2)
        mesh.tell(make_alert(since="2027-01-01T00:00:00.000Z", summary="It is back"))
        eventually(lambda: len(mesh.waiting) == 3)
        assert max(mesh.waiting) - min(mesh.waiting) < 10_000, "all wait for the same slot"
        mesh.let_time_pass()
        eventually(lambda: mesh.settled)

    assert len(slack.requests) == 2
    message = json.dumps(slack.payloads[1])
    assert "It is back" in message
    assert "Stands also for" in message
    assert mesh.statuses("main") == ["failed", "sent"]


def test_a_resolve_that_overtakes_its_trigger_becomes_one_message(mesh: Mesh, slack: Slack) -> None:
    slack.script.append(Reply(503, "", {"Retry-After": "240"}))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.waiting)
        mesh.tell(RESOLVED)
        eventually(lambda: len(mesh.waiting) == 2)
        mesh.let_time_pass()
        eventually(lambda: mesh.settled)

    assert len(slack.requests) == 2
    assert "RESOLVED" in slack.payloads[1]["text"]


@pytest.mark.parametrize("kind", ["discord", "telegram", "slack"])
def test_one_alert_is_one_message_through_its_life_where_the_channel_can_edit(
    server: Server, raw: Any, tmp_path: Path, kind: str
) -> None:
    with {"discord": Discord, "telegram": standins.Telegram, "slack": Slack}[kind]() as channel:
        notify, env = "", {"OPS_ALERT_WEBHOOK_URL": channel.url, "OPS_ALERT_WEBHOOK_PROVIDER": "discord"}
        if kind == "telegram":
            env = {"TELEGRAM_BOT_TOKEN": channel.token, "TELEGRAM_CHAT_ID": "42", "TELEGRAM_API_URL": channel.base}
        elif kind == "slack":
            (tmp_path / "token").write_text(f"{channel.token}\n")
            env = {"BOT_TOKEN_FILE": str(tmp_path / "token")}
            notify = f"""
channels:
  main: {{type: slack, token: "${{BOT_TOKEN}}", channel: "#ops", api: "{channel.api}", rate: 100/s}}
routes: [{{channels: [main]}}]
"""
        mesh = Mesh(server, raw, tmp_path, notify, **env)
        with mesh.notifier():
            for number, (what, alert) in enumerate(
                (
                    ("triggered", ALERT),
                    ("repeated", make_alert(reason="still")),
                    ("acknowledged", make_alert(acknowledged_by="ann")),
                    ("unacknowledged", make_alert(unacknowledged_by="bob")),
                    ("resolved", RESOLVED),
                ),
                start=1,
            ):
                mesh.tell(alert, what)
                eventually(lambda: len(mesh.statuses()) == number)  # noqa: B023 - awaited within the turn

        assert mesh.statuses() == ["sent"] * 5
        assert len(channel.messages) == 1
        assert "RESOLVED" in str(channel.messages)


LATER = {
    "repeated": make_alert(reason="still"),
    "acknowledged": make_alert(acknowledged_by="ann"),
    "unacknowledged": make_alert(unacknowledged_by="ann"),
    "resolved": RESOLVED,
}


@pytest.mark.parametrize("lost", ["log", "everything"])
@pytest.mark.parametrize("what", LATER)
def test_what_follows_a_message_whose_record_is_lost_says_so_once(
    mesh: Mesh, slack: Slack, raw: Any, what: str, lost: str
) -> None:
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses() == ["sent"] and mesh.settled)
        for key in raw.scan_iter("state:notifier:log:*" if lost == "log" else "state:notifier:*"):
            raw.delete(key)
        mesh.tell(LATER[what], what)
        eventually(lambda: mesh.statuses() == ["sent"] * 2 and mesh.settled)
        if what != "resolved":
            mesh.tell(make_alert(reason="and on"), "repeated")
            eventually(lambda: mesh.statuses() == ["sent"] * 3 and mesh.settled)

    said = ["There is no record here of an earlier message" in json.dumps(one) for one in slack.payloads]
    assert said == [False, True, False][: len(said)]


def test_where_no_message_has_arrived_before_none_is_missed(mesh: Mesh, slack: Slack, substitute: StandIn) -> None:
    slack.script.append(Reply(400, "invalid_payload"))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("main") == ["dead"] and mesh.settled)
        mesh.tell(LATER["repeated"], "repeated")
        eventually(lambda: mesh.statuses("main") == ["dead", "sent"] and mesh.settled)

    assert "There is no record" not in f"{slack.payloads} {substitute.payloads}"


def test_where_the_channel_can_edit_the_resolve_edits(
    server: Server, raw: Any, tmp_path: Path, substitute: StandIn
) -> None:
    with Discord() as discord:
        mesh = Mesh(server, raw, tmp_path, file_for(discord, substitute, kind="discord"))
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: mesh.statuses() == ["sent"])
            mesh.tell(RESOLVED)
            eventually(lambda: mesh.statuses() == ["sent", "sent"])

        assert [request.method for request in discord.requests] == ["POST", "PATCH"]
        assert list(discord.messages) == ["1000"]


def test_a_permanent_failure_goes_to_the_substitute_and_raises_one_alert_about_the_channel(
    mesh: Mesh, slack: Slack, substitute: StandIn, raw: Any
) -> None:
    slack.script.extend([Reply(400, "invalid_payload"), Reply(400, "invalid_payload")])
    with mesh.notifier():
        mesh.tell(ALERT)
        mesh.tell(make_alert(fingerprint="f2"))
        eventually(lambda: mesh.alerts_about("main") and mesh.settled)

        assert mesh.alerts_about("main") == ["alert.triggered"]
        told = [payload["data"]["fingerprint"] for payload in substitute.payloads]
        assert sorted(told) == ["f1", "f2", "notification-channel"]
        assert mesh.statuses("main") == ["dead", "dead"]

        mesh.tell(make_alert(fingerprint="f3"))  # and now it works again
        eventually(lambda: len(mesh.alerts_about("main")) == 2 and mesh.settled)

    assert mesh.alerts_about("main") == ["alert.triggered", "alert.resolved"]
    assert substitute.payloads[-1]["type"] == "alert.resolved"


@pytest.mark.parametrize("redis", ["there", "away"])
def test_a_failing_channel_that_is_removed_ends_its_alert_without_a_restart(
    own_server: Server, tmp_path: Path, slack: Slack, substitute: StandIn, redis: str
) -> None:
    slack.answer = lambda: Reply(400, "invalid_payload")
    with own_server.client() as raw:
        mesh = Mesh(own_server, raw, tmp_path, file_for(slack, substitute))
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: mesh.alerts_about("main") == ["alert.triggered"] and mesh.settled)
            if redis == "away":
                own_server.stop()
            mesh.write(f"channels: {{pager: {{type: webhook, url: '{substitute.url}'}}}}")
            eventually(lambda: mesh.logged("notify.yaml was read again"))
            if redis == "away":
                own_server.start()
            eventually(lambda: raw.exists("alerts") and mesh.alerts_about("main")[1:] == ["alert.resolved"])
            eventually(lambda: "notify.reloaded" in str(raw.xrange("deliveries")), what="it is told too")

        assert not raw.exists("state:notifier:failing")


@pytest.mark.parametrize("kind", ["pagerduty", "opsgenie"])
def test_an_incident_is_closed_though_its_channel_has_another_name_by_then(
    server: Server, raw: Any, tmp_path: Path, kind: str
) -> None:
    with StandIn() as vendor:
        vendor.answer = lambda: Reply(202, "{}")
        key = {"pagerduty": f"routing_key: {'f' * 32}", "opsgenie": "key: k-1"}[kind]
        notify = f"""
channels:
  first: {{type: {kind}, {key}, api: '{vendor.base}'}}
routes: [{{channels: [first]}}]
"""
        mesh = Mesh(server, raw, tmp_path, notify)
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: mesh.statuses("first") == ["sent"])
            mesh.write(notify.replace("first", "second"))
            eventually(lambda: mesh.logged("notify.yaml was read again"))
            mesh.tell(RESOLVED)
            eventually(lambda: mesh.statuses("second") == ["sent"])

        opened, closed = vendor.requests
        if kind == "pagerduty":
            assert [told["event_action"] for told in vendor.payloads] == ["trigger", "resolve"]
            assert opened.json["dedup_key"] == closed.json["dedup_key"]
        else:
            assert closed.path.startswith(f"/v2/alerts/{opened.json['alias']}/close?")
        assert raw.xlen("dlq") == 0


def test_on_call_reaches_whoever_is_on_duty_and_nobody_else(server: Server, raw: Any, tmp_path: Path) -> None:
    with StandIn() as first, StandIn() as second, StandIn() as third, StandIn() as asleep:
        first.answer = lambda: Reply(400, "no")
        duty = "starts: 2026-01-05T09:00:00, overrides: [{from: 2026-01-05T09:00:00, to: 2100-01-01T00:00:00, channel: "
        notify = f"""
channels:
  ann: {{type: webhook, url: "{first.url}"}}
  bob: {{type: webhook, url: "{second.url}"}}
  eve: {{type: webhook, url: "{third.url}"}}
  zoe: {{type: webhook, url: "{asleep.url}"}}
on_call:
  primary: {{rotation: [zoe], {duty}ann}}]}}
  secondary: {{rotation: [zoe], {duty}bob}}]}}
  manager: {{rotation: [zoe], {duty}eve}}]}}
routes:
  - {{channels: [primary], match: [service=worker], failover: secondary, then: manager after 1s unless acknowledged}}
"""
        mesh = Mesh(server, raw, tmp_path, notify)
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: mesh.statuses("ann") == ["dead"] and "sent" in mesh.statuses("bob"))
            eventually(lambda: "sent" in mesh.statuses("eve") and mesh.settled)

        told = [[one["data"]["fingerprint"] for one in post.payloads] for post in (first, second, third, asleep)]
        assert [posts.count("f1") for posts in told] == [1, 1, 1, 0]
        said = [one["data"] for one in (*second.payloads, *third.payloads) if one["data"]["fingerprint"] == "f1"]
        assert "Sent here because channel ann failed" in said[0]["notices"][0]
        assert "Nobody has acknowledged it within 1 s." in said[1]["notices"][0]


def test_many_channels_that_fail_at_once_are_one_alert_on_one_channel(server: Server, raw: Any, tmp_path: Path) -> None:
    count = 16
    with StandIn() as broken, StandIn() as sound, StandIn() as other:
        broken.answer = lambda: Reply(400, "no")
        channels = "".join(f'  c{n}: {{type: webhook, url: "{broken.url}/{n}"}}\n' for n in range(count))
        names = ", ".join(f"c{n}" for n in range(count))
        notify = f"""
channels:
{channels}
  sound: {{type: webhook, url: "{sound.url}"}}
  other: {{type: webhook, url: "{other.url}"}}
routes: [{{channels: [{names}], match: [service=worker]}}]
"""
        mesh = Mesh(server, raw, tmp_path, notify)
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: mesh.alerts_about("c0") or raw.zcard("notifications:scheduled"))
            eventually(lambda: len(mesh.attempts()) >= count + 1 and mesh.settled)
            for member in raw.zrange("notifications:scheduled", 0, -1):
                raw.zadd("notifications:scheduled", {member: 0}, xx=True)
            eventually(lambda: mesh.alerts_about(f"c{count - 1}") and mesh.settled)

        assert len(sound.requests) == 2, "when it began, and what else had failed half a minute later"
        assert other.requests == []
        assert f"{count} channels do not deliver" in sound.payloads[-1]["data"]["summary"]


def test_a_channel_that_failed_and_is_not_in_notify_yaml_any_more_ends_its_alert(
    mesh: Mesh, slack: Slack, substitute: StandIn
) -> None:
    slack.script.append(Reply(400, "invalid_payload"))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.alerts_about("main") == ["alert.triggered"] and mesh.settled)
    mesh.write(file_for(slack, substitute).replace("main", "renamed"))
    with mesh.notifier():
        eventually(lambda: mesh.alerts_about("main") == ["alert.triggered", "alert.resolved"])


def test_a_target_that_is_gone_is_never_used_again_until_a_test_succeeds(
    mesh: Mesh, slack: Slack, substitute: StandIn, raw: Any
) -> None:
    slack.script.append(Reply(404, "no_service"))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("main") == ["dead"] and mesh.settled)
        mesh.tell(make_alert(fingerprint="f2"))
        eventually(lambda: len(mesh.statuses("main")) == 2 and mesh.settled)

        assert len(slack.requests) == 1
        assert "not used any more" in (mesh.attempts("main")[1].error or "")
        assert {"f1", "f2"} <= {payload["data"]["fingerprint"] for payload in substitute.payloads}

        raw.xadd("notifications", {"type": "notification.test", "data": '{"channel": "main"}', "id": "test-1"})
        eventually(lambda: mesh.statuses("main")[-1] == "sent")
        mesh.tell(make_alert(fingerprint="f3"))
        eventually(lambda: len(slack.requests) == 3)

    assert mesh.attempts("main")[2].transition == "test"


def test_while_its_breaker_is_open_a_channel_is_passed_over(
    mesh: Mesh, slack: Slack, substitute: StandIn, raw: Any
) -> None:
    slack.script.extend([Reply(500)] * 100)
    with mesh.notifier(CIRCUIT_BREAKER_FAILURE_THRESHOLD="2", CIRCUIT_BREAKER_RECOVERY_TIMEOUT="3600"):
        for number in range(6):
            mesh.tell(make_alert(fingerprint=f"f{number}"))
        eventually(lambda: {f"f{n}" for n in range(6)} <= {one["data"]["fingerprint"] for one in substitute.payloads})
        eventually(lambda: mesh.alerts_about("main") and len(substitute.payloads) >= 7)

    assert len(substitute.payloads) == 7, "six alerts and the one about the channel, each once"
    assert mesh.alerts_about("main") == ["alert.triggered"]


def test_each_recipient_of_a_mail_is_a_delivery_of_its_own(
    server: Server, raw: Any, tmp_path: Path, substitute: StandIn
) -> None:
    with mail_server() as post:
        mesh = Mesh(
            server,
            raw,
            tmp_path,
            f"""
retry: [10ms, 10ms]
channels:
  mail:
    type: email
    host: 127.0.0.1
    port: {post.port}
    from: alerts@example.com
    to: [good@example.com, slow@example.com, gone@example.com]
  pager: {{type: webhook, url: "{substitute.url}"}}
routes: [{{channels: [mail], match: [service=*], failover: pager}}]
""",
        )
        post.refusals["slow@example.com"] = deque(["450 greylisted"])
        post.refusals["gone@example.com"] = deque(["550 no such user"])
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: len(mesh.attempts("mail")) == 4 and mesh.settled)

        received = [recipient for mail in post.mails for recipient in mail.recipients]
        assert sorted(received) == ["good@example.com", "slow@example.com"]
        ends = {one.recipient: one.status for one in mesh.attempts("mail")}
        assert ends == {"good@example.com": "sent", "slow@example.com": "sent", "gone@example.com": "dead"}


def test_secrets_are_in_no_record(server: Server, raw: Any, tmp_path: Path) -> None:
    with standins.Telegram() as telegram:
        telegram.script.append(standins.refusal(403, f"Forbidden: bot{telegram.token} was kicked"))
        mesh = Mesh(
            server,
            raw,
            tmp_path,
            "",
            TELEGRAM_BOT_TOKEN=telegram.token,
            TELEGRAM_CHAT_ID="42",
            TELEGRAM_API_URL=telegram.base,
        )
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: mesh.statuses("telegram")[:1] == ["dead"] and mesh.settled)

    everything = [raw.xrange(stream) for stream in ("deliveries", "dlq", "alerts", "notifications")]
    everything += [raw.hgetall(key) for key in raw.scan_iter("state:notifier:*", _type="hash")]
    assert "kicked" in str(everything)
    assert telegram.token not in str(everything)
    assert telegram.token not in mesh.log.read_text()


def test_what_an_endpoint_repeats_of_a_credential_goes_nowhere(
    server: Server, raw: Any, tmp_path: Path, substitute: StandIn
) -> None:
    with StandIn() as hook:
        hook.script.append(Reply(403, "token Xk29sLq81ZmPw04T is not valid"))
        notify = f"""
channels:
  main: {{type: webhook, url: "{hook.url}", headers: {{Authorization: Bearer Xk29sLq81ZmPw04T}}}}
  pager: {{type: webhook, url: "{substitute.url}"}}
routes: [{{channels: [main], match: [service=worker], failover: pager}}]
"""
        mesh = Mesh(server, raw, tmp_path, notify)
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: len(substitute.requests) == 2 and mesh.settled)

    everything = [raw.xrange(key) for key in raw.scan_iter("*", _type="stream")]
    everything += [raw.hgetall(key) for key in raw.scan_iter("*", _type="hash")]
    everything += [raw.lrange(key, 0, -1) for key in raw.scan_iter("*", _type="list")]
    told = f"{everything} {substitute.payloads} {mesh.log.read_text()}"
    assert "token *** is not valid" in told
    assert "Xk29sLq81ZmPw04T" not in told


def test_a_bare_webhook_url_does_without_any_file(
    server: Server, raw: Any, tmp_path: Path, substitute: StandIn
) -> None:
    mesh = Mesh(
        server,
        raw,
        tmp_path,
        "",
        OPS_ALERT_WEBHOOK_URL=substitute.url,
        OPS_ALERT_WEBHOOK_MIN_SEVERITY="critical",
        OPS_ALERT_WEBHOOK_AUTH_HEADER="X-Token",
        OPS_ALERT_WEBHOOK_AUTH_VALUE="t0ken",
    )
    with mesh.notifier():
        mesh.tell(make_alert(fingerprint="f2", severity="warning"))
        mesh.tell(ALERT)
        eventually(lambda: len(mesh.attempts("console")) == 2 and mesh.attempts("ops") and mesh.settled)

    assert [payload["data"]["fingerprint"] for payload in substitute.payloads] == ["f1"]
    assert substitute.requests[0].headers["x-token"] == "t0ken"


def test_a_private_target_fails_over_and_the_record_says_how_to_allow_it(
    mesh: Mesh, slack: Slack, substitute: StandIn
) -> None:
    with mesh.notifier(PENSTOCK_ALLOW_PRIVATE_TARGETS="false"):
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("main") and mesh.statuses("pager") and mesh.settled)

    assert set(mesh.statuses()) == {"dead"}
    error = mesh.attempts("main")[0].error or ""
    assert "allow_private: true under channels.main in notify.yaml" in error
    assert slack.requests == substitute.requests == []


def test_an_alert_that_is_published_while_no_notifier_runs_is_not_lost(mesh: Mesh, slack: Slack) -> None:
    mesh.tell(ALERT)
    with mesh.notifier():
        eventually(lambda: mesh.statuses() == ["sent"])


def test_a_restart_repeats_nothing_and_edits_still(
    server: Server, raw: Any, tmp_path: Path, substitute: StandIn
) -> None:
    with Discord() as discord:
        mesh = Mesh(server, raw, tmp_path, file_for(discord, substitute, kind="discord"))
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: mesh.statuses() == ["sent"] and mesh.settled)
        with mesh.notifier():
            mesh.tell(RESOLVED)
            eventually(lambda: mesh.statuses() == ["sent", "sent"])

        assert [request.method for request in discord.requests] == ["POST", "PATCH"]


def test_escalation_and_digest_come_when_their_time_has(
    server: Server, raw: Any, tmp_path: Path, substitute: StandIn
) -> None:
    with StandIn() as hook, StandIn() as gathered:
        notify = f"""
channels:
  main: {{type: webhook, url: "{hook.url}"}}
  pager: {{type: webhook, url: "{substitute.url}"}}
  later: {{type: webhook, url: "{gathered.url}"}}
routes:
  - {{channels: [main], match: [service=worker], then: pager after 1s unless acknowledged}}
  - {{channels: [later], match: [service=worker], batch: 1s}}
"""
        mesh = Mesh(server, raw, tmp_path, notify)
        with mesh.notifier():
            mesh.tell(ALERT)
            eventually(lambda: len(substitute.requests) == 1 and gathered.requests and hook.requests)
            mesh.tell(make_alert(acknowledged_by="ann"), "acknowledged")
            eventually(lambda: len(substitute.requests) == len(hook.requests) == 2)
            mesh.tell(RESOLVED)
            eventually(lambda: len(substitute.requests) == len(hook.requests) == 3)
            eventually(lambda: "resolved: " in gathered.payloads[-1]["data"]["reason"])

        assert [one["type"].partition(".")[2] for one in substitute.payloads] == [
            "triggered",
            "acknowledged",
            "resolved",
        ]
        assert "Nobody has acknowledged it within 1 s." in substitute.payloads[0]["data"]["notices"][0]
        assert "1 alert in 1 s" in gathered.payloads[0]["data"]["summary"]
