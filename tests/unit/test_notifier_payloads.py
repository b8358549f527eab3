"""What is sent keeps to the limits of each channel, however long or hostile the alert is."""

from __future__ import annotations

import html
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.schemas import Alert
from penstock_services.notifier.channels import Apprise, Console, Discord, Slack, Telegram, Webhook
from penstock_services.notifier.channels.mail import envelope, write
from penstock_services.notifier.channels.webhook import signed_headers
from penstock_services.notifier.message.button import Button
from penstock_services.notifier.message.message import Remarks
from penstock_services.notifier.message.text import utf16_units
from tests.alerts import ALERT, RESOLVED, make_alert, make_delivery
from tests.standins import check_discord, check_slack, shown

SLACK = Slack(url="https://hooks.slack.com/services/T/B/X")
DISCORD = Discord(url="https://discord.com/api/webhooks/1/x")
TELEGRAM = Telegram(token="1:abc", chat_id="42")
SLACK_BOT = Slack(token="xoxb-1", channel="ops", app_token="xapp-1", workspace="T0")
SLACK_APP = Slack(url="https://hooks.slack.com/services/T0/B/X", app_token="xapp-1")
TELEGRAM_BOT = Telegram(token="1:abc", chat_id="42", buttons=True)
HOSTILE = "<!channel> <@U123> @everyone & </b> *bold* _it_ `code` [x](http://y) ||spoiler|| \x00\x1b[2J\r\n"
texts = st.text(min_size=1, max_size=6_000)
alerts = st.builds(
    make_alert,
    summary=texts,
    reason=texts,
    rule=texts,
    severity=st.sampled_from(["info", "warning", "critical"]),
    labels=st.dictionaries(texts, texts, max_size=30),
    exemplars=st.lists(texts, max_size=12),
    value=st.floats(allow_nan=True) | st.none(),
    threshold=st.floats() | st.none(),
    since=texts,
    runbook=texts | st.just("https://example.com/" + "x" * 5_000) | st.none(),
)
slow_is_fine = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)
LONG = make_alert(
    summary="🔴 & < > " * 500,
    reason="an error & <another> " * 900,
    labels={f"label-{n}": "& < value " * 100 for n in range(40)},
    exemplars=["f" * 500] * 40,
    runbook="https://example.com/" + "r" * 1_900,
)
REMARKS = Remarks(superseded=("triggered " + "x" * 900,) * 20, instead_of="y" * 64, why="z" * 5_000)


@slow_is_fine
@given(alerts)
def test_slack_takes_whatever_an_alert_holds(alert: Any) -> None:
    check_slack(SLACK.payload(make_delivery(alert)))
    check_slack(SLACK_BOT.payload(make_delivery(alert).anew()))


@slow_is_fine
@given(alerts | st.builds(make_alert, acknowledged_by=texts))
def test_a_button_fits_whatever_an_alert_holds(alert: Any) -> None:
    payload = SLACK_APP.payload(make_delivery(alert))
    check_slack(payload)
    rows = [block for block in payload["blocks"] if block["type"] == "actions"]
    keyboard = TELEGRAM_BOT.payload(make_delivery(alert)).get("reply_markup", {}).get("inline_keyboard", [])

    assert len(rows) == len(keyboard) <= 1
    for row, (pressed,) in zip(rows, keyboard, strict=True):
        data = pressed["callback_data"]
        assert row["elements"][0]["value"] == f"test {data}"
        assert 1 <= len(data.encode()) <= 64
        action = "unack" if alert.acknowledged_by else "ack"
        assert Button.decode(data) == Button(action, alert.fingerprint, alert.since)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("alert", "label"),
    [
        (ALERT, "Acknowledge"),
        (make_alert(acknowledged_by="ann"), "Undo acknowledgement"),
        (make_alert(unacknowledged_by="ann"), "Acknowledge"),
        (RESOLVED, None),
        (make_alert(rule="notification-channel"), None),
        (make_alert(rule="digest"), None),
        (make_alert(fingerprint="f" * 64), None),
        (make_alert(fingerprint=""), None),
    ],
)
def test_there_is_a_button_under_what_can_be_acknowledged(alert: Alert, label: str | None) -> None:
    keyboard = TELEGRAM_BOT.payload(make_delivery(alert)).get("reply_markup", {}).get("inline_keyboard")
    (*_, last) = SLACK_APP.payload(make_delivery(alert))["blocks"]

    assert (keyboard[0][0]["text"] if keyboard else None) == label
    assert (last["elements"][0]["text"]["text"] if last["type"] == "actions" else None) == label
    assert "reply_markup" not in TELEGRAM.payload(make_delivery(alert))
    assert SLACK.payload(make_delivery(alert))["blocks"][-1]["type"] == "context"


