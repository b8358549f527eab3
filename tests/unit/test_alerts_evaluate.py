"""Each kind of rule: fires, holds between its two limits, clears, and goes on after a restart in each state."""

from __future__ import annotations

import pytest

from penstock.schemas import Series
from tests.alerting import EPOCH, Mesh, gauge, jobs, rules_text

LAG = rules_text(lag="kind: threshold\nseries: lag_age\nabove: 30s\nclear: 10s\nfor: 20s\nkeep_firing: 20s")


def lag(seconds: float, group: str = "worker") -> Series:
    return gauge("lag_age", seconds, stream="ingest", group=group)


def feed(mesh: Mesh, *values: float) -> list[str]:
    """Give the mesh windows with that lag; return the states the alert was in after each."""
    states = []
    for value in values:
        mesh.window(gauge("lag_age", value, stream="ingest", group="worker"))
        states.append(mesh.states.get("lag ingest/worker", "inactive"))
    return states


def test_a_threshold_goes_through_every_state() -> None:
    mesh = Mesh(LAG)

    assert feed(mesh, 5, 31, 40, 50, 20, 11, 9, 8, 7) == [
        *("inactive", "pending", "pending", "firing"),
        *("firing", "firing", "firing", "firing", "resolved"),
    ]
    assert mesh.told == ["triggered lag ingest/worker", "resolved lag ingest/worker"]


def test_a_threshold_says_in_words_why_it_fired_and_why_it_resolved() -> None:
    mesh = Mesh(LAG)
    feed(mesh, 31, 40, 50, 7, 7, 7)
    (_, fired), (_, ended) = mesh.state.outbox

    assert fired.reason == "lag_age of ingest/worker is 50 s, above 30 s"
    assert (fired.value, fired.threshold, fired.status) == (50, 30, "firing")
    assert ended.reason == "lag_age of ingest/worker is 7 s, not above 10 s"
    assert (ended.since, ended.status) == (fired.since, "resolved")
    assert ended.resolved_at is not None
    assert ended.resolved_at > ended.since


@pytest.mark.parametrize("at", range(1, 9))
def test_a_restart_in_any_state_neither_repeats_nor_forgets(at: int) -> None:
    values = [5.0, 31, 40, 50, 20, 9, 8, 7, 5]
    straight, restarted = Mesh(LAG), Mesh(LAG)
    expected = feed(straight, *values)
    before = feed(restarted, *values[:at])
    restarted.restart()

    assert before + feed(restarted, *values[at:]) == expected
    assert restarted.told == straight.told


def test_a_threshold_below_takes_the_other_sides() -> None:
    mesh = Mesh(rules_text(gone="kind: threshold\nseries: consumers\nby: [group]\nbelow: 1\nclear: 2"))

    for alive, state in ((2, None), (0, "firing"), (1, "firing"), (2, "resolved")):
        mesh.window(gauge("consumers", alive, stream="ingest", group="worker"))
        assert mesh.states.get("gone worker") == state


def test_of_series_that_are_joined_the_worst_counts() -> None:
    mesh = Mesh(rules_text(gone="kind: threshold\nseries: consumers\nby: [group]\nbelow: 1"))
    mesh.window(*(gauge("consumers", alive, stream=stream, group="worker") for stream, alive in (("a", 2), ("b", 0))))

    assert mesh.told == ["triggered gone worker"]
    assert mesh.last.value == 0


def test_each_label_set_is_an_alert_of_its_own() -> None:
    mesh = Mesh(rules_text(lag="kind: threshold\nseries: lag_age\nabove: 30s"))
    mesh.window(lag(40, "a"), lag(50, "b"), lag(5, "c"))
    mesh.window(lag(4, "a"), lag(50, "b"), lag(5, "c"))

    assert mesh.told == ["triggered lag ingest/a", "triggered lag ingest/b", "resolved lag ingest/a"]


def test_matchers_choose_the_series_and_by_joins_them() -> None:
    mesh = Mesh(rules_text(lag="kind: threshold\nseries: lag_age\nabove: 30s\nby: [stream]\nwhere: [group!=test*]"))
    mesh.window(lag(10, "a"), lag(20, "b"), lag(99, "tests"))
    assert mesh.told == []

    mesh.window(lag(10, "a"), lag(40, "b"), lag(99, "tests"))
    assert mesh.told == ["triggered lag ingest"]
    assert mesh.last.value == 40


