"""`penstock deliveries`, `penstock notify` and the notifier's HTTP: what people see of it."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.mesh.alerts import AlertRecord
from tests.alerts import ALERT, RESOLVED, SINCE, make_alert
from tests.command_line import Cli
from tests.notifiers import Mesh
from tests.processes import ROOT, eventually
from tests.servers import Server
from tests.standins import Reply, Slack


@pytest.fixture
def slack() -> Iterator[Slack]:
    with Slack() as running:
        yield running


@pytest.fixture
def mesh(server: Server, raw: Any, tmp_path: Path, slack: Slack) -> Mesh:
    notify = f"""
retry: [10ms]
channels: {{main: {{type: slack, url: "{slack.url}", rate: 100/s}}}}
routes: [{{channels: [main], match: [service=worker]}}]
"""
    return Mesh(server, raw, tmp_path, notify)


@pytest.fixture
def cli(server: Server, tmp_path: Path, mesh: Mesh) -> Cli:
    made = Cli(server.url, tmp_path)
    made.env |= {**mesh.env, "PENSTOCK_TOPOLOGY": str(ROOT / "streams.yaml")}
    return made


def test_deliveries_are_listed_with_their_results(cli: Cli, mesh: Mesh, slack: Slack) -> None:
    slack.script.append(Reply(503, "try later"))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("main") == ["failed", "sent"])

    listed = cli("deliveries", "--channel", "main").stdout
    found = cli.json("deliveries", "--channel", "main")

    assert "503" in listed
    assert "try later" in listed
    assert [one["attempt"]["status"] for one in found] == ["sent", "failed"]
    assert len(cli.json("deliveries", "--status", "sent")) == 2
    assert len(cli.json("deliveries", "--limit", "1")) == 1


def test_a_failed_delivery_is_kept_apart_and_can_be_sent_again(cli: Cli, mesh: Mesh, slack: Slack) -> None:
    slack.script.append(Reply(400, "invalid_payload"))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("main") == ["dead"] and mesh.settled)
        failed = cli.json("deliveries", "--failed")
        again = cli("deliveries", "resend", failed[0]["delivery_id"])
        eventually(lambda: mesh.statuses("main") == ["dead", "sent"])

        assert again.returncode == 0
        assert failed[0]["notification"]["channel"] == "main"
        assert "invalid_payload" in failed[0]["error"]
        assert cli.json("deliveries", "--failed") == []
        assert cli("deliveries", "resend", failed[0]["delivery_id"]).returncode == 1

    assert len(slack.requests) == 2


def test_all_that_failed_is_sent_again_but_for_what_is_over(cli: Cli, mesh: Mesh, slack: Slack) -> None:
    slack.script.extend([Reply(400)] * 2)
    with mesh.notifier():
        mesh.tell(ALERT)
        mesh.tell(make_alert(fingerprint="f2"))
        eventually(lambda: mesh.statuses("main") == ["dead", "dead"] and mesh.settled)
        mesh.tell(RESOLVED)  # of f1
        eventually(lambda: mesh.statuses("main")[-1] == "sent" and mesh.settled)

        assert cli("deliveries", "resend", "--all").stdout.count("goes out again") == 2
        eventually(lambda: len(mesh.statuses("main")) == 4 and mesh.settled)

    assert [one.fingerprint for one in mesh.attempts("main")][-2:] == ["f1", "f2"]
    assert len(slack.requests) == 4


def test_a_resend_has_to_say_of_what(cli: Cli) -> None:
    done = cli("deliveries", "resend")

    assert done.returncode == 2
    assert "say --all" in done.stderr


def test_a_channel_can_be_tested(cli: Cli, mesh: Mesh, slack: Slack) -> None:
    with mesh.notifier():
        done = cli("notify", "test", "main")

        assert done.returncode == 0, done.stderr
        assert "main: sent in" in done.stdout
        assert "This is a test: nothing is wrong." in json.dumps(slack.payloads[0])

        slack.script.append(Reply(403, "invalid_token"))
        failed = cli("notify", "test", "main")
        unknown = cli("notify", "test", "mian")

    assert (failed.returncode, unknown.returncode) == (1, 1)
    assert "invalid_token" in failed.stderr
    assert "there is no channel mian; there are console, main" in unknown.stderr


def test_a_test_without_a_notifier_says_so(cli: Cli) -> None:
    done = cli("notify", "test", "main", "--wait", "0.2")

    assert done.returncode == 1
    assert "does the notifier run?" in done.stderr


@pytest.mark.parametrize("given", ["file", "stdin", "fingerprint"])
def test_a_message_can_be_previewed(cli: Cli, mesh: Mesh, tmp_path: Path, slack: Slack, given: str) -> None:
    alert = msgspec.json.encode(ALERT).decode()
    if given == "file":
        (tmp_path / "alert.json").write_text(alert)
        done = cli("notify", "preview", str(tmp_path / "alert.json"))
    elif given == "stdin":
        done = cli("notify", "preview", "-", stdin=alert)
    else:
        mesh.tell(ALERT)
        done = cli("notify", "preview", "f1")

    assert done.returncode == 0, done.stderr
    assert "--- main (slack)" in done.stdout
    assert "--- console (console)" in done.stdout
    assert "31 of 258 attempts failed" in done.stdout
    assert slack.requests == []


def test_a_preview_of_a_sample_shows_any_channel(cli: Cli) -> None:
    done = cli("notify", "preview", "--channel", "main")

    assert '"type": "header"' in done.stdout
    assert "--- console" not in done.stdout


def test_a_preview_of_what_is_no_alert_says_what_is_wrong(cli: Cli) -> None:
    done = cli("notify", "preview", "-", stdin='{"fingerprint": "x"}')

    assert done.returncode == 2
    assert "this is no alert: Object missing required field `rule`" in done.stderr
    assert cli("notify", "preview", "no-such-fingerprint").returncode == 1


def get(mesh: Mesh, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{mesh.port}{path}") as answer:
            return answer.status, json.loads(answer.read()) if path.startswith("/v1") else None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_deliveries_are_told_over_http(mesh: Mesh, slack: Slack) -> None:
    slack.script.append(Reply(400, "invalid_payload"))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("main") == ["dead"] and mesh.settled)

        status, told = get(mesh, "/v1/deliveries?channel=main&status=dead")
        assert status == 200
        assert [one["attempt"]["error"] for one in told["deliveries"]] == ["400: invalid_payload"]
        failed = get(mesh, "/v1/deliveries/failed")[1]["deliveries"]
        assert [one["notification"]["channel"] for one in failed] == ["main"]
        assert get(mesh, "/livez")[0] == get(mesh, "/readyz")[0] == 200
        for query in ("?limit=0", "?limit=x", "?status=lost", "?colour=red", "/failed?channel=main"):
            status, problem = get(mesh, f"/v1/deliveries{query}")
            assert status == 400
            assert query.partition("?")[2].partition("=")[0] in problem["detail"]


def test_a_blocked_channel_can_be_unblocked_and_what_waited_goes_out(cli: Cli, mesh: Mesh, slack: Slack) -> None:
    slack.script.append(Reply(429, "", {"Retry-After": "280"}))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.waiting)
        done = cli("notify", "unblock", "main")
        eventually(lambda: mesh.statuses("main") == ["failed", "sent"])
        unknown = cli("notify", "unblock", "mian")

    assert "main: unblocked; 1 deliveries that waited are tried now" in done.stdout
    assert unknown.returncode == 1
    assert "there is no channel mian; there are console, main" in unknown.stderr


def test_what_is_not_delivered_is_seen_beside_the_alerts(cli: Cli, mesh: Mesh, slack: Slack) -> None:
    slack.script.append(Reply(429, "busy", {"Retry-After": "3600"}))
    with mesh.notifier():
        mesh.tell(ALERT)
        eventually(lambda: mesh.waiting and mesh.alerts_about("main") and mesh.settled is False)
        eventually(lambda: "channel main does not deliver" in cli("alerts").stdout)
        shown = cli("alerts").stdout

    assert "429: busy" in shown
    assert "not delivered on main, still tried: critical error-rate (firing)" in shown


def test_what_was_given_up_is_seen_until_it_arrives_or_is_over(cli: Cli, mesh: Mesh, slack: Slack, raw: Any) -> None:
    record = AlertRecord(
        fingerprint="f1",
        rule=ALERT.rule,
        severity=ALERT.severity,
        labels=ALERT.labels,
        state="firing",
        since=SINCE,
        reason=ALERT.reason,
        summary=ALERT.summary,
    )
    raw.hset("state:alerts:alerts", "f1", msgspec.json.encode(record))
    undelivered = "not delivered on main, given up: critical error-rate (firing)"
    slack.script.extend([Reply(400, "invalid_payload")] * 2)
    with mesh.notifier():
        mesh.tell(ALERT)
        mesh.tell(make_alert(fingerprint="f2"))
        eventually(lambda: mesh.statuses("main") == ["dead", "dead"] and mesh.settled)
        shown = cli("alerts").stdout
        told = cli.json("alerts")[0]["undelivered"]
        mesh.tell(make_alert(reason="still"), "repeated")
        eventually(lambda: mesh.statuses("main")[2:] == ["sent"] and mesh.settled)
        after = cli("alerts").stdout
        slack.script.append(Reply(400, "invalid_payload"))
        mesh.tell(make_alert(RESOLVED, fingerprint="f2"))
        eventually(lambda: mesh.statuses("main")[3:] == ["dead"] and mesh.settled)
        over = cli("alerts").stdout

    assert (shown.count(undelivered), after.count(undelivered), over.count("given up")) == (2, 1, 0)
    assert told == [{"channel": "main", "recipient": None, "error": "400: invalid_payload", "given_up": True}]
    assert len(cli.json("deliveries", "--failed")) == 3


def test_a_bad_file_is_told_in_a_sentence(cli: Cli, mesh: Mesh) -> None:
    mesh.configure("channels: {main: {type: slak}}")
    done = cli("notify", "preview")

    assert done.returncode == 2
    assert "notify.yaml: channels.main: there is no type 'slak'" in done.stderr


def test_notify_yaml_can_be_checked(cli: Cli, mesh: Mesh, tmp_path: Path, slack: Slack) -> None:
    good = cli("notify", "check")
    text = (tmp_path / "notify.yaml").read_text()
    mesh.write(text.replace("type: slack", "type: slack, app_token: xapp-1-s3cret, workspace: T024BE7LD"))
    buttons = cli("notify", "check")
    mesh.write(text.replace("type: slack", "type: slack, app_token: xoxb-1-s3cret"))
    no_token = cli("notify", "check")
    mesh.write(text)
    mesh.configure("routes: [{channels: [mian]}]")
    bad = cli("notify", "check")

    assert "channel main: slack, with buttons for workspace T024BE7LD\n" in buttons.stdout
    assert "notify.yaml: channels.main: app_token: expected an app-level token (xapp-...)" in no_token.stderr
    assert "s3cret" not in buttons.stdout + no_token.stderr

    assert good.returncode == 0, good.stderr
    assert "channel main: slack" in good.stdout
    assert "route to main: info and graver, service=worker" in good.stdout
    assert "secret-part" not in good.stdout
    assert bad.returncode == 2
    assert "did you mean main?" in bad.stderr


def reloads(raw: Any) -> list[Any]:
    rows = [fields for _, fields in raw.xrange("deliveries") if fields[b"type"] == b"notify.reloaded"]
    return [json.loads(fields[b"data"]) for fields in rows]


@pytest.mark.parametrize("how", ["change", "signal"])
def test_what_is_changed_in_notify_yaml_holds_without_a_restart(mesh: Mesh, slack: Slack, raw: Any, how: str) -> None:
    with mesh.notifier() as process:
        mesh.configure("routes: [{channels: [main], match: [service=nobody]}]")
        cause = "SIGHUP" if how == "signal" else "file changed"

        def is_read() -> bool:
            if how == "signal":  # again and again: until the files are watched it is ignored
                process.send_signal(signal.SIGHUP)
            return any(cause in one["by"] for one in reloads(raw))

        eventually(is_read, what=f"notify.yaml is read because of {cause}")
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("console") == ["sent"] and mesh.settled)

        assert slack.requests == []
        assert [change for one in reloads(raw) for change in one.get("changes", [])] == ["routes changed"]


def test_a_wrong_notify_yaml_is_refused_and_the_one_before_stays(cli: Cli, mesh: Mesh, slack: Slack, raw: Any) -> None:
    before = cli("notify", "history").stdout
    with mesh.notifier():
        mesh.configure("routes: [{channels: [mian]}]")
        eventually(lambda: reloads(raw))
        refused = cli("notify", "reload", "--by", "ann")
        mesh.tell(ALERT)
        eventually(lambda: mesh.statuses("main") == ["sent"])
        mesh.configure("routes: [{channels: [main], min_severity: critical}]")
        eventually(lambda: len(reloads(raw)) == 3)
        again = cli("notify", "reload")

    assert refused.returncode == 1
    assert "refused, the one before stays: notify.yaml: routes[0].channels: there is no channel mian" in refused.stderr
    assert reloads(raw)[1]["by"] == "ann"
    assert (again.returncode, again.stdout.strip()) == (0, "nothing has changed")

    raw.xadd("deliveries", {"type": "notify.read", "data": json.dumps(reloads(raw)[0])})
    raw.xadd("deliveries", {"type": "notify.reloaded", "data": "no JSON"})
    shown, listed = cli("notify", "history").stdout, cli.json("notify", "history")
    assert before == "notify.yaml was not read again so far\n"
    assert [one["changes"] for one in listed] == [[], ["routes changed"], [], []]
    assert [one["error"] is None for one in listed] == [True, True, False, False]
    assert listed[2]["by"] == "ann"
    assert listed[0]["time"] > listed[3]["time"]
    assert cli.json("notify", "history", "--limit", "1") == listed[:1]
    assert "there is no channel mian" in listed[3]["error"]
    rows = [line.split() for line in shown.splitlines()]
    assert any("ann" in row and "refused:" in row for row in rows)
    assert "routes changed" in shown
