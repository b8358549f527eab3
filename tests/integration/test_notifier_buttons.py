"""Buttons under alerts in Slack and Telegram: who presses one acknowledges, once, from where it counts."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.mesh.alerts import Acknowledgement, Notice
from penstock.schemas import Alert, ButtonPressed
from tests.alerting import lagging, manager, publish, rules_text
from tests.alerts import ALERT, RESOLVED, make_alert
from tests.notifiers import Mesh
from tests.presses import APP_TOKEN, SlackApp, TelegramBot
from tests.processes import eventually
from tests.servers import Server
from tests.standins import Reply

OVER = "This is over, or it fires anew: then its newest message has the buttons that count. Nothing was changed."
FOREIGN = "Buttons count only from where notify.yaml says, and not from here. Nothing was changed."
UNKNOWN = "This button is not one of ours any more. Nothing was changed."


@pytest.fixture
def slack() -> Iterator[SlackApp]:
    with SlackApp() as running:
        yield running


@pytest.fixture
def telegram() -> Iterator[TelegramBot]:
    with TelegramBot() as running:
        yield running


def file_for(channel: str) -> str:
    return f"channels:\n  main: {channel}\nroutes:\n  - channels: [main]\n"


def file_for_both(slack: SlackApp, telegram: TelegramBot) -> str:
    return f"channels:\n  main: {slack.notify}\n  chat: {telegram.notify}\nroutes: [{{channels: [main, chat]}}]\n"


@pytest.fixture
def mesh(server: Server, raw: Any, tmp_path: Path, slack: SlackApp) -> Mesh:
    return Mesh(server, raw, tmp_path, file_for(slack.notify))


@pytest.fixture
def chat(server: Server, raw: Any, tmp_path: Path, telegram: TelegramBot) -> Mesh:
    return Mesh(server, raw, tmp_path, file_for(telegram.notify))


@pytest.fixture
def both(server: Server, raw: Any, tmp_path: Path, slack: SlackApp, telegram: TelegramBot) -> Mesh:
    return Mesh(server, raw, tmp_path, file_for_both(slack, telegram))


def fires(mesh: Mesh, alert: Alert = ALERT) -> None:
    """Let an alert fire, as the alert manager notes and tells it."""
    notice = Notice(alert=alert, members=(alert.fingerprint,), known=(alert.fingerprint,), sent=time.time())
    mesh.raw.hset("state:alerts:notices", alert.fingerprint, msgspec.json.encode(notice))
    mesh.tell(alert)


def said(mesh: Mesh) -> dict[str, tuple[str, bool]]:
    """Return what is said of alerts, and not yet heeded: by whom, and whether it is taken back."""
    rows = mesh.raw.hgetall("state:alerts:acknowledgements")
    found = {key.decode(): msgspec.json.decode(row, type=Acknowledgement) for key, row in rows.items()}
    return {key: (one.by, one.withdrawn) for key, one in found.items()}


def presses(mesh: Mesh) -> list[ButtonPressed]:
    rows = [fields for _, fields in mesh.raw.xrange("notifications") if fields[b"type"] == b"button.pressed"]
    return [msgspec.json.decode(fields[b"data"], type=ButtonPressed) for fields in rows]


def history(raw: Any) -> list[tuple[str, str]]:
    rows = [json.loads(row) for row in raw.lrange("state:alerts:history", 0, -1)]
    return [(row["what"], row["why"]) for row in rows if "acknowledged" in row["what"]][::-1]


@pytest.fixture
def alarm(server: Server, raw: Any, tmp_path: Path) -> Iterator[float]:
    """Run an alert manager for which something fires from the first window on; yield when that began."""
    rules = tmp_path / "alerts.yaml"
    rules.write_text(rules_text(lag="kind: threshold\nseries: lag_age\nabove: 30s"))
    began = time.time() // 10 * 10 - 600
    with manager(server, rules):
        publish(raw, lagging(began, 40))
        yield began


@pytest.mark.parametrize("way", ["url", "token"])
def test_an_alert_is_acknowledged_and_given_back_in_slack(
    mesh: Mesh, raw: Any, slack: SlackApp, alarm: float, way: str
) -> None:
    if way == "token":
        mesh.write(file_for(slack.notify_as_bot))
    with mesh.notifier():
        eventually(lambda: slack.messages and slack.connections)
        assert slack.button()["text"]["text"] == "Acknowledge"  # type: ignore[index]
        envelope = slack.press(by="ada")
        eventually(lambda: slack.whispers == ["You have taken it on."])
        eventually(lambda: "ACKNOWLEDGED" in slack.messages[0]["text"])
        assert "*Acknowledged by*\nada" in json.dumps(slack.messages[0]["blocks"]).replace("\\n", "\n")
        assert slack.button()["text"]["text"] == "Undo acknowledgement"  # type: ignore[index]
        assert slack.acknowledged == [envelope["envelope_id"]]

        slack.press(by="bob")
        eventually(lambda: "WARNING" in slack.messages[0]["text"])
        assert "Nobody is on it any more: bob has taken the acknowledgement back." in json.dumps(slack.messages[0])
        eventually(lambda: slack.whispers[1:] == ["Nobody is on it any more; escalations begin anew."])
        assert slack.button()["text"]["text"] == "Acknowledge"  # type: ignore[index]

        publish(raw, lagging(alarm + 10, 4))
        eventually(lambda: "RESOLVED" in slack.messages[0]["text"])
        assert slack.button() is None

    assert len(slack.messages) == 1, "all of it is one message"
    lent = [one for one in slack.requests if one.path.startswith("/actions/") and one.json["replace_original"]]
    assert bool(lent) == (way == "url"), "a bot edits by itself"
    why = "with a button in main"
    assert history(raw) == [("acknowledged", f"by ada: {why}"), ("unacknowledged", f"by bob: {why}")]


def test_an_alert_is_acknowledged_and_given_back_in_telegram(
    chat: Mesh, raw: Any, telegram: TelegramBot, alarm: float
) -> None:
    with chat.notifier():
        eventually(lambda: telegram.messages)
        query = telegram.press()
        eventually(lambda: telegram.answers.get(query) == "You have taken it on.")
        eventually(lambda: "ACKNOWLEDGED" in telegram.messages[100]["text"])
        assert "<b>Acknowledged by:</b> @ada" in telegram.messages[100]["text"]

        query = telegram.press(first_name="Bob", last_name="B.", username="", id=8)
        eventually(lambda: telegram.answers.get(query) == "Nobody is on it any more; escalations begin anew.")
        eventually(lambda: "WARNING" in telegram.messages[100]["text"])
        assert "Bob B. (8) has taken the acknowledgement back" in telegram.messages[100]["text"]

        publish(raw, lagging(alarm + 10, 4))
        eventually(lambda: "RESOLVED" in telegram.messages[100]["text"])
        assert telegram.keyboard(100) is None
        eventually(lambda: telegram.unconfirmed == 0)

    assert list(telegram.messages) == [100], "all of it is one message"
    assert [what for what, _ in history(raw)] == ["acknowledged", "unacknowledged"]


def test_a_press_counts_once_however_often_it_comes(mesh: Mesh, slack: SlackApp) -> None:
    with mesh.notifier():
        fires(mesh)
        eventually(lambda: slack.messages)
        envelope = slack.press(by="ada")
        slack.send({**envelope, "envelope_id": "again", "retry_attempt": 1, "retry_reason": "timeout"})
        eventually(lambda: slack.acknowledged == [envelope["envelope_id"], "again"] and slack.whispers)
        slack.press(by="bob")
        slack.press(by="ada")
        eventually(lambda: len(slack.whispers) == 3 and mesh.settled)

    assert sorted(slack.whispers) == ["You have taken it on."] * 2 + ["ada has taken it on already."]
    assert [one.by for one in presses(mesh)] == ["ada", "bob", "ada"]
    assert said(mesh) == {"f1": ("ada", False)}


def test_an_update_that_comes_again_counts_once(chat: Mesh, telegram: TelegramBot) -> None:
    with chat.notifier():
        fires(chat)
        eventually(lambda: telegram.messages)
        telegram.press()
        eventually(lambda: telegram.answers and telegram.unconfirmed == 0)
        telegram.repeat()  # what another replica is given that does not know what was confirmed
        telegram.press(username="bob")
        eventually(lambda: len(telegram.answers) == 2 and telegram.unconfirmed == 0)

    assert [one.by for one in presses(chat)] == ["@ada", "@bob"]
    assert list(telegram.answers.values()) == ["You have taken it on.", "@ada has taken it on already."]


@pytest.mark.parametrize("now", ["over", "anew"])
def test_a_button_under_what_is_over_is_answered_and_changes_nothing(
    mesh: Mesh, raw: Any, slack: SlackApp, now: str
) -> None:
    with mesh.notifier():
        fires(mesh)
        eventually(lambda: slack.messages)
        raw.delete("state:alerts:notices")
        mesh.tell(RESOLVED)
        eventually(lambda: len(slack.messages) == 2)
        if now == "anew":
            fires(mesh, make_alert(since="2027-01-01T00:00:00.000Z"))
            eventually(lambda: len(slack.messages) == 3)
        slack.press(0)
        eventually(lambda: slack.whispers == [OVER])
        undo = slack.button(0)["value"].replace(" ack ", " unack ")  # type: ignore[index]
        slack.press(0, value=undo)
        eventually(lambda: len(slack.whispers) == 2 and mesh.settled)
        assert slack.whispers[1].startswith("Nobody has taken this on, or it is over.")

    assert said(mesh) == {}
    assert "RESOLVED" in slack.messages[1]["text"]
    assert "CRITICAL" in slack.messages[0]["text"], "its message is not touched"


FOREIGNERS: list[tuple[dict[str, Any], str]] = [
    ({"team": {"id": "T999", "domain": "other"}}, FOREIGN),
    ({"user": {"id": "U1", "username": "eve", "team_id": "T999"}}, FOREIGN),  # a guest in a shared channel
    ({"team": None, "user": {"id": "U1"}}, FOREIGN),
    ({"value": f"other ack {ALERT.since} f1"}, UNKNOWN),
    ({"value": f"console ack {ALERT.since} f1"}, UNKNOWN),
    ({"value": "main resolve it f1"}, UNKNOWN),
]


@pytest.mark.parametrize(("payload", "answer"), FOREIGNERS)
def test_a_press_from_elsewhere_in_slack_is_answered_and_changes_nothing(
    mesh: Mesh, slack: SlackApp, payload: dict[str, Any], answer: str
) -> None:
    with mesh.notifier():
        fires(mesh)
        eventually(lambda: slack.messages)
        envelope = slack.press(**payload)
        eventually(lambda: slack.whispers == [answer] and slack.acknowledged == [envelope["envelope_id"]])

    assert (presses(mesh), said(mesh)) == ([], {})
    assert mesh.logged("a press of a button does not count") == 1


def test_an_app_speaks_for_its_own_channels_only(mesh: Mesh, slack: SlackApp) -> None:
    other = slack.notify.replace(APP_TOKEN, "xapp-2-of-another-app")
    mesh.write(f"channels:\n  main: {slack.notify}\n  elsewhere: {other}\nroutes: [{{channels: [main]}}]\n")
    with mesh.notifier():
        fires(mesh)
        eventually(lambda: slack.messages)
        slack.press(value=f"elsewhere ack {ALERT.since} f1")
        eventually(lambda: slack.whispers == [UNKNOWN])

    assert (presses(mesh), said(mesh)) == ([], {})


@pytest.mark.parametrize(
    ("press", "answer"),
    [
        ({"chat": 43}, FOREIGN),
        ({"data": "ack"}, UNKNOWN),
        ({"data": "\x00 \x00 \x00"}, UNKNOWN),
    ],
)
def test_a_press_from_elsewhere_in_telegram_is_answered_and_changes_nothing(
    chat: Mesh, telegram: TelegramBot, press: dict[str, Any], answer: str
) -> None:
    with chat.notifier():
        fires(chat)
        eventually(lambda: telegram.messages)
        query = telegram.press(**press)
        eventually(lambda: telegram.answers == {query: answer} and telegram.unconfirmed == 0)

    assert (presses(chat), said(chat)) == ([], {})


def test_a_chat_that_has_moved_is_the_same_chat(chat: Mesh, raw: Any, telegram: TelegramBot) -> None:
    with chat.notifier():
        fires(chat)
        eventually(lambda: telegram.messages and chat.settled)
        telegram.moved_to = "-1042"
        chat.tell(make_alert(fingerprint="f2", rule="another"))
        eventually(lambda: raw.hvals("state:notifier:moved") == [b"-1042"])
        query = telegram.press(chat=-1042)
        eventually(lambda: telegram.answers.get(query) == "You have taken it on.")


def test_slacks_connection_is_read_to_its_end_beside_the_next(mesh: Mesh, slack: SlackApp) -> None:
    with mesh.notifier():
        fires(mesh)
        eventually(lambda: slack.messages and slack.connections == 1)
        slack.disconnect("warning")
        eventually(lambda: slack.connections == 2)
        slack.press(by="ada")  # on the old one
        eventually(lambda: slack.whispers == ["You have taken it on."])
        slack.close()
        eventually(lambda: slack.connections == 1)
        slack.press(by="bob")
        eventually(lambda: slack.whispers[1:] == ["ada has taken it on already."])
        assert slack.opened == 2

        slack.close()  # without a word
        slack.press(by="cid")  # on the next
        eventually(lambda: len(slack.whispers) == 3)
    assert slack.opened == 3


def test_what_slack_refuses_is_said_and_tried_again(mesh: Mesh, slack: SlackApp) -> None:
    slack.refusals.append(Reply(200, '{"ok": false, "error": "invalid_auth"}'))
    slack.refusals.append(Reply(429, "", {"Retry-After": "1"}))
    slack.refusals.append(Reply(200, slack.ticket("/nothing")))
    with mesh.notifier():
        eventually(lambda: slack.connections == 1)
        eventually(lambda: mesh.logged("presses of buttons are heard again"))

    log = mesh.log.read_text()
    assert "Slack refuses the app_token of channels.main: invalid_auth; it has to be an app-level token" in log
    assert "the WebSocket was refused: 404" in log
    assert APP_TOKEN not in log
    assert "s3cret" not in log


def test_a_bot_that_others_read_is_said(chat: Mesh, telegram: TelegramBot) -> None:
    conflict = "Conflict: can't use getUpdates method while webhook is active"
    telegram.script.append(Reply(409, json.dumps({"ok": False, "error_code": 409, "description": conflict})))
    with chat.notifier():
        eventually(lambda: telegram.is_asked)

    log = chat.log.read_text()
    assert f"{conflict}; the bot of channels.main has to be Penstock's alone" in log
    assert telegram.token not in log


def test_one_replica_listens_and_another_takes_its_place(
    both: Mesh, raw: Any, slack: SlackApp, telegram: TelegramBot
) -> None:
    mesh = both
    with mesh.notifier() as first:
        eventually(lambda: slack.connections == 1 and telegram.is_asked)
        with mesh.notifier(PENSTOCK_NOTIFIER_PORT="0") as second:
            fires(mesh)
            eventually(lambda: slack.messages and telegram.messages)
            slack.press(by="ada")
            query = telegram.press(username="bob")
            eventually(lambda: len(slack.whispers) == 1 and query in telegram.answers)
            assert (slack.opened, telegram.conflicts) == (1, 0)

            held = {key: raw.get(key) for key in raw.scan_iter("lock:buttons:*")}
            first.send_signal(signal.SIGTERM)
            first.wait()
            assert len(held) == 2
            assert all(raw.get(key) != holder for key, holder in held.items()), "it gives its place up"
            eventually(lambda: slack.opened == 2 and slack.connections == 1)
            query = telegram.press(username="cid")
            slack.press(by="dan")
            eventually(lambda: len(slack.whispers) == 2 and query in telegram.answers)

            with mesh.notifier(PENSTOCK_NOTIFIER_PORT="0"):
                second.kill()  # it does not; its time runs out
                eventually(lambda: slack.connections == 0)
                for key in raw.scan_iter("lock:buttons:*"):
                    assert 0 < raw.pttl(key) <= 10_000
                    raw.delete(key)
                eventually(lambda: slack.opened == 3 and slack.connections == 1)
                query = telegram.press(username="eve")
                eventually(lambda: query in telegram.answers)

    assert sorted(one.by for one in presses(mesh)) == ["@bob", "@cid", "@eve", "ada", "dan"]


def test_who_was_paused_for_too_long_listens_no_more(mesh: Mesh, raw: Any, slack: SlackApp) -> None:
    with mesh.notifier():
        eventually(lambda: slack.connections == 1)
        (key,) = raw.scan_iter("lock:buttons:*")
        raw.set(key, "another", px=10_000)  # it came while this one was paused
        eventually(lambda: slack.connections == 0)
        raw.delete(key)
        eventually(lambda: slack.connections == 1)


def test_while_redis_is_away_a_press_is_not_taken_for_heard(
    own_server: Server, tmp_path: Path, slack: SlackApp, telegram: TelegramBot
) -> None:
    raw = own_server.client()
    mesh = Mesh(own_server, raw, tmp_path, file_for_both(slack, telegram))
    with mesh.notifier():
        fires(mesh)
        eventually(lambda: slack.messages and telegram.messages and mesh.settled)
        own_server.kill()
        envelope = slack.press(by="ada")
        query = telegram.press(username="ada")
        eventually(lambda: mesh.logged("a press of a button has to come again") >= 2)
        assert (slack.acknowledged, telegram.answers) == ([], {})
        assert telegram.unconfirmed == 1

        own_server.restart()
        fires(mesh)
        slack.send({**envelope, "envelope_id": "again", "retry_attempt": 1, "retry_reason": "timeout"})
        eventually(lambda: slack.acknowledged == ["again"] and query in telegram.answers)
        eventually(lambda: len(presses(mesh)) == 2 and len(slack.whispers) == 1)


def test_where_the_message_cannot_be_replaced_any_more_another_is_posted(mesh: Mesh, slack: SlackApp) -> None:
    with mesh.notifier():
        fires(mesh)
        eventually(lambda: slack.messages and mesh.settled)
        slack.press()
        eventually(lambda: slack.whispers and mesh.settled)
        slack.expired = True
        mesh.tell(make_alert(acknowledged_by="ada"), "acknowledged")
        eventually(lambda: len(slack.messages) == 2)
        slack.expired = False
        mesh.tell(RESOLVED)
        eventually(lambda: mesh.statuses() == ["sent"] * 3)

    assert len(slack.messages) == 3


def test_buttons_come_and_go_with_notify_yaml(mesh: Mesh, raw: Any, slack: SlackApp) -> None:
    without = f'{{type: slack, url: "{slack.url}", rate: 100/s}}'
    mesh.write(file_for(without))
    with mesh.notifier():
        fires(mesh)
        eventually(lambda: slack.messages)
        assert slack.button() is None
        mesh.write(file_for(slack.notify))
        eventually(lambda: slack.connections == 1)
        mesh.tell(ALERT, "repeated")
        eventually(lambda: len(slack.messages) == 2)
        assert slack.button() is not None
        mesh.write(file_for(without))
        eventually(lambda: slack.connections == 0)
    assert not list(raw.scan_iter("lock:buttons:*"))


def test_a_test_message_has_a_button_that_says_it_works(chat: Mesh, raw: Any, telegram: TelegramBot) -> None:
    with chat.notifier():
        raw.xadd("notifications", {"type": "notification.test", "data": '{"channel": "main"}', "id": "t1"})
        eventually(lambda: telegram.messages)
        query = telegram.press()
        eventually(lambda: query in telegram.answers)
    assert telegram.answers[query] == "This button works. It was a test: there is nothing to acknowledge."
    assert said(chat) == {}