def test_a_series_that_is_gone_resolves_its_alert_after_a_minute() -> None:
    mesh = Mesh(rules_text(lag="kind: threshold\nseries: lag_age\nabove: 30s"))
    mesh.window(lag(40))
    for _ in range(6):
        mesh.window()
    assert mesh.states == {"lag ingest/worker": "firing"}

    mesh.window()
    assert mesh.told[-1] == "resolved lag ingest/worker"
    assert "no such series" in mesh.last.reason


def test_while_no_window_comes_nothing_is_said_to_be_over() -> None:
    mesh = Mesh(rules_text(lag="kind: threshold\nseries: lag_age\nabove: 30s"))
    mesh.window(lag(40))
    for _ in range(60):
        mesh.tick(after=60)

    assert mesh.told == ["triggered lag ingest/worker"]


def test_a_change_counts_from_the_least_of_its_time() -> None:
    mesh = Mesh(rules_text(growing="kind: threshold\nseries: dead\nchange: 5m\nabove: 2"))

    def dead(*values: float) -> list[str]:
        for value in values:
            mesh.window(gauge("dead", value, stream="ingest", group="worker"))
        return [told.split()[0] for told in mesh.told]

    assert dead(100, 101, 102) == []
    assert dead(103) == ["triggered"]
    assert mesh.last.reason == "dead of ingest/worker has moved by 3 within 5 min, above 2"
    assert dead(*[103] * 26) == ["triggered"]
    assert dead(*[103] * 4) == ["triggered", "resolved"]


RATIO = "kind: ratio\nseries: jobs\nby: [service]\nover: 1m\nabove: 10%\nclear: 5%\nmin_count: 20"


def test_a_ratio_fires_holds_and_clears() -> None:
    mesh = Mesh(rules_text(failing=RATIO))
    for count, errors, state in (
        (20, 2, None),  # 10 % is not above 10 %
        (20, 3, "firing"),  # 5 of 40
        (20, 0, "firing"),  # 5 of 60: 8 %, not back at 5 %
        (60, 0, "resolved"),  # 5 of 120
    ):
        mesh.window(jobs(count, errors, service="worker", job_type="t"), scope="events")
        assert mesh.states.get("failing worker") == state


def test_a_ratio_joins_series_and_shows_the_traces_of_what_failed() -> None:
    mesh = Mesh(rules_text(failing=RATIO))
    mesh.window(
        jobs(30, 0, service="worker", job_type="well"),
        jobs(10, 10, service="worker", job_type="ill", traces=["t1", "t2"]),
        jobs(30, 0, service="other", job_type="well"),
    )

    assert mesh.told == ["triggered failing worker"]
    assert mesh.last.reason == "worker: 10 of 40 failed within 1 min (25 %), above 10 %"
    assert mesh.last.exemplars == ["t1", "t2"]


def test_a_ratio_of_too_few_says_nothing_and_ends_what_it_said() -> None:
    mesh = Mesh(rules_text(failing=RATIO))
    mesh.window(jobs(19, 19, service="worker"))
    assert mesh.told == []

    mesh.window(jobs(1, 1, service="worker"))
    assert mesh.told == ["triggered failing worker"]
    for _ in range(6):
        mesh.window(jobs(1, 1, service="other"))
    assert mesh.told[-1] == "resolved failing worker"
    assert "too few to say" in mesh.last.reason


def test_a_ratio_takes_the_share_that_its_own_matchers_pick() -> None:
    body = "kind: ratio\nseries: events\nby: []\nover: 1m\nabove: 10%\nmin_count: 10\nonly: [type=job.dead]"
    mesh = Mesh(rules_text(dying=body))
    mesh.window(jobs(10, 10, name="events", type="job.failed"), jobs(10, 0, name="events", type="job.completed"))
    assert mesh.told == []

    mesh.window(jobs(10, 10, name="events", type="job.dead"), jobs(10, 0, name="events", type="job.completed"))
    assert mesh.told == ["triggered dying"]
    assert "10 of 40 match" in mesh.last.reason


