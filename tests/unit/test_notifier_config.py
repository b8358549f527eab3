"""notify.yaml and the environment: every mistake that a person makes gets a sentence with file, key and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock_services.notifier.channels import Discord, Email, Slack, Telegram, Webhook
from penstock_services.notifier.config.config import Config, load, parse
from penstock_services.notifier.config.environment import provider_of

SLACK = "https://hooks.slack.com/services/T0/B0/secret"
HOOK = {"OPS_ALERT_WEBHOOK_URL": "https://example.com/x"}


def read(text: str = "", /, **environ: str) -> Config:
    return parse(text, environ=environ)


def complaint(text: str = "", /, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        read(text, **environ)
    return str(error.value)


def test_the_file_that_ships_is_sound() -> None:
    shipped = Path(__file__).parents[2] / "notify.yaml"
    config = read(shipped.read_text())

    assert list(config.channels) == ["console"]
    assert [float(wait) for wait in config.retry] == [1, 2, 4]


def test_the_examples_in_the_file_that_ships_are_sound() -> None:
    shipped = (Path(__file__).parents[2] / "notify.yaml").read_text()
    examples = re.sub(r"(?m)^#(?=  )|^# (?=templates:)", "", shipped).replace("#   title", "  title")
    text = examples.replace("channels: {}", "channels:").replace("routes: []", "routes:")
    config = read(
        text,
        SLACK_OPS_URL=SLACK,
        SLACK_APP_TOKEN="xapp-1",
        PAGERDUTY_KEY="0123456789abcdef0123456789abcdef",
        DISCORD_DEV_URL="https://discord.com/api/webhooks/1/x",
        ON_CALL_BOT_TOKEN="1:x",
        MAIL_PASSWORD="p",
        PAGER_SECRET="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    )

    assert len(config.channels) == 7
    assert len(config.routes) == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a", "notify.yaml: Expected a mapping"),
        ("{", "notify.yaml: not YAML"),
        ("chanels: {}", "notify.yaml: Object contains unknown field `chanels`; the keys are channels, routes"),
        ("channels: {a: slack}", "notify.yaml: channels.a: type is missing; it is one of console, slack"),
        ("channels: {a: {type: slak}}", "notify.yaml: channels.a: there is no type 'slak'; it is one of console"),
        ("channels: {a: {type: [slack]}}", "notify.yaml: channels.a: there is no type ['slack']; it is one of console"),
        ("channels: {a: {type: slack}}", "notify.yaml: channels.a: url or token is missing; give one of them: the url"),
        (
            f"channels: {{a: {{type: slack, url: '{SLACK}', token: xoxb-1, channel: ops}}}}",
            "notify.yaml: channels.a: url and token are two ways; give one of them: the url of an incoming webhook, or",
        ),
        (
            f"channels: {{a: {{type: slack, url: '{SLACK}', channel: ops}}}}",
            "notify.yaml: channels.a: channel: goes with token",
        ),
        (
            "channels: {a: {type: slack, token: xoxb-1}}",
            "notify.yaml: channels.a: channel: expected the id (C...) or the name",
        ),
        (
            "channels: {a: {type: slack, token: xoxb-1, channel: #ops\n}}",
            "notify.yaml: channels.a: channel: expected the id (C...) or the name of the one that the bot posts to",
        ),
        (
            "channels: {a: {type: slack, token: xapp-1, channel: ops}}",
            "notify.yaml: channels.a: token: expected a bot token (xoxb-...), from OAuth & Permissions",
        ),
        (
            "channels: {a: {type: slack, token: xoxb-1, channel: ops, app_token: xapp-1}}",
            "notify.yaml: channels.a: workspace: the token does not tell it; give the id",
        ),
        (
            "channels: {a: {type: slack, token: '${BOT}', channel: ops}}",
            "notify.yaml: channels.a.token: BOT is not set; set it, or BOT_FILE to a file that holds it",
        ),
        ("channels: {a: {type: slack, url: x}}", "notify.yaml: channels.a: url: expected one such as https://"),
        ("channels: {a: {type: slack, url: 'ftp://x'}}", "notify.yaml: channels.a: url: expected"),
        (f"channels: {{a: {{type: slack, url: '{SLACK}', to: b}}}}", "unknown field `to`; the keys are timeout, retry"),
        (f"channels: {{a: {{type: slack, url: '{SLACK}', rate: 5}}}}", "channels.a: rate: expected a rate such as 1/s"),
        (f"channels: {{a: {{type: slack, url: '{SLACK}', timeout: x}}}}", "channels.a: timeout: expected a duration"),
        (f"channels: {{A: {{type: slack, url: '{SLACK}'}}}}", "channels.A: a name starts with a lower-case letter"),
        ("channels: {a: {type: slack, url: '${NOPE}'}}", "channels.a.url: NOPE is not set; set it, or NOPE_FILE"),
        (
            "channels: {a: {type: webhook, url: 'https://x', secret: whsec_short}}",
            "channels.a: secret: expected whsec_ and the base64 of 24 to 64 random bytes",
        ),
        (
            "channels: {a: {type: webhook, url: 'https://x', headers: {a: \"b\\nc\"}}}",
            "headers: the value of a holds what no header can",
        ),
        (
            f"channels: {{a: {{type: slack, url: '{SLACK}', app_token: xoxb-1}}}}",
            "notify.yaml: channels.a: app_token: expected an app-level token (xapp-...), from Basic Information",
        ),
        (
            "channels: {a: {type: slack, url: 'https://example.com/x', app_token: xapp-1}}",
            "notify.yaml: channels.a: workspace: the URL does not tell it; give the id of the one whose presses count",
        ),
        (
            f"channels: {{a: {{type: slack, url: '{SLACK}', workspace: T1}}}}",
            "notify.yaml: channels.a: workspace: is for buttons, and without app_token there are none",
        ),
        (
            f"channels: {{a: {{type: slack, url: '{SLACK}', app_token: '${{APP}}'}}}}",
            "notify.yaml: channels.a.app_token: APP is not set; set it, or APP_FILE to a file that holds it",
        ),
        (
            "channels: {a: {type: telegram, token: '1:a', chat_id: '1', buttons: perhaps}}",
            "notify.yaml: channels.a: buttons: ",
        ),
        ("channels: {a: {type: telegram, token: '', chat_id: '1'}}", "token and chat_id must not be empty"),
        ("channels: {a: {type: email, host: h, from: x, to: [a@b.c]}}", "'x' is no mail address"),
        ("channels: {a: {type: email, host: h, from: a@b.c, to: []}}", "to must name at least one address"),
        ("channels: {a: {type: email, host: h, from: a@b.c, to: [a@b.c], username: u}}", "username and password go"),
        ("channels: {console: {type: slack, url: 'https://x'}}", "channels.console: this name belongs to"),
        ("channels: {a: {type: apprise, url: 'json://h'}}", "channels.a: apprise makes its own connections"),
        ("routes: [{channels: [consol]}]", "routes[0].channels: there is no channel consol; did you mean console?"),
        (
            "routes: [{channels: [console], failover: x}]",
            "routes[0].failover: there is no channel x; there is console",
        ),
        ("routes: [{channels: []}]", "routes[0]: channels must name at least one channel"),
        ("routes: [{channels: [console], min_severity: high}]", "routes[0]: a severity is one of info, warning"),
        ("routes: [{channels: [console], match: [service]}]", "routes[0]: match: expected a matcher such as"),
        ("retry: [soon]", "notify.yaml: retry: expected a duration such as 30s"),
        ("templates: {titel: x}", "unknown field `titel`"),
    ],
)
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # apprise tries it
def test_a_mistake_gets_a_sentence(text: str, sentence: str) -> None:
    assert sentence in complaint(text)


def test_all_unresolved_names_are_told_at_once() -> None:
    assert len(complaint("routes: [{channels: [a], failover: b}]").splitlines()) == 2


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text(f"{SLACK}\n")

    channel = read("channels: {a: {type: slack, url: '${HOOK}'}}", HOOK_FILE=str(secret)).channels["a"]

    assert isinstance(channel, Slack)
    assert channel.url == SLACK


def test_buttons_are_off_unless_they_are_asked_for_and_count_from_one_place(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("xapp-1-A1-s3cret\n")
    channels = read(
        f"""
