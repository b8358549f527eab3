"""Who is told what, and when: silences, inhibition, grouping, repeats, flapping, rules that go away."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.schemas import Series
from tests.alerting import Mesh, gauge, rules_text

LAG = "kind: threshold\nseries: lag_age\nabove: 30s"
DEAD = "kind: threshold\nseries: dead\nabove: 0"


def lag(seconds: float, group: str = "worker", stream: str = "ingest") -> Series:
    return gauge("lag_age", seconds, stream=stream, group=group)


def whys(mesh: Mesh) -> list[str]:
    return [entry.why for entry in mesh.state.history]


def test_a_silenced_alert_fires_and_resolves_without_anybody_being_told() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.silence("group=work*", seconds=60)
    mesh.window(lag(40))
    (_, record) = mesh.state.alerts.items()[0]
    mesh.window(lag(4))

    assert record.suppressed is not None
    assert record.suppressed.startswith("silenced until 2027-01-15T08:01:00.000Z by ops")
    assert mesh.told == []
    assert [entry.what for entry in mesh.state.history] == ["firing", "resolved"]


def test_what_still_fires_when_its_silence_ends_is_told_then() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.silence("rule=lag", "severity=warning", seconds=60)
    mesh.window(lag(40))
    mesh.tick(after=40)
    mesh.restart()
    assert mesh.told == []

    mesh.tick(after=11)
    assert mesh.told == ["triggered lag ingest/worker"]


def test_the_end_of_what_was_told_is_told_through_a_silence() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.window(lag(40))
    mesh.silence("rule=lag", seconds=9999)
    mesh.window(lag(4))

    assert mesh.told == ["triggered lag ingest/worker", "resolved lag ingest/worker"]


def test_a_silence_asks_for_all_of_its_matchers() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.silence("group=worker", "stream=other", seconds=60)
    mesh.silence("tenant=*", seconds=60)
    mesh.window(lag(40))

    assert mesh.told == ["triggered lag ingest/worker"]


def test_a_silence_that_is_over_is_forgotten_a_day_later() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.silence("rule=lag", seconds=60)
    mesh.tick(after=86_400)
    assert len(mesh.state.silences) == 1

    mesh.tick(after=61)
    assert len(mesh.state.silences) == 0


INHIBIT = """
inhibit:
  - {source: [severity=critical], target: [severity=warning], equal: [stream, group]}