BURN = "kind: burn_rate\nseries: jobs\nby: [service]\nobjective: 99.9%\nrates: [14.4]\nmin_count: 100"


def test_a_burn_rate_needs_both_windows() -> None:
    mesh = Mesh(rules_text(burning=BURN))
    for _ in range(350):
        mesh.window(jobs(10, 0, service="worker"))
    for _ in range(5):
        mesh.window(jobs(10, 10, service="worker"))
    assert mesh.told == []  # 5 min are bad by far, the hour by 1.4 %: 14 times, not above 14.4

    mesh.window(jobs(10, 10, service="worker"))
    assert mesh.told == ["triggered burning worker"]
    assert mesh.last.value == pytest.approx(16.9, abs=0.5)
    for _ in range(31):
        mesh.window(jobs(10, 0, service="worker"))
    assert mesh.told[-1] == "resolved burning worker"  # the hour is bad still, but not the last 5 min


def test_a_burn_rate_of_too_few_says_nothing() -> None:
    mesh = Mesh(rules_text(burning=BURN))
    for _ in range(9):
        mesh.window(jobs(10, 10, service="worker"))
    assert mesh.told == []

    mesh.window(jobs(10, 10, service="worker"))
    assert mesh.told == ["triggered burning worker"]


def test_the_rate_that_burns_fastest_is_named() -> None:
    mesh = Mesh(rules_text(burning=BURN.replace("[14.4]", "[1, 3, 6, 14.4]")))
    for _ in range(20):
        mesh.window(jobs(10, 0, service="worker"))
    mesh.window(jobs(10, 1, service="worker"))

    assert mesh.told == ["triggered burning worker"]
    assert mesh.last.threshold == 3
    assert "over 1 d and 2 h" in mesh.last.reason


ABSENCE = "kind: absence\nseries: jobs\nafter: 2m"


def test_absence_is_noticed_by_the_clock_alone_and_ends_when_data_is_back() -> None:
    mesh = Mesh(rules_text(silent=ABSENCE))
    mesh.window(jobs(1, service="worker"))
    for _ in range(11):
        mesh.tick(after=10)
    assert mesh.told == []

    mesh.tick(after=10)
    assert mesh.told == ["triggered silent"]
    assert mesh.last.reason == "jobs: nothing for 2 min, which should not be longer than 2 min"
    mesh.window(jobs(1, service="worker"))
    assert mesh.told[-1] == "resolved silent"


def test_what_was_never_there_is_absent_after_its_time() -> None:
    mesh = Mesh(rules_text(silent=ABSENCE))
    mesh.tick()
    mesh.tick(after=110)
    assert mesh.told == []

    mesh.restart()
    mesh.tick(after=10)
    assert mesh.told == ["triggered silent"]


def test_what_is_absent_altogether_is_missed_for_ever() -> None:
    mesh = Mesh(rules_text(silent=ABSENCE))
    for _ in range(30):
        mesh.tick(after=7_200)

    assert set(mesh.told) == {"triggered silent", "repeated silent"}


def test_a_series_without_a_count_is_absent_though_it_is_listed() -> None:
    mesh = Mesh(rules_text(silent=ABSENCE))
    for _ in range(13):
        mesh.window(jobs(0, service="worker"), scope="events")

    assert mesh.told == ["triggered silent"]


def test_with_by_each_label_set_that_was_there_is_missed_and_given_up_after_a_day() -> None:
    mesh = Mesh(rules_text(silent=ABSENCE + "\nby: [service]"))
    mesh.window(jobs(1, service="a"), jobs(1, service="b"))
    for _ in range(12):
        mesh.window(jobs(1, service="b"))
    assert mesh.told == ["triggered silent a"]

    while mesh.now < EPOCH + 86_400:
        mesh.window(jobs(1, service="b"))
    mesh.window(jobs(1, service="b"))
    assert mesh.told[-1] == "resolved silent a"
    assert "nothing is expected any more" in mesh.last.reason


ANOMALY = "kind: anomaly\nseries: jobs\nby: []"