channels:
  silent: {{type: slack, url: '{SLACK}'}}
  ops: {{type: slack, url: '{SLACK}', app_token: '${{APP}}'}}
  other: {{type: slack, url: '{SLACK}', app_token: '${{APP}}', workspace: T999}}
  bot: {{type: slack, token: xoxb-1-s3cret, channel: C1, app_token: '${{APP}}', workspace: T5}}
  quiet: {{type: telegram, token: '1:a', chat_id: '-5'}}
  chat: {{type: telegram, token: '1:a', chat_id: '-5', buttons: true}}
""",
        APP_FILE=str(token),
    ).channels

    presses = {name: channel.presses for name, channel in channels.items() if channel.presses}
    assert presses == {
        "ops": "workspace T0",
        "other": "workspace T999",
        "bot": "workspace T5",
        "chat": "chat -5",
    }
    assert {"xoxb-1-s3cret", "xapp-1-A1-s3cret"} <= set(channels["bot"].secrets)
    assert "xapp-1-A1-s3cret" in channels["ops"].secrets


def test_a_complaint_does_not_repeat_a_secret() -> None:
    said = complaint("channels: {a: {type: webhook, url: 'https://x', secret: '${S}'}}", S="whsec_s3cret")

    assert "s3cret" not in said


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        (SLACK, "slack"),
        ("https://hooks.slack-gov.com/services/x", "slack"),
        ("https://discord.com/api/webhooks/1/x", "discord"),
        ("https://discordapp.com/api/webhooks/1/x", "discord"),
        ("https://HOOKS.SLACK.COM/x", "slack"),
        ("https://example.com/hooks.slack.com", "webhook"),
        ("https://hooks.slack.com.example.com/x", "webhook"),
    ],
)
def test_the_provider_is_told_from_the_url(url: str, provider: str) -> None:
    assert provider_of(url) == provider


def test_a_bare_webhook_url_makes_a_channel_and_its_route() -> None:
    config = read(OPS_ALERT_WEBHOOK_URL=SLACK, OPS_ALERT_WEBHOOK_TIMEOUT_SECONDS="3")

    assert config.channels["ops"] == Slack(url=SLACK, timeout=config.channels["ops"].timeout)
    assert float(config.channels["ops"].timeout) == 3
    assert [(route.channels, route.min_severity) for route in config.routes] == [(("ops",), "warning")]


def test_the_provider_and_severity_can_be_set() -> None:
    config = read(
        OPS_ALERT_WEBHOOK_URL="https://chat.example.com/x",
        OPS_ALERT_WEBHOOK_PROVIDER="discord",
        OPS_ALERT_WEBHOOK_MIN_SEVERITY="CRITICAL",
    )

    assert isinstance(config.channels["ops"], Discord)
    assert config.routes[0].min_severity == "CRITICAL"


def test_hooks_can_be_switched_off() -> None:
    assert list(read(OPS_ALERT_WEBHOOK_URL=SLACK, OPS_ALERT_HOOKS_ENABLED="false").channels) == ["console"]


@pytest.mark.parametrize("off", ["no", "off", "False", "0"])
def test_what_is_switched_off_takes_nothing_else_with_it(off: str) -> None:
    hook = "{type: webhook, url: 'https://example.com'}"
    config = read(
        f"channels: {{a: {hook}}}\n"
        "routes: [{channels: [ops, a]}, {channels: [a], failover: [ops]}, {channels: [ops]}]",
        OPS_ALERT_WEBHOOK_URL=SLACK,
        OPS_ALERT_HOOKS_ENABLED=off,
    )

    assert [(route.channels, route.substitutes) for route in config.routes] == [(("a",), ()), (("a",), ())]


SWITCHED_OFF = """
channels: {a: {type: webhook, url: 'https://example.com'}}
on_call:
  duty:
    rotation: [a, ops]
    starts: 2026-01-05T09:00:00
    every: 1d
    overrides: [{from: 2026-01-05T00:00:00, to: 2100-01-05T00:00:00, channel: ops}]
  nobody: {rotation: [ops], starts: 2026-01-05T09:00:00}
