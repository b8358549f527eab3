"""E-mail against a real mail server: threads, refusals of each kind, encryption, and what must never be in a header."""

from __future__ import annotations

import email
import email.header
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from penstock.config import Duration
from penstock_services.notifier.channels import Email
from penstock_services.notifier.channels.wire import SendFailed, SendRefused
from penstock_services.notifier.message.text import one_line
from tests.alerts import ALERT, RESOLVED, make_alert, make_delivery
from tests.servers import free_port
from tests.standins import LOCALHOST, MailServer, Reply, StandIn, mail_server


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as running:
        yield running


def channel_for(server: MailServer, **more: Any) -> Email:
    given = {
        "host": LOCALHOST,
        "port": server.port,
        "sender": "Penstock <alerts@example.com>",
        "to": ("ops@example.com", "Ann <ann@example.com>"),
    }
    return Email(**{**given, **more})


async def fail(channel: Email, **delivery: Any) -> SendFailed:
    with pytest.raises(SendFailed) as failure:
        await channel.send(make_delivery(**delivery), allow_private=True)
    return failure.value


async def test_a_mail_goes_to_one_recipient_and_names_all(server: MailServer) -> None:
    delivery = make_delivery(recipient="Ann <ann@example.com>")
    receipt = await channel_for(server).send(delivery, allow_private=True)

    mail = server.mails[0]
    assert (mail.sender, mail.recipients) == ("alerts@example.com", ["ann@example.com"])
    assert mail.message["To"] == "ops@example.com, Ann <ann@example.com>"
    assert mail.message["Subject"] == "🔴 CRITICAL: Error rate of ticket.created is 12 %"
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert (receipt.code, receipt.answer) == (250, "2.0.0 queued as 4711")


async def test_text_and_html_say_the_same(server: MailServer) -> None:
    await channel_for(server).send(make_delivery(make_alert(reason="a < b & c")), allow_private=True)

    message = server.mails[0].message
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert html is not None
    assert "a < b & c" in text.get_content()
    assert "a &lt; b &amp; c" in html.get_content()
    for part in ("0.1201 (threshold 0.05)", "service=worker", "4bf92f3577b34da6a3ce929d0e0e4736"):
        assert part in text.get_content()
        assert part in html.get_content()


async def test_the_resolve_replies_to_the_trigger_under_its_subject(server: MailServer) -> None:
    channel = channel_for(server)
    first = await channel.send(make_delivery(key="k1"), allow_private=True)
    await channel.send(make_delivery(RESOLVED, key="k2", previous=first.reference), allow_private=True)

    trigger, resolve = (mail.message for mail in server.mails)
    assert resolve["In-Reply-To"] == trigger["Message-ID"]
    assert trigger["Message-ID"] in resolve["References"]
    assert resolve["Subject"] == f"Re: {trigger['Subject']}"
    assert "RESOLVED" in resolve.get_body(("plain",)).get_content()  # type: ignore[union-attr]


async def test_every_attempt_has_the_same_message_id(server: MailServer) -> None:
    channel = channel_for(server)
    for now in (1.0, 2_000_000_000.0):
        await channel.send(make_delivery(now=now), allow_private=True)

    assert server.mails[0].message["Message-ID"] == server.mails[1].message["Message-ID"]


async def test_a_resolve_whose_trigger_never_arrived_still_joins_the_thread(server: MailServer) -> None:
    await channel_for(server).send(make_delivery(key="k1"), allow_private=True)
    await channel_for(server).send(make_delivery(RESOLVED, key="k2"), allow_private=True)

    trigger, resolve = (mail.message for mail in server.mails)
    assert resolve["In-Reply-To"] == trigger["References"]


async def test_white_space_in_an_alert_cannot_add_a_header(server: MailServer) -> None:
    await channel_for(server).send(make_delivery(make_alert(summary="a\r\nBcc: x@example.com")), allow_private=True)

    message = server.mails[0].message
    assert message["Bcc"] is None
    assert message["Subject"] == "🔴 CRITICAL: a Bcc: x@example.com"


@pytest.mark.parametrize(
    "text",
    [
        "=?utf-8?q?x=0D=0AContent-Type:_text/html=0D=0A=0D=0A<h1>hello</h1>?=",
        "=?utf-8?b?eA0KQmNjOiB4QGV4YW1wbGUuY29tDQoNCjxoMT4=?=",
        "=?utf-8?q?=FF=FE?=",
        "=?no-such-charset?q?x?=",
        "=?us-ascii?q?=00?=",
        "=?utf-8?q?" + "a" * 300 + "?= =?utf-8?q?b?=",
        "a\0b\x85c\u2028d\ud800e",
    ],
)
async def test_what_an_alert_says_is_never_read_as_a_header(server: MailServer, text: str) -> None:
    alert = make_alert(summary=text, reason=text, rule=text, labels={"type": text}, runbook="https://x/\ud800")
    await channel_for(server).send(make_delivery(alert), allow_private=True)

    mail = email.message_from_bytes(server.mails[0].content)  # reads nothing into a value
    names = ["Content-Type", "MIME-Version", "From", "To", "Subject", "Date", "Message-ID", "References"]
    assert mail.keys() == [*names, "Auto-Submitted"]
    assert [part.get_content_type() for part in mail.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    assert b"=?utf-8?" in server.mails[0].content
    shown = str(email.header.make_header(email.header.decode_header(mail["Subject"])))
    assert shown.startswith("🔴 CRITICAL: ")
    assert shown.removeprefix("🔴 CRITICAL: ")[:30] == one_line(text)[:30]


@pytest.mark.parametrize("answer", ["550 5.1.1 no such user", "552 mailbox full"])
async def test_a_5yz_answer_is_final(server: MailServer, answer: str) -> None:
    server.refusals["ops@example.com"] = deque([answer])

    failure = await fail(channel_for(server))

    assert isinstance(failure, SendRefused)
    assert failure.code == int(answer[:3])
    assert answer[4:] in failure.reason


async def test_a_4yz_answer_is_worth_another_try(server: MailServer) -> None:
    server.refusals["ops@example.com"] = deque(["450 4.2.1 greylisted"])
    channel = channel_for(server)

    failure = await fail(channel)
    await channel.send(make_delivery(), allow_private=True)

    assert not isinstance(failure, SendRefused)
    assert failure.code == 450
    assert len(server.mails) == 1


async def test_a_server_that_hangs_or_speaks_no_smtp_is_worth_another_try(server: MailServer) -> None:
    with StandIn() as web:
        web.script.append(Reply(silent=True))
        channel = channel_for(server, port=int(web.base.rpartition(":")[2]), timeout=Duration(0.2))

        assert not isinstance(await fail(channel), SendRefused)


async def test_a_server_that_is_not_there_is_worth_another_try(server: MailServer) -> None:
    assert not isinstance(await fail(channel_for(server, port=free_port())), SendRefused)


async def test_a_password_is_not_sent_without_encryption(server: MailServer) -> None:
    failure = await fail(channel_for(server, username="u", password="p"))  # the server offers no STARTTLS

    assert isinstance(failure, SendRefused)
    assert "STARTTLS" in failure.reason


@pytest.mark.parametrize("host", [LOCALHOST, "localhost"])
async def test_a_private_mail_server_has_to_be_allowed(server: MailServer, host: str) -> None:
    with pytest.raises(SendRefused, match="PENSTOCK_ALLOW_PRIVATE_TARGETS"):
        await channel_for(server, host=host).send(make_delivery(ALERT), allow_private=False)

    assert server.mails == []
