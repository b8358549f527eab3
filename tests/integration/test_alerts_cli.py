"""`penstock alerts` and `penstock silence`, as a person and a script run them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.alerting import is_caught_up, jobs, lagging, make_window, manager, publish, rules_text, told
from tests.command_line import environment
from tests.forks import run
from tests.hands import Raw, snapshot
from tests.processes import eventually
from tests.servers import Server

LAG = "kind: threshold\nseries: lag_age\nabove: 30s"
FAILING = "kind: ratio\nseries: jobs\nby: [service]\nover: 1m\nabove: 10%\nmin_count: 10"


class Cli:
    """Runs `penstock` on the default topology."""

    def __init__(self, server: Server, rules: Path) -> None:
        self.env = environment(REDIS_URL=server.url, PENSTOCK_ALERTS=str(rules))

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = run(["penstock", *arguments], env=self.env)
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def start() -> float:
    return time.time() // 10 * 10 - 3_600


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.yaml"
    path.write_text(rules_text(lag=LAG, slow=LAG + "\nfor: 1h", failing=FAILING))
    return path


@pytest.fixture
def cli(server: Server, rules: Path) -> Cli:
    return Cli(server, rules)


def test_what_is_wrong_is_shown_with_reasons_and_traces(
    cli: Cli, server: Server, raw: Raw, rules: Path, start: float
) -> None:
    assert cli("alerts") == "nothing is wrong\n"
    assert cli("alerts", "history") == "nothing has happened yet\n"
    failing = jobs(40, 10, service="worker", traces=["a" * 32])
    with manager(server, rules):
        publish(raw, lagging(start, 40), make_window(start, failing, scope="events"))
        publish(raw, make_window(start + 10, jobs(400, 0, service="worker"), scope="events"))
        eventually(lambda: len(told(raw)) == 3)
    shown, everything = cli("alerts").splitlines(), cli("alerts", "--all")

    assert shown[0].startswith("firing   warning  lag ingest/a  since ")
    assert shown[1] == "    lag: lag_age of ingest/a is 40 s, above 30 s"
    assert shown[2].startswith("pending  warning  slow ingest/a  since ")
    assert "resolved warning  failing worker" in everything
    assert f"    traces: {'a' * 32}" in everything
    assert [alert["state"] for alert in cli.json("alerts")] == ["firing", "pending"]
    lines = cli("alerts", "history").splitlines()
    assert any(re.search("notified resolved +failing worker .*not above 10 %", line) for line in lines)
    assert {entry["what"] for entry in cli.json("alerts", "history")} == {
        *("firing", "pending", "resolved", "notified", "notified resolved")
    }
    assert len(cli.json("alerts", "history", "--limit", "2")) == 2


def test_silences_are_made_listed_and_removed(cli: Cli) -> None:
    assert cli("silence", "ls") == "no silences\n"
    made = cli("silence", "add", "rule=lag", "group!=b", "--for", "2h", "--author", "ada", "--comment", "moving")
    (silence,) = cli.json("silence", "ls")

    assert made == f"{silence['id']}: until {silence['until']}\n"
    assert (silence["matchers"], silence["author"], silence["comment"]) == (["rule=lag", "group!=b"], "ada", "moving")
    assert "rule=lag group!=b" in cli("silence", "ls")
    cli("silence", "rm", silence["id"])
    assert cli.json("silence", "ls") == []
    assert f"there is no silence {silence['id']}" in cli("silence", "rm", silence["id"], code=1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("silence", "add", "rule", "--for", "2h"),
            "silence: expected a matcher such as",
        ),
        (
            ("silence", "add", "rule=lag", "--for", "soon"),
            "--for: expected a duration such as 30s",
        ),
        (("silence", "add", "rule=lag", "--for", "9999d"), "silence: duration: at most 10 years"),
        (
            ("silence", "add", "severity=~.*", "--for", "2h"),
            "silence: 'severity=~.*': regular expressions are not understood; write severity=*",
        ),
        (("silence", "add", "rule=[", "--for", "2h"), "silence: 'rule=[': a [ without its ] never matches"),
        (
            ("silence", "add", "severity=Critical", "--for", "2h"),
            "silence: severity=Critical never matches; severity is one of info, warning, critical",
        ),
        (
            ("silence", "add", "group=a", "group=b", "--for", "2h"),
            "silence: group=a and group=b cannot hold together; a pattern has room for both",
        ),
        (
            ("silence", "add", "group=a", "group!=a", "--for", "2h"),
            "silence: group=a and group!=a cannot hold together",
        ),
        (("alerts", "check", "no.yaml"), "no.yaml: cannot be read (No such file or directory)"),
        (("alerts", "backtest", "alerts.yaml", "--since", "long"), "--since: expected a duration such as 30s"),
    ],
)
def test_a_mistake_gets_a_sentence_and_changes_nothing(cli: Cli, arguments: tuple[str, ...], sentence: str) -> None:
    assert cli(*arguments, code=2).startswith(f"penstock: {sentence}")
    assert cli.json("silence", "ls") == []


def test_a_rules_file_is_checked(cli: Cli, rules: Path, tmp_path: Path) -> None:
    assert cli("alerts", "check").endswith("\n3 rules, all right\n")
    assert [rule["rule"] for rule in cli.json("alerts", "check", str(rules))] == ["lag", "slow", "failing"]
    broken = tmp_path / "broken.yaml"
    broken.write_text(rules_text(lag=f"{LAG}\nclear: 1h"))

    assert cli("alerts", "check", str(broken), code=2).startswith("penstock: broken.yaml: rules.lag.clear: it must not")


def test_rules_are_reloaded_from_anywhere_and_a_wrong_file_changes_nothing(
    cli: Cli, server: Server, raw: Raw, rules: Path, start: float
) -> None:
    with manager(server, rules):
        eventually(lambda: raw.exists("state:alerts:rules"))
        other = rules.with_name("other.yaml")
        other.write_text(rules_text(lag=LAG.replace("30s", "1h")))
        shown = cli("alerts", "reload", str(other), "--by", "ada")
        assert "changed lag: above: 30 -> 3600" in shown
        assert shown.endswith("1 rules are in force from now on\n")
        publish(raw, lagging(start, 40))
        eventually(lambda: is_caught_up(raw))
        other.write_text(rules_text(lag=f"{LAG}\nclear: 1h"))
        assert "rules.lag.clear: it must not" in cli("alerts", "reload", str(other), code=2)

    assert told(raw) == []
    assert any(
        (entry["what"], entry["rule"], entry["why"]) == ("rule changed", "lag", "above: 30 -> 3600; by ada")
        for entry in cli.json("alerts", "history")
    )


def test_an_alert_is_acknowledged(cli: Cli, server: Server, raw: Raw, rules: Path, start: float) -> None:
    assert "no alert that fires has an id" in cli("alerts", "ack", "5f", "--by", "ada", code=1)
    with manager(server, rules):
        publish(raw, lagging(start, 40))
        eventually(lambda: told(raw) == ["triggered lag ingest/a"])
        fingerprint = cli("alerts").splitlines()[0].split()[-1]
        assert cli("alerts", "ack", fingerprint[:5], "--by", "ada") == f"{fingerprint}: acknowledged by ada\n"
        eventually(lambda: told(raw)[1:] == ["acknowledged lag ingest/a"])
        assert "    acknowledged by ada" in cli("alerts").splitlines()
        assert cli("alerts", "ack", fingerprint[:5], "--by", "bob") == f"{fingerprint}: acknowledged by ada\n"

        taken_back = cli("alerts", "unack", fingerprint[:5], "--by", "bob", "--comment", "off home")
        assert taken_back == f"{fingerprint}: acknowledgement taken back by bob\n"
        eventually(lambda: told(raw)[2:] == ["unacknowledged lag ingest/a"])
        assert "acknowledged by" not in cli("alerts")
        assert "nobody has taken on" in cli("alerts", "unack", fingerprint[:5], "--by", "bob", code=1)
    assert cli.json("alerts", "history", "--limit", "1")[0]["why"] == "by bob: off home"


def test_a_rule_is_explained(cli: Cli, server: Server, raw: Raw, tmp_path: Path) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text(
        rules_text(
            lag=LAG + "\nwhere: ['group!=c']",
            slow=LAG + "\nfor: 1h",
            failing=FAILING,
            dying="kind: event\ntype: job.dead\nby: [job_type]\nat_least: 3",
        )
    )
    now = time.time() // 10 * 10
    with manager(server, rules):
        failing = jobs(40, 10, service="worker")
        publish(raw, lagging(now - 20, 40, 4, 99), make_window(now - 20, failing, scope="events"))
        raw.xadd("events", {"type": "job.dead", "data": '{"job_type": "mail"}'})
        eventually(lambda: len(told(raw)) == 2 and is_caught_up(raw))
        eventually(lambda: raw.hlen("state:alerts:arrivals"))
    cli.env["PENSTOCK_ALERTS"] = str(rules)
    lag, slow, failed, dying = (cli.json("alerts", "explain", name) for name in ("lag", "slow", "failing", "dying"))

    seen = [(one["labels"]["group"], one["level"], one["state"], one["next"]) for one in lag["label_sets"]]
    assert seen == [("a", "bad", "firing", "it fires"), ("b", "good", "inactive", "it does not fire")]
    assert lag["others"] == [{"stream": "ingest", "group": "c"}]
    assert slow["label_sets"][0]["next"] == "it fires once it has lasted for 1 h (for)"
    assert failed["label_sets"][0]["reason"] == "worker: 10 of 40 failed within 1 min (25 %), above 10 %"
    assert dying["label_sets"][0]["reason"].startswith("1 job.dead of mail within 1 min, the last one ")
    shown = cli("alerts", "explain", "lag").splitlines()
    assert any(line.startswith("stream=ingest group=a: firing since ") for line in shown)
    assert "    bad: lag_age of ingest/a is 40 s, above 30 s" in shown
    assert "there is no rule lagg; there are lag, slow" in cli("alerts", "explain", "lagg", code=2)


def test_rules_of_every_other_kind_and_silences_are_explained(
    cli: Cli, server: Server, raw: Raw, tmp_path: Path
) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text(
        rules_text(
            gone="kind: absence\nseries: jobs\nby: [service]\nafter: 1h",
            ended="kind: absence\nseries: jobs\nby: [service]\nafter: 1m",
            fewer="kind: anomaly\nseries: jobs\nby: [service]\nfield: count\nbaseline: 10\nmin_samples: 5",
            burning="kind: burn_rate\nseries: jobs\nby: [service]\nobjective: 99%\nrates: [14.4]",
            lag=LAG,
        )
    )
    cli.env["PENSTOCK_ALERTS"] = str(rules)
    now = time.time() // 10 * 10
    for at in range(15):
        start = now - 170 + 10 * at
        series = [jobs(100 if at < 13 else 4, service="shop"), jobs(100, 50, service="mail")]
        if at < 5:
            series.append(jobs(5, service="batch"))
        publish(raw, make_window(start, *series, scope="events"), lagging(start, 40), at=start + 12)
    cli("silence", "add", "rule=lag", "--for", "2h", "--author", "ada", "--comment", "moving")
    with manager(server, rules):
        eventually(lambda: len(told(raw)) == 3 and is_caught_up(raw))

        def explained(rule: str) -> dict[str, list[str]]:
            seen = cli.json("alerts", "explain", rule)["label_sets"]
            return {"/".join(one["labels"].values()): [one["level"], one["state"], one["reason"]] for one in seen}

        gone, ended, fewer, burning = map(explained, ("gone", "ended", "fewer", "burning"))
        (lag,) = cli.json("alerts", "explain", "lag")["label_sets"]
        shown = cli("alerts", "explain", "lag")

    assert sorted(gone) == ["batch", "mail", "shop"]
    assert all(row[:2] == ["good", "inactive"] for row in gone.values())
    assert re.fullmatch(r"jobs of batch: last there (1 min|\d+ min.*|\d+ s) ago", gone["batch"][2])
    assert ended["batch"][:2] == ["bad", "firing"]
    assert re.fullmatch(r"jobs of batch: nothing for .*, which should not be longer than 1 min", ended["batch"][2])
    assert fewer["shop"] == [
        "bad",
        "firing",
        "count of jobs of shop is 4, usually 100 (15.9 times the usual spread away)",
    ]
    assert fewer["mail"][:2] == ["good", "inactive"]
    assert burning["mail"][2] == (
        "mail: the error budget of 99 % burns 50 times too fast over 1 h and 5 min, above 14.4"
    )
    assert burning["shop"] == [
        *("good", "inactive", "shop: the error budget burns at most 0 times too fast over both windows")
    ]
    assert (lag["level"], lag["state"], lag["next"]) == ("bad", "firing", "it fires")
    assert re.fullmatch("silenced until .* by ada: moving", lag["suppressed"])
    assert f"    nobody is notified: {lag['suppressed']}" in shown.splitlines()


def test_a_backtest_shows_what_rules_would_have_raised_and_for_how_long(
    cli: Cli, raw: Raw, tmp_path: Path, start: float
) -> None:
    assert "holds no roll-ups" in cli("alerts", "backtest", "alerts.yaml")
    publish(raw, *(lagging(start + 10 * at, 40 if 3 <= at < 9 or at >= 50 else 4) for at in range(60)))
    trial = tmp_path / "trial.yaml"
    trial.write_text(rules_text(lag=LAG, quiet=LAG.replace("30s", "1h"), dying="kind: event\ntype: job.dead"))
    found = cli.json("alerts", "backtest", str(trial))
    before = snapshot(raw)

    assert found["windows"] == 60
    assert [(alert["rule"], alert["seconds"], alert["until"] is None) for alert in found["alerts"]] == [
        ("lag", 60, False),
        ("lag", 90, True),
    ]
    assert found["left_out"] == ["dying"]
    shown = cli("alerts", "backtest", str(trial), "--since", "1h")
    assert "1 min" in shown
    assert "1 min 30 s, fires still" in shown
    assert "quiet: no alert" in shown
    assert "dying: not part of this" in shown
    assert shown.endswith("2 alerts of 1 rules\n")
    (picture,) = [line for line in shown.splitlines() if line.startswith("lag  ")]
    assert picture.removeprefix("lag  ") == "····" + "█" * 9 + "·" * 48 + "█" * 11
    assert snapshot(raw) == before  # nothing is written
    assert told(raw) == []


def test_a_backtest_of_the_rules_in_force_finds_what_was_told(
    cli: Cli, server: Server, raw: Raw, rules: Path, start: float
) -> None:
    publish(raw, *(lagging(start + 10 * at, 40 if at % 5 < 2 else 4) for at in range(20)))
    with manager(server, rules):
        eventually(lambda: is_caught_up(raw))
    found = cli.json("alerts", "backtest", str(rules))

    triggers = [line for line in told(raw) if line.startswith("triggered")]
    assert len(found["alerts"]) == len(triggers) > 2