@slow_is_fine
@given(alerts)
def test_discord_takes_whatever_an_alert_holds(alert: Any) -> None:
    check_discord(DISCORD.payload(make_delivery(alert)))


@slow_is_fine
@given(alerts)
def test_telegram_takes_whatever_an_alert_holds(alert: Any) -> None:
    text = shown(TELEGRAM.payload(make_delivery(alert))["text"])

    assert 0 < utf16_units(text) <= 4096


@slow_is_fine
@given(alerts)
def test_a_mail_takes_whatever_an_alert_holds(alert: Any) -> None:
    addressed = envelope(make_delivery(alert), sender="a@example.com", to=("b@example.com",), recipient="b@example.com")
    mail = write(addressed).as_bytes()

    assert mail.isascii()
    assert max(map(len, mail.split(b"\r\n"))) <= 998


def test_the_longest_of_all_messages_fits_everywhere_and_keeps_its_parts() -> None:
    delivery = make_delivery(LONG, remarks=REMARKS)
    slack, discord = SLACK.payload(delivery), DISCORD.payload(delivery)
    telegram = shown(TELEGRAM.payload(delivery)["text"])

    check_slack(slack)
    check_discord(discord)
    assert utf16_units(telegram) <= 4096
    for said in (json.dumps(slack, ensure_ascii=False), json.dumps(discord, ensure_ascii=False), telegram):
        for part in ("an error", "label-0", "ffff", "Since", "Sent here because"):
            assert part in said


def test_slack_is_not_told_to_ping_anybody() -> None:
    said = json.dumps(SLACK.payload(make_delivery(make_alert(summary=HOSTILE, reason=HOSTILE, labels={"a": HOSTILE}))))

    assert "<!channel>" not in said
    assert "<@U123>" not in said
    assert "&lt;!channel&gt; &lt;@U123&gt; @everyone &amp;" in said


def test_a_runbook_link_keeps_its_address_in_slack() -> None:
    said = json.dumps(SLACK.payload(make_delivery()))

    assert "<https://example.com/runbooks/error-rate?a=1&amp;b=2|Runbook>" in said


def test_discord_mentions_nobody_and_shows_markup_as_it_is() -> None:
    payload = DISCORD.payload(make_delivery(make_alert(reason="**x** https://h/a_b_c @everyone")))

    assert payload["allowed_mentions"] == {"parse": []}
    assert payload["embeds"][0]["description"] == r"\*\*x\*\* https://h/a_b_c @everyone"


def test_telegram_shows_markup_as_it_is() -> None:
    text = TELEGRAM.payload(make_delivery(make_alert(reason=HOSTILE)))["text"]

    assert html.escape("<!channel> <@U123> @everyone & </b>") in text
    assert "<!channel> <@U123> @everyone & </b> *bold*" in shown(text)


def test_the_console_is_not_steered_by_an_alert() -> None:
    text = Console().payload(make_delivery(make_alert(summary=HOSTILE, reason=HOSTILE)))

    assert all(character.isprintable() or character == "\n" for character in text)


def test_the_console_shows_everything() -> None:
    assert Console().payload(make_delivery()).splitlines() == [
        "🔴 CRITICAL: Error rate of ticket.created is 12 %",
        "    31 of 258 attempts failed over 5 min, above 5 %",
        "    Value: 0.1201 (threshold 0.05)",
        "    Since: 2026-10-26 07:33:20 UTC (1 min ago)",
        "    Rule: error-rate",
        "    Labels: job_type=ticket.created, service=worker",
        "    Traces: 4bf92f3577b34da6a3ce929d0e0e4736",
        "    Runbook: https://example.com/runbooks/error-rate?a=1&b=2",
    ]


def test_a_webhook_carries_the_alert_as_data() -> None:
    payload = Webhook(url="https://example.com/h").payload(make_delivery(RESOLVED))

    assert (payload["type"], payload["timestamp"]) == ("alert.resolved", RESOLVED.resolved_at)
    assert payload["data"]["fingerprint"] == "f1"
    assert payload["data"]["labels"] == ALERT.labels
    assert payload["data"]["title"] == "✅ RESOLVED: Error rate of ticket.created is 12 %"


def test_signatures_are_those_of_the_published_vector() -> None:
    headers = signed_headers(
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",),
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        now=1614265330.7,
    )

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # apprise tries it
def test_apprise_is_given_a_kind_that_fits() -> None:
    channel = Apprise(url="json://localhost/", allow_private=True)

    assert channel.payload(make_delivery())["notify_type"] == "failure"
    assert channel.payload(make_delivery(RESOLVED))["notify_type"] == "success"


@pytest.mark.parametrize("channel", [SLACK, SLACK_BOT, DISCORD, TELEGRAM])
def test_a_channel_does_not_show_its_secrets(channel: Any) -> None:
    assert channel.secrets[0] not in repr(channel)
    assert channel.secrets[0] not in f"{channel}"
