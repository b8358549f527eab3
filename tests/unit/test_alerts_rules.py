"""alerts.yaml: what ships is right, and every mistake a person makes gets a sentence with rule and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import ConfigurationError
from penstock_services.alerts.rules.file import load, parse
from penstock_services.alerts.rules.model import KINDS, Threshold, alert_labels
from tests.alerting import one_rule, rules_text
from tests.processes import ROOT

THRESHOLD = "kind: threshold\nseries: lag_age\nabove: 30s"
RATIO = "kind: ratio\nseries: jobs\nabove: 10%"
ABSENCE = "kind: absence\nseries: jobs\nafter: 5m"
BURN = "kind: burn_rate\nseries: jobs\nobjective: 99.9%"
ANOMALY = "kind: anomaly\nseries: jobs"
EVENT = "kind: event\ntype: job.dead"


def without(body: str, key: str) -> str:
    return "\n".join(line for line in body.splitlines() if not line.startswith(f"{key}:"))


MISTAKES = {
    # what holds for every rule
    "": "rules.r: expected a mapping with the key kind, got NoneType",
    "series: lag_age": "rules.r.kind: it is missing; the kinds are threshold, ratio",
    "kind: treshold": "rules.r.kind: there is no kind treshold; the kinds are threshold, ratio",
    f"{THRESHOLD}\nserverity: critical": "rules.r.serverity: there is no such key; did you mean severity?",
    f"{THRESHOLD}\nzzz: 1": "rules.r.zzz: there is no such key; there are above, below, by, change",
    f"{THRESHOLD}\nname: other": "rules.r.name: there is no such key",
    f"{THRESHOLD}\nseverity: fatal": "rules.r.severity: Invalid enum value 'fatal'",
    f"{THRESHOLD}\nfor: soon": "rules.r.for: expected a duration such as 30s, 5m or 7d, got 'soon'",
    f"{THRESHOLD}\nfor: -5": "rules.r.for: expected a duration such as 30s, 5m or 7d, got -5",
    f"{THRESHOLD}\nfor: no": "rules.r.for: expected a duration such as 30s, 5m or 7d, got False",
    f"{THRESHOLD}\nrepeat: 0": "rules.r.repeat: expected a duration such as 30s, 5m or 7d, got 0",
    f"{THRESHOLD}\ncooldown: [1m]": "rules.r.cooldown: expected a duration",
    f"{THRESHOLD}\nflap: {{triggers: 1}}": "rules.r.flap.triggers: Expected `int` >= 2",
    f"{THRESHOLD}\nflap: {{calmness: 1m}}": "rules.r.flap: Object contains unknown field `calmness`",
    f"{THRESHOLD}\nlabels: {{team: 7}}": "rules.r.labels.team: Expected `str`, got `int`",
    f"{THRESHOLD}\nlabels: {{stream: mine}}": "rules.r.labels.stream: the alert has a label of this name already",
    f"{THRESHOLD}\nlabels: {{rule: mine}}": "rules.r.labels.rule: the alert has a label of this name already",
    f"{THRESHOLD}\ngroup_by: [steam]": "rules.r.group_by: the alerts have no label steam; did you mean stream?",
    f"{THRESHOLD}\ngroup_by: stream": "rules.r.group_by: Expected",
    f'{THRESHOLD}\nsummary: "{{valeu}}"': "rules.r.summary: nothing is called {valeu}; did you mean value?",
    f'{THRESHOLD}\nsummary: "{{value"': "rules.r.summary: a brace has no partner",
    f'{THRESHOLD}\nsummary: ""': "rules.r.summary: Expected `str` of length >= 1",
    f"{THRESHOLD}\nrunbook: {'x' * 501}": "rules.r.runbook: Expected `str` of length <= 500",
    # series
    without(THRESHOLD, "series"): "rules.r.series: it is missing",
    f"{without(THRESHOLD, 'series')}\nseries: lagage": (
        "rules.r.series: there is no series lagage; did you mean lag_age?"
    ),
    f"{THRESHOLD}\nwhere: stream=a": "rules.r.where: Expected a list, got `str`",
    f"{THRESHOLD}\nwhere: [stream]": "rules.r.where: expected a matcher such as stream=ingest or type!=test.*, got",
    f"{THRESHOLD}\nwhere: [{{stream: a}}]": "rules.r.where: expected a matcher",
    f"{THRESHOLD}\nwhere: [strm=a]": "rules.r.where: lag_age has no label strm; did you mean stream?",
    f"{THRESHOLD}\nby: [service]": "rules.r.by: lag_age has no label service; there are stream, group",
    f"{THRESHOLD}\nwindow: 30s": "rules.r.window: roll-ups are 10s or 60s long",
    # threshold
    without(THRESHOLD, "above"): "rules.r.above: give either above or below",
    f"{THRESHOLD}\nbelow: 5": "rules.r.above: give either above or below, not both",
    f"{THRESHOLD}\nclear: 40s": "rules.r.clear: it must not be greater than above",
    f"{without(THRESHOLD, 'above')}\nbelow: 5\nclear: 4": "rules.r.clear: it must not be less than below",
    f"{THRESHOLD}\nfield: count": "rules.r.field: lag_age has no count; there is value",
    "kind: threshold\nseries: jobs\nabove: 5": "rules.r.field: jobs has no value; there are count, rate, errors",
    "kind: threshold\nseries: jobs\nabove: 5\nfield: duration.p59": (
        "rules.r.field: jobs has no duration.p59; did you mean duration.p99?"
    ),
    f"{without(THRESHOLD, 'above')}\nabove: lots": "rules.r.above: expected a duration such as 30s",
    f"{without(THRESHOLD, 'above')}\nabove: .nan": "rules.r.above: expected a number, a percentage such as 5%",
    f"{without(THRESHOLD, 'above')}\nabove: x%": "rules.r.above: expected a percentage such as 5%, got 'x%'",
    # ratio
    without(RATIO, "above"): "rules.r.above: it is missing",
    f"{without(RATIO, 'above')}\nabove: 10": "rules.r.above: expected a share between 0 and 1, such as 0.05 or 5%",
    f"{without(RATIO, 'series')}\nseries: dead": "rules.r.series: dead counts nothing; take events or jobs",
    f"{RATIO}\nclear: 20%": "rules.r.clear: it must not be greater than above",
    f"{RATIO}\nover: 5s": "rules.r.over: it must not be shorter than window",
    f"{RATIO}\nonly: [jobtype=a]": "rules.r.only: jobs has no label jobtype; did you mean job_type?",
    f"{RATIO}\nmin_count: 0": "rules.r.min_count: Expected `int` >= 1",
    # absence
    without(ABSENCE, "after"): "rules.r.after: it is missing",
    f"{without(ABSENCE, 'after')}\nafter: 30s": "rules.r.after: at least 60s",
    # burn rate
    without(BURN, "objective"): "rules.r.objective: it is missing",
    f"{without(BURN, 'objective')}\nobjective: 100%": "rules.r.objective: expected a share between 0 and 1",
    f"{BURN}\nrates: [14]": "rules.r.rates: there is no rate 14; the rates are 14.4, 6, 3, 1",
    f"{BURN}\nrates: []": "rules.r.rates: Expected a list of length >= 1",
    # anomaly
    f"{ANOMALY}\nfield: value": "rules.r.field: an anomaly is one of a count or of a duration",
    f"{ANOMALY}\nscore: 2\nclear_score: 2": "rules.r.clear_score: it must be less than score",
    f"{ANOMALY}\nbaseline: 20": "rules.r.min_samples: it must not be greater than baseline",
    f"{ANOMALY}\ndirection: sideways": "rules.r.direction: Invalid enum value 'sideways'",
    # event
    without(EVENT, "type"): "rules.r.type: it is missing",
    f"{EVENT}\nseries: jobs": "rules.r.series: there is no such key",
    f"{EVENT}\nat_least: 0": "rules.r.at_least: Expected `int` >= 1",
    f"{EVENT}\nby: [job_type]\ngroup_by: [tenant]": "rules.r.group_by: the alerts have no label tenant",
    f'{EVENT}\nsummary: "{{job_type}}"': "rules.r.summary: nothing is called {job_type}; there are rule, severity",
}


@pytest.mark.parametrize(("body", "sentence"), MISTAKES.items(), ids=MISTAKES.values())
def test_a_mistake_in_a_rule_gets_a_sentence(body: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(rules_text(r=body))

    assert str(caught.value).startswith(f"alerts.yaml: {sentence}")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rules: [", "alerts.yaml: not YAML: "),
        ("- a", "alerts.yaml: expected the keys rules and inhibit, got list"),
        ("rule: {}", "alerts.yaml: rule: there is no such key; did you mean rules?"),
        ("rules: [a]", "alerts.yaml: rules: expected a mapping of names to rules"),
        ("rules: {Bad Name: {kind: event, type: a}}", "alerts.yaml: rules.Bad Name: a name starts with"),
        (
            "rules:\n  a: {kind: event, type: a}\n  a: {kind: event, type: b}",
            "alerts.yaml: not YAML: a is there twice",
        ),
        ("inhibit: {}\nrules: {}", ""),
        (
            "rules: {a: {kind: event, type: a}}\ninhibit: [{source: [rule=b], target: [severity=warn], equal: [x]}]",
            "alerts.yaml: inhibit[0].source: rule=b never matches; rule is one of a\n"
            "alerts.yaml: inhibit[0].target: severity=warn never matches; severity is one of info, warning, critical",
        ),
        ("inhibit: {a: b}", "alerts.yaml: inhibit: expected a list of {source, target, equal}"),
        ("inhibit: [{source: [a=b], target: [a=c]}]", "alerts.yaml: inhibit[0].equal: it is missing"),
        ("inhibit: [{source: [a], target: [a=c], equal: [a]}]", "alerts.yaml: inhibit[0].source: expected a matcher"),
        (
            "inhibit: [{source: [], target: [a=c], equal: [a]}]",
            "alerts.yaml: inhibit[0].source: Expected a list of length >= 1",
        ),
    ],
)
def test_a_mistake_in_the_file_gets_a_sentence(text: str, sentence: str) -> None:
    if not sentence:
        assert parse(text).rules == {}
        return
    with pytest.raises(ConfigurationError) as caught:
        parse(text)

    assert str(caught.value).startswith(sentence)


def test_every_mistake_of_a_file_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(rules_text(a="kind: event", b=f"{THRESHOLD}\nclear: 1h\ngroup_by: [x]", c="kind: c") + "\nfoo: 1")

    told = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert told == ["foo", "rules.a.type", "rules.b.clear", "rules.b.group_by", "rules.c.kind"]


def test_a_file_that_cannot_be_read_is_named_with_the_variable(tmp_path: Path) -> None:
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")

    for path, why in ((tmp_path / "none.yaml", "No such file or directory"), (binary, "it is not UTF-8 text")):
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        assert str(caught.value) == f"{path}: cannot be read ({why}); set PENSTOCK_ALERTS to your alerts.yaml"


def test_numbers_may_be_percentages_and_durations() -> None:
    rule = one_rule("kind: threshold\nseries: lag_age\nabove: 1m\nclear: 2.5\nfor: 0\nkeep_firing: 1m")

    assert isinstance(rule, Threshold)
    assert [rule.above, rule.clear, rule.hold, rule.keep_firing] == [60.0, 2.5, 0.0, 60.0]


def test_the_rules_that_ship_are_sound_and_cover_what_a_team_needs() -> None:
    shipped = load(ROOT / "alerts.yaml").rules

    assert {type(rule) for rule in shipped.values()} <= set(KINDS.values())
    assert {"dead-letters-growing", "lag", "pending-too-long", "jobs-failing", "breaker-open", "service-gone"} <= set(
        shipped
    )
    assert all(rule.summary != "{rule}: {reason}" for rule in shipped.values())


@pytest.mark.parametrize(
    ("body", "labels"),
    [
        (THRESHOLD, ("stream", "group")),
        (f"{THRESHOLD}\nby: [stream]", ("stream",)),
        (ABSENCE, ()),
        (f"{EVENT}\nby: [job_type]", ("job_type",)),
    ],
)
def test_the_labels_of_alerts_are_known_beforehand(body: str, labels: tuple[str, ...]) -> None:
    assert alert_labels(one_rule(body)) == labels