def test_an_anomaly_fires_at_the_second_evaluation_and_clears_when_it_is_as_usual() -> None:
    mesh = Mesh(rules_text(odd=ANOMALY))
    for _ in range(40):
        mesh.window(jobs(100))
    mesh.window(jobs(200))
    assert mesh.told == []

    mesh.window(jobs(200))
    assert mesh.told == ["triggered odd"]
    assert mesh.last.reason == "count of jobs of all is 200, usually 100 (8.3 times the usual spread away)"
    mesh.window(jobs(130))  # 2.8 spreads: neither
    assert mesh.states == {"odd": "firing"}
    mesh.window(jobs(105))
    assert mesh.states == {"odd": "resolved"}


def test_one_odd_window_is_chance() -> None:
    mesh = Mesh(rules_text(odd=ANOMALY))
    for _ in range(40):
        mesh.window(jobs(100))
        mesh.window(jobs(100))
        mesh.window(jobs(200) if mesh.now > EPOCH + 600 else jobs(100))

    assert mesh.told == []


def test_what_is_usual_is_frozen_while_an_anomaly_fires_also_through_a_restart() -> None:
    mesh = Mesh(rules_text(odd=ANOMALY))
    for _ in range(40):
        mesh.window(jobs(100))
    for _ in range(200):
        mesh.window(jobs(0), scope="events")
        mesh.restart()

    assert mesh.told == ["triggered odd"]
    assert mesh.last.threshold == pytest.approx(100, abs=1)


def test_what_is_usual_follows_a_slow_change() -> None:
    mesh = Mesh(rules_text(odd=ANOMALY))
    for at in range(600):
        mesh.window(jobs(100 + at))

    assert mesh.told == []


def test_a_change_that_lasts_becomes_what_is_usual() -> None:
    mesh = Mesh(rules_text(odd=ANOMALY + "\nrelearn: 1h"))
    for count in [100] * 40 + [200] * 500:
        mesh.window(jobs(count))

    assert mesh.told == ["triggered odd", "resolved odd"]
    assert "what is usual now" in mesh.last.reason


def test_a_change_too_small_to_matter_is_none() -> None:
    mesh = Mesh(rules_text(odd=ANOMALY + "\nmin_change: 150"))
    for count in [100] * 40 + [200] * 5 + [300] * 2:
        mesh.window(jobs(count))

    assert mesh.told == ["triggered odd"]
    assert mesh.last.value == 300


@pytest.mark.parametrize(("direction", "fires"), [("up", False), ("down", True), ("both", True)])
def test_an_anomaly_can_be_of_one_direction_only(direction: str, fires: bool) -> None:
    mesh = Mesh(rules_text(odd=f"{ANOMALY}\ndirection: {direction}"))
    for count in [100] * 40 + [10] * 3:
        mesh.window(jobs(count))

    assert (mesh.told == ["triggered odd"]) is fires


def test_durations_are_judged_only_where_there_are_enough() -> None:
    mesh = Mesh(rules_text(slow=ANOMALY + "\nfield: duration.p95"))
    for _ in range(40):
        mesh.window(jobs(50, p95=0.1))
    for _ in range(5):
        mesh.window(jobs(19, p95=9.0))
    assert mesh.told == []

    for _ in range(2):
        mesh.window(jobs(50, p95=0.4, traces=["t"]))
    assert mesh.told == ["triggered slow"]
    assert "is 400 ms, usually 100 ms" in mesh.last.reason


def test_an_event_fires_at_once_and_resolves_when_none_has_come_for_a_while() -> None:
    mesh = Mesh(rules_text(dying="kind: event\ntype: job.dead\nby: [job_type]\nkeep_firing: 60s"))
    mesh.event("job.dead", {"job_type": "mail", "error": "ValueError: no such box\ndetails"}, event_id="e-7")
    assert mesh.told == ["triggered dying mail"]
    assert mesh.last.reason == "job.dead of mail: ValueError: no such box"
    assert len(mesh.last.exemplars) == 1

    mesh.tick(after=50)
    mesh.event("job.dead", {"job_type": "mail"})
    mesh.tick(after=50)
    assert mesh.told == ["triggered dying mail"]
    mesh.restart()
    mesh.tick(after=10)
    assert mesh.told[-1] == "resolved dying mail"
    assert mesh.last.reason == "no job.dead of mail for 1 min"


