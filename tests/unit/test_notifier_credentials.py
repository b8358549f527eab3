"""What is taken for a secret, and what is left to read."""

from __future__ import annotations

import base64

import pytest

from penstock_services.notifier.channels import AnyChannel, Discord, Email, Slack, Telegram, Webhook
from penstock_services.notifier.message.text import redact

TOKEN = "Xk29sLq81ZmPw04TrVbN"
BASIC = base64.b64encode(b"penstock:hunter2-and-more").decode()
SLACK = Slack(url=f"https://hooks.slack.com/services/T012/B034/{TOKEN}")
SLACK_BOT = Slack(token=f"xoxb-1-2-{TOKEN}", channel="C1")
DISCORD = Discord(url=f"https://discord.com/api/webhooks/123456789012345678/{TOKEN}?thread_id=77")
TELEGRAM = Telegram(token=f"123456:{TOKEN}", chat_id="-42")
BEARER = Webhook(url="https://alerts.example.com/hooks/penstock", headers={"Authorization": f"Bearer {TOKEN}"})
QUERY = Webhook(url=f"https://user:{TOKEN}@example.com/hook?apikey=short1&team=platform")
LOGIN = Webhook(url="https://example.com/", headers={"authorization": f"Basic {BASIC}", "X-Team": "platform"})
SIGNED = Webhook(url="https://example.com/", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
MAIL = Email(host="h", sender="a@example.com", to=("b@example.com",), username="u", password="s3cret-of-mail")


@pytest.mark.parametrize(
    ("channel", "said", "secret"),
    [
        (SLACK, f"token {TOKEN} is not valid", TOKEN),
        (SLACK, f"no hook at /services/T012/B034/{TOKEN}", TOKEN),
        (SLACK_BOT, f"xoxb-1-2-{TOKEN} is revoked", TOKEN),
        (DISCORD, f"unknown webhook {TOKEN}", TOKEN),
        (TELEGRAM, f"bot with secret {TOKEN} was kicked", TOKEN),
        (BEARER, f"token {TOKEN} is not valid", TOKEN),
        (BEARER, f"b64 {base64.b64encode(TOKEN.encode()).decode()}", base64.b64encode(TOKEN.encode()).decode()),
        (QUERY, f"wrong password {TOKEN}", TOKEN),
        (QUERY, "no such key: short1", "short1"),
        (LOGIN, "penstock:hunter2-and-more may not", "hunter2-and-more"),
        (LOGIN, f"cannot read {BASIC}", BASIC),
        (SIGNED, "bad key MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        (MAIL, "535 s3cret-of-mail", "s3cret-of-mail"),
        (
            MAIL,
            "535 " + base64.b64encode(b"\0u\0s3cret-of-mail").decode(),
            base64.b64encode(b"\0u\0s3cret-of-mail").decode(),
        ),
    ],
)
def test_every_part_of_a_credential_is_hidden(channel: AnyChannel, said: str, secret: str) -> None:
    shown = redact(said, channel.secrets)

    assert secret not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    ("channel", "said"),
    [
        (SLACK, "hooks.slack.com: no such path under /services, ask the workspace's owner"),
        (DISCORD, "discord.com says: webhooks are off, thread_id is wrong"),
        (BEARER, "alerts.example.com: Bearer authentication failed for penstock in hooks"),
        (QUERY, "team platform of example.com has no hook, user unknown"),
        (LOGIN, "Basic login of team platform failed"),
        (MAIL, "535 u may not send from a@example.com"),
    ],
)
def test_nothing_harmless_is_hidden(channel: AnyChannel, said: str) -> None:
    assert redact(said, channel.secrets) == said