quiet:
  - {hours: "22:00-07:00", channels: [ops, a]}
  - {hours: "22:00-07:00", channels: [ops]}
  - {hours: "00:00-01:00"}
routes:
  - {channels: [nobody, duty], failover: nobody, then: ["nobody, duty after 5m", nobody after 10m]}
  - {channels: [nobody]}
"""


def test_what_is_switched_off_is_left_out_of_schedules_and_quiet_hours_too() -> None:
    config = read(SWITCHED_OFF, OPS_ALERT_HOOKS_ENABLED="false")

    assert {name: one.channels for name, one in config.on_call.items()} == {"duty": ("a",)}
    assert [rule.channels for rule in config.quiet] == [("a",), ()]
    (route,) = config.routes
    assert (route.channels, route.substitutes) == (("duty",), ())
    assert [(step.channels, float(step.after)) for step in route.then] == [(("duty",), 300)]
    assert read(SWITCHED_OFF, OPS_ALERT_WEBHOOK_URL=SLACK).routes[1].channels == ("nobody",)


def test_a_schedule_may_have_the_name_of_what_is_switched_off() -> None:
    text = "on_call: {ops: {rotation: [console], starts: 2026-01-05T09:00:00}}\nroutes: [{channels: [ops]}]"

    assert read(text, OPS_ALERT_HOOKS_ENABLED="false").routes[0].channels == ("ops",)


def test_mistakes_are_named_where_they_are_written_whatever_is_switched_off() -> None:
    text = "routes: [{channels: [ops]}, {channels: [opps]}]"

    assert "routes[1].channels: there is no channel opps; did you mean ops?" in complaint(
        text, OPS_ALERT_HOOKS_ENABLED="false"
    )


@pytest.mark.parametrize("on", ["yes", "on", "TRUE", "1"])
def test_a_switch_is_read_however_it_is_written(on: str) -> None:
    config = read(OPS_ALERT_WEBHOOK_URL=SLACK, OPS_ALERT_WEBHOOK_PROVIDER="Slack", OPS_ALERT_HOOKS_ENABLED=on)

    assert isinstance(config.channels["ops"], Slack)


def test_a_generic_webhook_may_authenticate() -> None:
    channel = read(
        OPS_ALERT_WEBHOOK_URL="https://example.com/x",
        OPS_ALERT_WEBHOOK_AUTH_HEADER="Authorization",
        OPS_ALERT_WEBHOOK_AUTH_VALUE="Bearer x",
    ).channels["ops"]

    assert isinstance(channel, Webhook)
    assert channel.headers == {"Authorization": "Bearer x"}


def test_telegram_and_mail_need_no_file_either() -> None:
    config = read(
        TELEGRAM_BOT_TOKEN="1:x",
        TELEGRAM_CHAT_ID="-5",
        SMTP_HOST="mail.example.com",
        SMTP_PORT="465",
        SMTP_FROM="a@example.com",
        SMTP_TO="b@example.com, c@example.com",
    )
    mail = config.channels["email"]

    assert isinstance(config.channels["telegram"], Telegram)
    assert isinstance(mail, Email)
    assert mail.recipients == ("b@example.com", "c@example.com")
    assert len(config.routes) == 2


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"OPS_ALERT_WEBHOOK_URL": "x"}, "environment: OPS_ALERT_WEBHOOK_*: url: expected one such as https://"),
        ({"OPS_ALERT_WEBHOOK_URL": SLACK, "OPS_ALERT_WEBHOOK_MIN_SEVERITY": "x"}, "a severity is one of info"),
        ({"OPS_ALERT_WEBHOOK_URL": SLACK, "OPS_ALERT_WEBHOOK_PROVIDER": "x"}, "_PROVIDER: there is no 'x'"),
        ({"OPS_ALERT_WEBHOOK_TIMEOUT_SECONDS": "soon"}, "OPS_ALERT_WEBHOOK_TIMEOUT_SECONDS"),
        ({"OPS_ALERT_HOOKS_ENABLED": "maybe"}, "OPS_ALERT_HOOKS_ENABLED: expected true or false, got 'maybe'"),
        ({"OPS_ALERT_HOOK_ENABLED": "no"}, "nothing reads it; did you mean OPS_ALERT_HOOKS_ENABLED?"),
        ({"OPS_ALERTS_WEBHOOK_URL": SLACK}, "OPS_ALERTS_WEBHOOK_URL: nothing reads it; did you mean OPS_ALERT_WEBHOOK"),
        ({"OPS_ALRT_WEBHOOK_URL": SLACK}, "did you mean OPS_ALERT_WEBHOOK_URL?"),
        (
            {"ops_alert_webhook_url": SLACK},
            "ops_alert_webhook_url: nothing reads it; did you mean OPS_ALERT_WEBHOOK_URL",
        ),
        ({"Ops_Alert_Webhook_Url_File": "/x"}, "Ops_Alert_Webhook_Url_File: nothing reads it; did you mean OPS_ALERT"),
        ({"OPS_ALERT_WEBHOOK_URL": SLACK, "OPS_ALERT_WEBHOOK_PROVIDER": "slak"}, "did you mean slack?"),
        ({"OPS_ALERT_WEBHOOK_URL": SLACK, "OPS_ALERT_WEBHOOK_TIMEOUT_SECONDS": "inf"}, "timeout: at most 300 s"),
        (
            {"OPS_ALERT_WEBHOOK_URL": SLACK, "OPS_ALERT_WEBHOOK_AUTH_HEADER": "a", "OPS_ALERT_WEBHOOK_AUTH_VALUE": "b"},
            "_AUTH_HEADER is for a generic webhook, and this one is slack's",
        ),
        (
            {**HOOK, "OPS_ALERT_WEBHOOK_AUTH_HEADER": "Content-Length", "OPS_ALERT_WEBHOOK_AUTH_VALUE": "3"},
            "headers: Content-Length says what is sent or how",
        ),
        (
            {**HOOK, "OPS_ALERT_WEBHOOK_AUTH_HEADER": "my token", "OPS_ALERT_WEBHOOK_AUTH_VALUE": "x"},
            "headers: 'my token' is no name of a header",
        ),
        (
            {**HOOK, "OPS_ALERT_WEBHOOK_AUTH_HEADER": "X-Token", "OPS_ALERT_WEBHOOK_AUTH_VALUE": "x\ny"},
            "headers: the value of X-Token holds what no header can",
        ),
        (
            {"OPS_ALERT_WEBHOOK_URL": "https://x", "OPS_ALERT_WEBHOOK_AUTH_HEADER": "a"},
            "_AUTH_HEADER and _AUTH_VALUE go together",
        ),
        ({"TELEGRAM_BOT_TOKEN": "x"}, "TELEGRAM_BOT_TOKEN and TELEGRAM_CHAT_ID go together"),
        ({"SMTP_HOST": "h"}, "SMTP_HOST needs SMTP_FROM and SMTP_TO"),
    ],
)
def test_a_variable_that_does_not_fit_gets_a_sentence(environ: dict[str, str], sentence: str) -> None:
    assert sentence in complaint(**environ)


def test_variables_of_other_programs_are_left_alone() -> None:
    assert list(read(OPS_WEBHOOK_URL=SLACK, DEVOPS_ALERT_WEBHOOK_URL=SLACK).channels) == ["console"]


def test_a_route_in_the_file_takes_the_place_of_the_environments_own() -> None:
    config = read("routes: [{channels: [ops], min_severity: critical}]", OPS_ALERT_WEBHOOK_URL=SLACK)

    assert [route.min_severity for route in config.routes] == ["critical"]


def test_a_channel_of_the_environment_cannot_be_declared_twice() -> None:
    said = complaint(f"channels: {{ops: {{type: slack, url: '{SLACK}'}}}}", OPS_ALERT_WEBHOOK_URL=SLACK)

    assert "channels.ops: the environment sets up a channel of this name" in said


def test_a_schedule_may_be_a_channels_own() -> None:
    config = read(f"retry: [5s]\nchannels: {{a: {{type: slack, url: '{SLACK}', retry: []}}}}")

    assert config.schedule(config.channels["a"]) == ()
    assert config.schedule(config.channels["console"]) == (5,)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = Settings.from_env({"PENSTOCK_NOTIFY": str(tmp_path / "none.yaml")})

    with pytest.raises(ConfigurationError, match=r"none\.yaml: cannot be read .* set PENSTOCK_NOTIFY"):
        load(settings, {})


@pytest.mark.parametrize(
    ("own", "everywhere", "allowed"), [("true", "", True), ("false", "1", True), ("false", "", False)]
)
def test_private_targets_are_allowed_for_one_channel_or_for_all(own: str, everywhere: str, allowed: bool) -> None:
    text = f"channels: {{a: {{type: slack, url: '{SLACK}', allow_private: {own}}}}}"
    config = parse(text, environ={}, allow_private=bool(everywhere))

    assert config.may_be_private(config.channels["a"]) == allowed


@pytest.mark.parametrize(
    ("match", "sentence"),
    [
        ("severity=~.*", "write severity=*"),
        ("rule=[", "a [ without its ] never matches"),
        ("severity=fatal", "severity is one of info, warning, critical"),
    ],
)
def test_a_matcher_that_can_never_match_is_refused(match: str, sentence: str) -> None:
    assert sentence in complaint(f"routes: [{{channels: [console], match: ['{match}']}}]")


def test_a_severity_below_the_routes_own_can_never_match() -> None:
    said = complaint("routes: [{channels: [console], min_severity: critical, match: [severity=warning]}]")

    assert "severity=warning never matches; severity is one of critical" in said