def test_an_event_rule_can_ask_for_several_within_a_time() -> None:
    mesh = Mesh(rules_text(dying="kind: event\ntype: job.*\nat_least: 3\nwithin: 30s"))
    for pause in (0, 20, 20):
        mesh.tick(after=pause)
        mesh.event("job.dead")
        mesh.restart()
    assert mesh.told == []

    mesh.tick(after=5)
    mesh.event("job.dead")
    assert mesh.told == ["triggered dying"]
    assert mesh.last.reason == "3 within 30 s, the last one job.dead"


def test_an_event_rule_looks_at_what_the_event_says() -> None:
    mesh = Mesh(rules_text(big="kind: event\ntype: job.dead\nwhere: [tenant=acme, attempt!=1, paid=true]"))
    for data, tenant in (({"attempt": 1, "paid": True}, "acme"), ({"attempt": 2}, "acme"), ("text", "acme")):
        mesh.event("job.dead", data, tenant=tenant)
    mesh.event("job.dead", {"attempt": 2, "paid": True}, tenant="other")
    assert mesh.told == []

    mesh.event("job.dead", {"attempt": 2, "paid": True}, tenant="acme")
    assert mesh.told == ["triggered big"]


BREAKER = "kind: event\ntype: breaker.opened\nresolved_by: breaker.closed\nby: [name]"


def test_an_event_rule_can_be_resolved_by_another_event() -> None:
    mesh = Mesh(rules_text(open=BREAKER))
    mesh.event("breaker.opened", {"name": "crm", "reason": "5 failures"})
    mesh.event("breaker.closed", {"name": "erp"})
    mesh.tick(after=3_600)
    mesh.restart()
    assert mesh.told == ["triggered open crm"]

    mesh.event("breaker.closed", {"name": "crm"})
    assert mesh.told == ["triggered open crm", "resolved open crm"]
    assert mesh.last.reason == "breaker.closed of crm"


def test_an_event_rule_with_for_fires_by_the_clock_unless_it_is_over_before() -> None:
    mesh = Mesh(rules_text(open=BREAKER + "\nfor: 60s"))
    mesh.event("breaker.opened", {"name": "crm"})
    mesh.tick(after=59)
    assert mesh.states == {"open crm": "pending"}
    mesh.event("breaker.closed", {"name": "crm"})
    mesh.tick(after=60)
    assert mesh.told == []

    mesh.event("breaker.opened", {"name": "crm"})
    mesh.restart()
    mesh.tick(after=60)
    assert mesh.told == ["triggered open crm"]


def test_labels_from_outside_cannot_make_alerts_without_bound() -> None:
    mesh = Mesh(rules_text(dying="kind: event\ntype: job.dead\nby: [job_id]\ngroup_by: []"))
    for number in range(600):
        mesh.event("job.dead", {"job_id": str(number)})

    assert len(mesh.states) == 501
    assert mesh.states["dying (others)"] == "firing"


def test_what_is_beyond_the_bound_ends_by_time_where_nothing_tells_its_end() -> None:
    mesh = Mesh(rules_text(open=BREAKER))
    for number in range(510):
        mesh.event("breaker.opened", {"name": f"b{number:03}"})
    assert "triggered open (others)" in mesh.told
    for number in range(510):
        mesh.event("breaker.closed", {"name": f"b{number:03}"})
    mesh.tick(after=590)
    assert [name for name, state in mesh.states.items() if state == "firing"] == ["open (others)"]

    mesh.tick(after=10)
    assert mesh.told[-1] == "resolved open (others)"
    assert mesh.last.reason == "no breaker.opened of (others) for 10 min"


def test_the_end_of_a_flapping_event_alert_says_since_when_there_was_none() -> None:
    mesh = Mesh(rules_text(dying="kind: event\ntype: job.dead\nkeep_firing: 30s\nflap: {triggers: 2, calm: 10m}"))
    for _ in range(3):
        mesh.event("job.dead")
        mesh.tick(after=40)
    mesh.tick(after=500)
    mesh.restart()
    assert mesh.states == {"dying": "firing"}

    mesh.tick(after=60)
    assert mesh.last.reason == "calm for 10 min: no job.dead of all for 10 min"
