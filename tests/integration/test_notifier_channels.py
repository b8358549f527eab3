"""Each channel against a server that behaves as the real one: what is sent, what is final, what is tried again."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from penstock.config import Duration
from penstock_services.notifier.channels import (
    AnyChannel,
    Discord,
    Email,
    Ntfy,
    Opsgenie,
    PagerDuty,
    Slack,
    Teams,
    Telegram,
    Webhook,
)
from penstock_services.notifier.channels.slack import edit_reference
from penstock_services.notifier.channels.wire import SendFailed, SendRefused
from tests import standins
from tests.alerts import ALERT, RESOLVED, make_alert, make_delivery
from tests.processes import ROOT
from tests.standins import Reply, StandIn, refusal, slack_refusal

KINDS = ["slack", "slack-bot", "discord", "telegram", "webhook"]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def channel_for(server: StandIn, **more: Any) -> AnyChannel:
    match server:
        case standins.SlackBot():
            return Slack(token=server.token, channel="ops", api=server.api, **more)
        case standins.Slack():
            return Slack(url=server.url, **more)
        case standins.Discord():
            return Discord(url=server.url, **more)
        case standins.Telegram():
            return Telegram(token=server.token, chat_id="42", api=server.base, **more)
    return Webhook(url=server.url, secret=SECRET, **more)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    kinds = {
        "slack": standins.Slack,
        "slack-bot": standins.SlackBot,
        "discord": standins.Discord,
        "telegram": standins.Telegram,
        "webhook": standins.StandIn,
    }
    with kinds[request.param]() as running:
        yield running


async def fail(channel: AnyChannel, **delivery: Any) -> SendFailed:
    with pytest.raises(SendFailed) as failure:
        await channel.send(make_delivery(**delivery), allow_private=True)
    return failure.value


async def test_a_message_is_accepted(server: StandIn) -> None:
    receipt = await channel_for(server).send(make_delivery(), allow_private=True)

    assert receipt.code in (200, 204)
    assert receipt.latency > 0
    assert len(server.requests) == 1


async def test_a_retry_after_header_in_seconds_is_reported(server: StandIn) -> None:
    server.script.append(Reply(429, "slow down", {"Retry-After": "17"}))

    failure = await fail(channel_for(server))

    assert (failure.code, failure.after) == (429, 17.0)
    assert not isinstance(failure, SendRefused)


async def test_a_retry_after_header_with_a_date_is_reported(server: StandIn) -> None:
    when = datetime.now(UTC) + timedelta(hours=1)
    server.script.append(Reply(429, "", {"Retry-After": format_datetime(when, usegmt=True)}))

    failure = await fail(channel_for(server))

    # The date has whole seconds, and the test took less than the five minutes allowed here.
    assert failure.after is not None
    assert 3300 < failure.after <= 3600


async def test_a_429_without_a_time_leaves_it_to_the_schedule(server: StandIn) -> None:
    server.script.append(Reply(429))

    assert (await fail(channel_for(server))).after is None


@pytest.mark.parametrize(("since", "path"), [(ALERT.since, "/actions/1"), ("another episode", standins.Slack.path)])
async def test_slack_replaces_a_message_of_the_same_episode_only(since: str, path: str) -> None:
    with standins.Slack() as server:
        lent = edit_reference(f"{server.base}/actions/1", since)
        receipt = await Slack(url=server.url).send(make_delivery(previous=lent), allow_private=True)

    assert [request.path for request in server.requests] == [path]
    edited = path == "/actions/1"
    assert (receipt.answer, receipt.reference) == (("edited", lent) if edited else ("ok", None))
    assert server.payloads[0].get("replace_original", False) is edited


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_server_error_is_worth_another_try(server: StandIn, status: int) -> None:
    server.script.append(Reply(status, "oops"))

    failure = await fail(channel_for(server))

    assert not isinstance(failure, SendRefused)
    assert (failure.code, failure.answer) == (status, "oops")


async def test_retry_after_holds_for_a_server_error_too(server: StandIn) -> None:
    server.script.append(Reply(503, "", {"Retry-After": "30"}))

    assert (await fail(channel_for(server))).after == 30.0


async def test_an_answer_that_does_not_come_is_worth_another_try(server: StandIn) -> None:
    server.script.append(Reply(silent=True))

    failure = await fail(channel_for(server, timeout=Duration(0.2)))

    assert not isinstance(failure, SendRefused)
    assert "0.2 s" in failure.reason


async def test_what_became_of_a_message_the_headers_of_the_answer_say(server: StandIn) -> None:
    # the Web API's headers do not: it refuses with 200
    body = '{"ok":true,"channel":"C1","ts":"17' if isinstance(server, standins.SlackBot) else "ok"
    server.script.append(Reply(200, body, cut=True))

    receipt = await channel_for(server).send(make_delivery(), allow_private=True)

    assert receipt.code == 200


async def test_headers_of_a_failure_say_it_too(server: StandIn) -> None:
    server.script.append(Reply(429, "", {"Retry-After": "7"}, cut=True))

    assert (await fail(channel_for(server))).after == 7.0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 204 No Content\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok",
    ],
)
async def test_a_body_that_is_wrong_does_not_make_a_success_a_failure(answer: bytes) -> None:
    async def give(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"]}}")
        writer.write(answer)
        await writer.drain()
        await reader.read()  # it never ends it
        writer.close()
        await writer.wait_closed()
        over.set()

    over = asyncio.Event()
    endpoint = await asyncio.start_server(give, standins.LOCALHOST, 0)
    async with endpoint:
        port = endpoint.sockets[0].getsockname()[1]
        channel = Webhook(url=f"http://{standins.LOCALHOST}:{port}/", timeout=Duration(5))
        receipt = await channel.send(make_delivery(), allow_private=True)
        await over.wait()

    assert receipt.code in (200, 204)


@pytest.mark.parametrize("kind", ["webhook", "email"])
async def test_a_certificate_that_does_not_fit_is_worth_another_try(kind: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ROOT / "tests" / "self_signed.pem")

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    endpoint = await asyncio.start_server(ignore, standins.LOCALHOST, 0, ssl=context)
    async with endpoint:
        port = endpoint.sockets[0].getsockname()[1]
        channel: AnyChannel = Webhook(url=f"https://{standins.LOCALHOST}:{port}/")
        if kind == "email":
            channel = Email(
                host=standins.LOCALHOST, port=port, sender="a@example.com", to=("b@example.com",), tls="tls"
            )
        failure = await fail(channel)

    assert not isinstance(failure, SendRefused)
    assert "certificate" in failure.reason.lower()


async def test_a_connection_that_is_refused_is_worth_another_try(server: StandIn) -> None:
    channel = channel_for(server)
    server.__exit__()

    assert not isinstance(await fail(channel), SendRefused)


async def test_a_redirect_is_not_followed(server: StandIn) -> None:
    server.script.append(Reply(302, "", {"Location": server.base + "/elsewhere"}))

    failure = await fail(channel_for(server))

    assert isinstance(failure, SendRefused)
    assert "redirects are not followed" in failure.reason
    assert len(server.requests) == 1


async def test_a_client_error_is_final(server: StandIn) -> None:
    server.script.append(Reply(400, "invalid_payload"))

    failure = await fail(channel_for(server))

    assert isinstance(failure, SendRefused)
    assert not failure.gone


async def test_private_targets_are_refused_and_the_refusal_says_how_to_allow_them(server: StandIn) -> None:
    with pytest.raises(SendRefused, match="PENSTOCK_ALLOW_PRIVATE_TARGETS=true"):
        await channel_for(server).send(make_delivery(), allow_private=False)

    assert server.requests == []


async def test_a_name_that_resolves_to_a_private_address_is_refused() -> None:
    with standins.StandIn() as server:
        channel = Webhook(url=server.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(SendRefused, match="loopback"):
            await channel.send(make_delivery(), allow_private=False)

        assert server.requests == []


# Slack


async def test_slack_wants_ok_and_nothing_else() -> None:
    with standins.Slack() as server:
        server.script.append(Reply(200, "<html>captive portal</html>"))

        assert not isinstance(await fail(channel_for(server)), SendRefused)


@pytest.mark.parametrize(("status", "body"), [(404, "no_service"), (403, "invalid_token")])
async def test_a_slack_webhook_that_is_gone_is_not_used_again(status: int, body: str) -> None:
    with standins.Slack() as server:
        server.script.append(Reply(status, body))

        failure = await fail(channel_for(server))

        assert isinstance(failure, SendRefused)
        assert failure.gone


async def test_an_archived_slack_channel_is_final_for_this_message_only() -> None:
    with standins.Slack() as server:
        server.script.append(Reply(410, "channel_is_archived"))

        failure = await fail(channel_for(server))

        assert isinstance(failure, SendRefused)
        assert not failure.gone


@pytest.fixture
def bot() -> Iterator[standins.SlackBot]:
    with standins.SlackBot() as running:
        yield running


async def test_a_bot_edits_its_message_in_slack_under_the_id_of_the_channel(bot: standins.SlackBot) -> None:
    channel = channel_for(bot)
    first = await channel.send(make_delivery(), allow_private=True)
    second = await channel.send(make_delivery(RESOLVED, previous=first.reference), allow_private=True)

    assert (first.reference, first.answer) == ("ops C1 1713.000000", "message 1713.000000")
    assert (second.reference, second.answer) == (first.reference, "edited")
    assert [one.path for one in bot.requests] == ["/api/chat.postMessage", "/api/chat.update"]
    assert [one["channel"] for one in bot.payloads] == ["ops", "C1"]
    assert {one["parse"] for one in bot.payloads} == {"none"}, "nothing turns into a link or a ping by an edit"
    assert len(bot.messages) == 1
    assert "RESOLVED" in bot.messages[0]["text"]


@pytest.mark.parametrize("error", ["message_not_found", "cant_update_message", "edit_window_closed", "is_inactive"])
async def test_a_slack_message_that_cannot_be_edited_is_posted_anew(bot: standins.SlackBot, error: str) -> None:
    bot.uneditable = error
    channel = channel_for(bot)
    first = await channel.send(make_delivery(), allow_private=True)
    second = await channel.send(make_delivery(RESOLVED, previous=first.reference), allow_private=True)

    assert second.reference == "ops C1 1713.000001"
    assert second.answer == f"message 1713.000001, for one that cannot be edited: {error}"
    assert len(bot.messages) == 2


@pytest.mark.parametrize(
    "previous", ["other C2 1713.000000", edit_reference("https://hooks.slack.com/actions/1", ALERT.since), ""]
)
async def test_a_bot_leaves_what_it_did_not_post_to_this_slack_channel(bot: standins.SlackBot, previous: str) -> None:
    receipt = await channel_for(bot).send(make_delivery(RESOLVED, previous=previous), allow_private=True)

    assert receipt.reference == "ops C1 1713.000000"
    assert [one.path for one in bot.requests] == ["/api/chat.postMessage"]


async def test_a_webhook_does_not_take_a_bots_message_for_its_own() -> None:
    with standins.Slack() as server:
        delivery = make_delivery(previous="ops C1 1713.000000")
        assert (await channel_for(server).send(delivery, allow_private=True)).answer == "ok"


@pytest.mark.parametrize("previous", [None, "ops C1 1713.000000"])
@pytest.mark.parametrize(
    ("error", "gone", "says"),
    [
        ("not_in_channel", False, "invite the bot"),
        ("is_archived", False, "bring the channel back"),
        ("missing_scope", False, "the scope chat:write"),
        ("invalid_blocks", False, "Slack says invalid_blocks"),
        ("invalid_auth", True, "does not take the token"),
        ("account_inactive", True, "account_inactive"),
        ("token_revoked", True, "token_revoked"),
    ],
)
async def test_what_the_web_api_refuses_with_200_is_final(
    bot: standins.SlackBot, error: str, gone: bool, says: str, previous: str | None
) -> None:
    bot.script.append(slack_refusal(error))

    failure = await fail(channel_for(bot), previous=previous)

    assert isinstance(failure, SendRefused)
    assert (failure.gone, failure.code) == (gone, 200)
    assert error in failure.reason
    assert says in failure.reason
    assert len(bot.requests) == 1


async def test_a_slack_channel_that_is_not_there_is_final_and_said(bot: standins.SlackBot) -> None:
    channel = Slack(token=bot.token, channel="C404", api=bot.api)

    failure = await fail(channel, previous="C404 C404 1713.000000")

    assert isinstance(failure, SendRefused)
    assert failure.reason.startswith("Slack says channel_not_found; give its id")
    assert not failure.gone
    assert [one.path for one in bot.requests] == ["/api/chat.update", "/api/chat.postMessage"]


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("previous", [None, "ops C1 1713.000000"])
async def test_the_web_api_says_how_long_to_wait(bot: standins.SlackBot, status: int, previous: str | None) -> None:
    bot.script.append(Reply(status, slack_refusal("ratelimited").body, {"Retry-After": "30"}))

    failure = await fail(channel_for(bot), previous=previous)

    assert not isinstance(failure, SendRefused)
    assert failure.after == 30.0
    assert len(bot.requests) == 1, "nothing is posted in place of an edit that has to wait"


@pytest.mark.parametrize("body", ["", "<html>captive portal</html>", '{"ok": false, "error": "internal_error"}'])
async def test_an_answer_that_is_not_the_web_apis_or_a_fault_of_slack_is_worth_another_try(
    bot: standins.SlackBot, body: str
) -> None:
    bot.script.append(Reply(200, body))

    assert not isinstance(await fail(channel_for(bot)), SendRefused)


async def test_the_web_api_may_repeat_all_of_a_long_message_before_its_ts(bot: standins.SlackBot) -> None:
    said = {"ok": True, "message": {"text": "🔴" * 16_000}, "channel": "C1", "ts": "1713.000007"}
    bot.script.append(Reply(200, json.dumps(said)))  # escaped: 12 bytes for each

    assert (await channel_for(bot).send(make_delivery(), allow_private=True)).reference == "ops C1 1713.000007"


@pytest.mark.parametrize("kind", ["slack-bot", "discord", "telegram"])
async def test_a_message_in_place_of_one_that_cannot_be_edited_says_so(kind: str) -> None:
    with {"slack-bot": standins.SlackBot, "discord": standins.Discord, "telegram": standins.Telegram}[kind]() as server:
        previous = {"slack-bot": "ops C1 1713.000999", "discord": "999", "telegram": "55"}[kind]
        await channel_for(server).send(make_delivery(RESOLVED, previous=previous), allow_private=True)
        await channel_for(server).send(make_delivery(RESOLVED), allow_private=True)

        edit, anew, plain = map(json.dumps, server.payloads)
        says = "an earlier message about this alert that could not be edited"
        assert [says in one for one in (edit, anew, plain)] == [False, True, False]


# Discord


async def test_discord_says_in_the_body_how_long_to_wait_to_the_millisecond() -> None:
    with standins.Discord() as server:
        body = json.dumps({"message": "You are being rate limited.", "retry_after": 64.57, "global": False})
        server.script.append(Reply(429, body, {"Retry-After": "65"}))

        assert (await fail(channel_for(server))).after == 64.57


async def test_discord_may_say_in_a_header_of_its_own_how_long_to_wait() -> None:
    with standins.Discord() as server:
        server.script.append(Reply(429, "", {"X-RateLimit-Reset-After": "1.25"}))

        assert (await fail(channel_for(server))).after == 1.25


async def test_discord_is_always_asked_to_wait_for_the_message() -> None:
    with standins.Discord() as server:
        channel = Discord(url=server.url + "?thread_id=77")
        receipt = await channel.send(make_delivery(), allow_private=True)

        assert receipt.reference == "1000"
        assert server.requests[0].query == {"wait": ["true"], "thread_id": ["77"]}


async def test_discord_without_a_saved_message_is_no_success() -> None:
    with standins.Discord() as server:
        server.script.append(Reply(204))

        assert not isinstance(await fail(channel_for(server)), SendRefused)


async def test_the_last_message_of_discords_bucket_brings_a_pause() -> None:
    with standins.Discord() as server:
        headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "1.5"}
        server.script.append(Reply(200, '{"id": "1"}', headers))

        assert (await channel_for(server).send(make_delivery(), allow_private=True)).pause == 1.5


async def test_a_resolve_edits_the_discord_message() -> None:
    with standins.Discord() as server:
        channel = channel_for(server)
        first = await channel.send(make_delivery(), allow_private=True)
        second = await channel.send(make_delivery(RESOLVED, previous=first.reference), allow_private=True)

        assert second.reference == first.reference
        assert [request.method for request in server.requests] == ["POST", "PATCH"]
        assert "RESOLVED" in server.messages["1000"]["embeds"][0]["title"]


async def test_a_discord_message_that_was_deleted_is_posted_anew() -> None:
    with standins.Discord() as server:
        receipt = await channel_for(server).send(make_delivery(RESOLVED, previous="999"), allow_private=True)

        assert receipt.reference == "1000"


@pytest.mark.parametrize(("status", "code"), [(404, 10015), (401, 50027)])
async def test_a_discord_webhook_that_is_gone_is_never_used_again(status: int, code: int) -> None:
    with standins.Discord() as server:
        server.script.extend([Reply(status, json.dumps({"code": code}))] * 2)
        channel = channel_for(server)

        for delivery in ({}, {"alert": RESOLVED, "previous": "1000"}):
            failure = await fail(channel, **delivery)
            assert isinstance(failure, SendRefused)
            assert failure.gone
        assert len(server.requests) == 2


# Telegram


async def test_telegram_says_in_its_parameters_how_long_to_wait() -> None:
    with standins.Telegram() as server:
        server.script.append(refusal(429, "Too Many Requests: retry after 5", retry_after=5))

        assert (await fail(channel_for(server))).after == 5.0


async def test_a_resolve_edits_the_telegram_message() -> None:
    with standins.Telegram() as server:
        channel = channel_for(server)
        first = await channel.send(make_delivery(), allow_private=True)
        second = await channel.send(make_delivery(RESOLVED, previous=first.reference), allow_private=True)

        assert second.reference == first.reference == "100"
        assert "RESOLVED" in server.messages[100]["text"]
        assert server.requests[1].path.endswith("/editMessageText")


async def test_editing_to_the_same_text_is_a_success() -> None:
    with standins.Telegram() as server:
        server.script.append(refusal(400, "Bad Request: message is not modified"))
        receipt = await channel_for(server).send(make_delivery(RESOLVED, previous="100"), allow_private=True)

        assert receipt.reference == "100"


async def test_a_telegram_message_that_was_deleted_is_sent_anew() -> None:
    with standins.Telegram() as server:
        receipt = await channel_for(server).send(make_delivery(RESOLVED, previous="55"), allow_private=True)

        assert receipt.reference == "100"
        assert "message_id" not in server.requests[-1].json


async def test_a_group_that_became_a_supergroup_is_followed_and_remembered() -> None:
    with standins.Telegram() as server:
        server.script.append(refusal(400, "group chat was upgraded", migrate_to_chat_id=-100777))
        channel = channel_for(server)
        receipt = await channel.send(make_delivery(), allow_private=True)
        await channel.send(make_delivery(moved_to=receipt.moved_to), allow_private=True)

        assert receipt.moved_to == "-100777"
        assert [payload["chat_id"] for payload in server.payloads] == ["42", "-100777", "-100777"]


async def test_markup_that_telegram_cannot_read_is_sent_as_plain_text() -> None:
    with standins.Telegram() as server:
        server.script.append(refusal(400, "Bad Request: can't parse entities: unsupported start tag"))
        await channel_for(server).send(make_delivery(), allow_private=True)

        plain = server.payloads[1]
        assert "parse_mode" not in plain
        assert "<b>" not in plain["text"]
        assert "31 of 258" in plain["text"]


async def test_a_wrong_bot_token_is_final_for_the_channel() -> None:
    with standins.Telegram() as server:
        channel = Telegram(token="1:wrong", chat_id="42", api=server.base)

        failure = await fail(channel)

        assert isinstance(failure, SendRefused)
        assert failure.gone


# Generic webhooks


async def test_a_webhook_is_signed_after_standard_webhooks_by_every_secret() -> None:
    other = "whsec_" + "c2Vjb25kIHNlY3JldCBvZiB0aGlydHkgYnl0ZXMu"
    with standins.StandIn() as server:
        await Webhook(url=server.url, secret=f"{SECRET}, {other}").send(make_delivery(), allow_private=True)

        sent = server.requests[0]
        for secret in (SECRET, other):
            assert Verifier(secret).verify(sent.body, sent.headers)["type"] == "alert.triggered"
        assert len(sent.headers["webhook-signature"].split(" ")) == 2


async def test_a_webhook_has_the_same_id_and_body_on_every_attempt() -> None:
    with standins.StandIn() as server:
        server.script.append(Reply(500))
        channel = channel_for(server)
        await fail(channel, now=1.0)
        await channel.send(make_delivery(now=2_000_000_000.0), allow_private=True)

        first, second = server.requests
        assert first.headers["webhook-id"] == second.headers["webhook-id"] == "msg_1"
        assert first.body == second.body


async def test_headers_that_authenticate_us_go_along() -> None:
    with standins.StandIn() as server:
        channel = Webhook(url=server.url, headers={"Authorization": "Bearer of-secrets"})
        await channel.send(make_delivery(), allow_private=True)

        assert server.requests[0].headers["authorization"] == "Bearer of-secrets"


@pytest.mark.parametrize("status", [408, 425, 429])
async def test_a_webhook_that_is_only_busy_gets_another_try(status: int) -> None:
    with standins.StandIn() as server:
        server.script.append(Reply(status))

        assert not isinstance(await fail(channel_for(server)), SendRefused)


async def test_410_disables_a_webhook() -> None:
    with standins.StandIn() as server:
        server.script.append(Reply(410))

        failure = await fail(channel_for(server))

        assert isinstance(failure, SendRefused)
        assert failure.gone


# Vendors whose alerts have a life of their own


def vendors(server: StandIn) -> dict[str, AnyChannel]:
    return {
        "pagerduty": PagerDuty(routing_key="0123456789abcdef0123456789abcdef", api=server.base),
        "opsgenie": Opsgenie(key="eb243592-faa2", api=server.base),
        "teams": Teams(url=server.base),
        "ntfy": Ntfy(topic="ops", server=server.base, token="tk_0123456789"),
    }


@pytest.mark.parametrize("kind", ["pagerduty", "opsgenie", "teams", "ntfy"])
async def test_a_vendor_takes_begin_acknowledgement_and_end(kind: str) -> None:
    with StandIn() as server:
        server.answer = lambda: Reply(200 if kind in ("ntfy", "teams") else 202, "{}")
        channel = vendors(server)[kind]
        for alert in (ALERT, make_alert(acknowledged_by="ann"), make_alert(unacknowledged_by="ann"), RESOLVED):
            await channel.send(make_delivery(alert), allow_private=True)

        paths = [request.path.partition("?")[0].rpartition("/")[2] for request in server.requests]
        opsgenie = ["alerts", "acknowledge", "alerts", "unacknowledge", "close"]
        assert paths == {"pagerduty": ["enqueue"] * 4, "opsgenie": opsgenie}.get(kind, [""] * 4)
        sent = server.requests[0].headers.get("authorization", "")
        assert sent == {"opsgenie": "GenieKey eb243592-faa2", "ntfy": "Bearer tk_0123456789"}.get(kind, "")


@pytest.mark.parametrize("kind", ["pagerduty", "opsgenie", "teams", "ntfy"])
async def test_a_vendors_refusal_is_final_and_its_haste_is_not(kind: str) -> None:
    with StandIn() as server:
        server.script.extend([Reply(400, "no"), Reply(429, "", {"Retry-After": "7"}), Reply(500)])
        channel = vendors(server)[kind]
        refused, busy, broken = [await fail(channel) for _ in range(3)]

    assert isinstance(refused, SendRefused)
    assert (isinstance(busy, SendRefused), busy.after) == (False, 7.0)
    assert not isinstance(broken, SendRefused)


async def test_what_teams_refuses_with_a_200_is_no_success() -> None:
    with StandIn() as server:
        server.script.append(Reply(200, "Webhook message delivery failed with error: returned HTTP error 429"))
        failure = await fail(Teams(url=server.base))

    assert (isinstance(failure, SendRefused), failure.code) == (False, 429)