"""
BOTH = rules_text(lag=LAG, stuck=LAG.replace("30s", "5m") + "\nseverity: critical") + INHIBIT


def test_critical_hides_the_warning_of_the_same_subject_only() -> None:
    mesh = Mesh(BOTH)
    mesh.window(lag(400, "a"), lag(40, "b"))

    assert mesh.told == ["triggered lag ingest/b", "triggered stuck ingest/a"]


def test_what_was_hidden_is_told_when_nothing_hides_it_any_more() -> None:
    mesh = Mesh(BOTH)
    mesh.window(lag(400))
    mesh.window(lag(40))

    assert mesh.told == ["triggered stuck ingest/worker", "resolved stuck ingest/worker", "triggered lag ingest/worker"]


def test_a_warning_that_was_told_before_is_told_as_resolved_although_it_is_hidden() -> None:
    mesh = Mesh(BOTH)
    for seconds in (40, 400, 4):
        mesh.window(lag(seconds))

    assert mesh.told[0] == "triggered lag ingest/worker"
    assert sorted(mesh.told[-2:]) == ["resolved lag ingest/worker", "resolved stuck ingest/worker"]


def test_a_label_absent_on_both_sides_does_not_match() -> None:
    by_nothing = rules_text(lag=LAG + "\nby: []", stuck=LAG.replace("30s", "5m") + "\nseverity: critical\nby: []")
    mesh = Mesh(by_nothing + INHIBIT)
    mesh.window(lag(400))

    assert mesh.told == ["triggered lag", "triggered stuck"]


def test_an_alert_does_not_hide_itself() -> None:
    rules = rules_text(lag=LAG + "\nseverity: critical")
    mesh = Mesh(rules + INHIBIT.replace("severity=warning", "severity=*"))
    mesh.window(lag(40))

    assert mesh.told == ["triggered lag ingest/worker"]


def test_a_group_is_told_as_one_and_ends_when_all_of_it_is_over() -> None:
    mesh = Mesh(rules_text(lag=LAG + '\ngroup_by: [stream]\nsummary: "{group} lag on {stream}"'))
    mesh.window(lag(40, "a"), lag(50, "b"), lag(60, "c", "other"))
    assert mesh.told == ["triggered lag ingest", "triggered lag other"]
    first = mesh.state.outbox[0][1]
    assert first.summary == "a, b lag on ingest"
    assert first.reason.startswith("2 alerts: lag_age of ingest/a is 40 s")

    mesh.window(lag(4, "a"), lag(50, "b"), lag(60, "c", "other"))
    mesh.restart()
    assert len(mesh.told) == 2
    mesh.window(lag(4, "a"), lag(5, "b"), lag(60, "c", "other"))
    assert mesh.told[2:] == ["resolved lag ingest"]


def test_a_group_is_not_over_while_one_that_is_silenced_fires() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\ngroup_by: []"))
    mesh.silence("group=b", seconds=9999)
    mesh.window(lag(40, "a"), lag(40, "b"))
    mesh.window(lag(4, "a"), lag(40, "b"))
    assert mesh.told == ["triggered lag"]

    mesh.window(lag(4, "a"), lag(4, "b"))
    assert mesh.told == ["triggered lag", "resolved lag"]


def test_who_joins_a_group_later_is_told_with_it_again_but_not_at_once() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\ngroup_by: []"))
    mesh.window(lag(40, "a"))
    for _ in range(29):
        mesh.window(lag(40, "a"), lag(40, "b"))
    assert mesh.told == ["triggered lag"]

    for _ in range(60):
        mesh.window(lag(40, "a"), lag(40, "b"))
    assert mesh.told == ["triggered lag", "repeated lag"]
    assert mesh.last.reason.startswith("2 alerts")


def test_a_member_that_resolved_and_fires_again_is_told_like_one_that_joins() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\ngroup_by: []"))
    mesh.window(lag(40, "a"), lag(40, "b"))
    mesh.window(lag(40, "a"), lag(4, "b"))
    for _ in range(29):
        mesh.window(lag(40, "a"), lag(50, "b"))
        mesh.restart()
    assert mesh.told == ["triggered lag", "repeated lag"]
    assert mesh.last.reason.startswith("2 alerts: ")

    for _ in range(60):
        mesh.window(lag(40, "a"), lag(50, "b"))
    assert len(mesh.told) == 2


def test_fingerprint_and_since_name_one_episode_whoever_joins_or_leaves() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\ngroup_by: []"))
    mesh.window(lag(40, "a"))
    for _ in range(40):
        mesh.window(lag(4, "a"), lag(40, "b"))
    mesh.window(lag(4, "a"), lag(4, "b"))

    assert mesh.told == ["triggered lag", "repeated lag", "resolved lag"]
    assert len({(alert.fingerprint, alert.since) for _, alert in mesh.state.outbox}) == 1


@pytest.mark.parametrize("severity", ["info", "critical"])
def test_another_severity_is_told_at_once(severity: str) -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.window(lag(40))
    mesh.use(rules_text(lag=f"{LAG}\nseverity: {severity}"))
    mesh.window(lag(40))
    mesh.window(lag(40))

    assert [alert.severity for _, alert in mesh.state.outbox] == ["warning", severity]
    assert mesh.told[1] == "repeated lag ingest/worker"


def test_an_acknowledgement_does_not_hold_for_another_severity() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.window(lag(40))
    mesh.acknowledge(mesh.last.fingerprint)
    mesh.window(lag(40))
    mesh.use(rules_text(lag=f"{LAG}\nseverity: critical"))
    mesh.window(lag(40))

    assert mesh.told == [f"{what} lag ingest/worker" for what in ("triggered", "acknowledged", "repeated")]
    assert mesh.last.acknowledged_by is None
    assert len(mesh.state.acknowledgements) == 0


def test_what_is_acknowledged_is_told_once_and_repeated_no_more() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\nrepeat: 1h"))
    mesh.window(lag(40))
    mesh.acknowledge(mesh.last.fingerprint)
    for _ in range(3):
        mesh.tick(after=3_600)
        mesh.restart()
    mesh.window(lag(4))

    assert mesh.told == [f"{what} lag ingest/worker" for what in ("triggered", "acknowledged", "resolved")]
    assert mesh.last.acknowledged_by == "ada"
    assert mesh.last.acknowledged_at == "2027-01-15T08:00:10.000Z"
    assert [entry.why for entry in mesh.state.history if entry.what == "acknowledged"] == ["by ada"]
    mesh.window(lag(40))
    assert mesh.told[3:] == ["triggered lag ingest/worker"]  # the next time is another one
    assert mesh.last.acknowledged_by is None


def test_an_acknowledgement_that_is_taken_back_is_told_once_and_repeats_begin_anew() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\nrepeat: 1h"))
    mesh.window(lag(40))
    mesh.acknowledge(mesh.last.fingerprint)
    mesh.tick(after=4 * 3_600)
    for _ in range(2):
        mesh.acknowledge(mesh.last.fingerprint, "bob", withdrawn=True)
        mesh.tick(after=60)
        mesh.restart()

    assert mesh.told == [f"{what} lag ingest/worker" for what in ("triggered", "acknowledged", "unacknowledged")]
    assert (mesh.last.acknowledged_by, mesh.last.acknowledged_at, mesh.last.unacknowledged_by) == (None, None, "bob")
    assert [entry.why for entry in mesh.state.history if entry.what == "unacknowledged"] == ["by bob"]
    assert {record.acknowledged_by for _, record in mesh.state.alerts.items()} == {None}
    mesh.tick(after=3_500)
    assert len(mesh.told) == 3, "not sooner than after an hour"
    mesh.tick(after=100)
    assert mesh.told[3:] == ["repeated lag ingest/worker"]
    assert mesh.last.unacknowledged_by is None, "it is said once"


def test_whoever_takes_it_on_after_somebody_gave_it_back_has_it() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.window(lag(40))
    mesh.acknowledge(mesh.last.fingerprint)
    mesh.window(lag(40))
    mesh.acknowledge(mesh.last.fingerprint, "bob")  # said after a withdrawal that nobody has seen to yet
    mesh.window(lag(40))

    assert mesh.told[1:] == ["acknowledged lag ingest/worker"] * 2
    assert mesh.last.acknowledged_by == "bob"


def test_what_is_taken_back_before_anybody_was_notified_is_not_told() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.silence("rule=lag", seconds=60)
    mesh.window(lag(40))
    (fingerprint,) = mesh.states and [key for key, _ in mesh.state.alerts.items()]
    mesh.acknowledge(fingerprint)
    mesh.window(lag(40))
    mesh.acknowledge(fingerprint, withdrawn=True)
    mesh.window(lag(40))

    assert len(mesh.state.acknowledgements) == 0
    for _ in range(6):
        mesh.window(lag(40))
    assert mesh.told == ["triggered lag ingest/worker"]


def test_a_group_is_acknowledged_through_any_of_its_alerts_and_who_joins_is_told_still() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\ngroup_by: []"))
    mesh.window(lag(40, "a"), lag(40, "b"))
    (one, *_) = [key for key, record in mesh.state.alerts.items() if record.labels["group"] == "b"]
    mesh.acknowledge(one)
    mesh.window(lag(40, "a"), lag(40, "b"))
    for _ in range(40):
        mesh.window(lag(40, "a"), lag(40, "b"), lag(40, "c"))

    assert mesh.told == ["triggered lag", "acknowledged lag", "repeated lag"]
    assert mesh.last.acknowledged_by == "ada"
    assert {record.acknowledged_by for _, record in mesh.state.alerts.items()} == {"ada"}


def test_what_was_said_of_an_alert_that_does_not_fire_is_forgotten() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.acknowledge("0123")
    mesh.window(lag(40))

    assert mesh.told == ["triggered lag ingest/worker"]
    assert len(mesh.state.acknowledgements) == 0


def test_a_silence_that_cannot_be_read_holds_nothing_back() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.silence("group=[", seconds=60)
    mesh.window(lag(40))

    assert mesh.told == ["triggered lag ingest/worker"]


def test_people_are_told_again_for_as_long_as_it_fires() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\nrepeat: 1h"))
    mesh.window(lag(40))
    for _ in range(3 * 360):
        mesh.window(lag(40))
        mesh.restart()

    assert mesh.told == ["triggered lag ingest/worker"] + ["repeated lag ingest/worker"] * 3


def test_people_are_not_told_again_of_what_was_silenced_meanwhile() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\nrepeat: 1h"))
    mesh.window(lag(40))
    mesh.silence("rule=lag", seconds=9 * 3600)
    for _ in range(8):
        mesh.tick(after=3600)

    assert mesh.told == ["triggered lag ingest/worker"]


def test_what_flaps_is_told_once_until_it_is_calm() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\nflap: {triggers: 3, within: 30m, calm: 5m}"))
    for _ in range(20):
        mesh.window(lag(40))
        mesh.window(lag(4))
    assert mesh.told == ["triggered lag ingest/worker", "resolved lag ingest/worker"] * 2 + [
        "triggered lag ingest/worker"
    ]
    assert mesh.last.flapping
    assert mesh.last.reason.startswith("flapping, 3 times lately: lag_age of ingest/worker is 40 s")

    for _ in range(30):
        mesh.window(lag(4))
    assert mesh.told[5:] == ["resolved lag ingest/worker"]
    assert mesh.last.reason.startswith("calm for 5 min: lag_age of ingest/worker is 4 s")


def test_an_alert_says_all_that_its_receiver_needs() -> None:
    body = LAG + (
        '\nseverity: critical\nlabels: {team: core}\nrunbook: docs/lag\nsummary: "{team}: {group} is {value} behind"'
    )
    mesh = Mesh(rules_text(lag=body))
    mesh.window(lag(90))
    alert = mesh.last

    assert alert.labels == {"stream": "ingest", "group": "worker", "team": "core"}
    assert alert.summary == "core: worker is 1 min 30 s behind"
    assert (alert.severity, alert.runbook, alert.since) == ("critical", "docs/lag", "2027-01-15T08:00:10.000Z")


def test_a_fingerprint_stays_through_every_restart_and_change_of_the_rule_but_its_name() -> None:
    fingerprints = set()
    for body in (LAG, LAG + "\nseverity: critical", LAG.replace("30s", "10s") + "\nlabels: {team: a}"):
        mesh = Mesh(rules_text(lag=body))
        mesh.window(lag(40))
        fingerprints.add(mesh.last.fingerprint)

    assert len(fingerprints) == 1


moves = st.lists(
    st.one_of(
        st.tuples(st.just("window"), st.integers(0, 60), st.integers(0, 60)),
        st.tuples(st.just("tick"), st.integers(0, 4_000), st.just(0)),
        st.tuples(st.just("silence"), st.sampled_from(["group=a", "group=*", "rule=stuck"]), st.integers(1, 2_000)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(moves, st.sampled_from(["", "\ngroup_by: []", "\nflap: {triggers: 2}", "\nkeep_firing: 30s"]))
def test_whatever_happens_a_resolve_follows_a_trigger_and_a_trigger_a_resolve(moves: list[Any], more: str) -> None:
    mesh = Mesh(rules_text(lag=LAG + more, stuck=LAG.replace("30s", "50s") + "\nseverity: critical") + INHIBIT)
    for what, one, other in moves:
        match what:
            case "window":
                mesh.window(lag(one, "a"), lag(other, "b"))
            case "tick":
                mesh.tick(after=one)
            case "silence":
                mesh.silence(one, seconds=other)
            case "restart":
                mesh.restart()
    open_alerts: set[str] = set()
    for kind, alert in mesh.state.outbox:
        if kind == "alert.triggered":
            assert alert.fingerprint not in open_alerts
            open_alerts.add(alert.fingerprint)
        else:
            assert alert.fingerprint in open_alerts
        if kind == "alert.resolved":
            open_alerts.remove(alert.fingerprint)
    mesh.window(lag(0, "a"), lag(0, "b"))
    for _ in range(2):
        mesh.tick(after=1e5)
        mesh.window(lag(0, "a"), lag(0, "b"))
    assert "firing" not in mesh.states.values()
    assert len(mesh.state.notices) == 0


@pytest.mark.parametrize("suppressed", [True, False])
def test_history_tells_states_and_who_was_told(suppressed: bool) -> None:
    mesh = Mesh(rules_text(lag=LAG))
    if suppressed:
        mesh.silence("rule=lag", seconds=9999)
    mesh.window(lag(40))
    mesh.window(lag(4))

    told = [] if suppressed else ["notified", "notified resolved"]
    assert sorted(entry.what for entry in mesh.state.history) == sorted(["firing", "resolved", *told])
    assert all(entry.why and entry.time for entry in mesh.state.history)
