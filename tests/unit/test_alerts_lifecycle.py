"""The state machine: by hand for each edge, and by random lives for what must hold in every one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.mesh.alerts import AlertRecord
from penstock_services.alerts.state.evaluation import Evaluation, Level
from penstock_services.alerts.state.lifecycle import (
    MISSING_FOR,
    AlertPolicy,
    Transition,
    forgettable,
    resolve,
    step,
)

LEVELS: tuple[Level, ...] = ("bad", "between", "good", "missing")
NEW = AlertRecord(fingerprint="f", rule="r")


def live(
    policy: AlertPolicy, *evaluations: tuple[float, Level], record: AlertRecord = NEW
) -> tuple[AlertRecord, list[str]]:
    """Lead an alert through a life; return how it ends, and the transitions it went through."""
    seen: list[str] = []
    for now, level in evaluations:
        record, transition = step(record, Evaluation(level=level, reason=level), now, policy)
        if transition:
            seen.append(f"{transition.before} > {transition.after} @{now:g}")
    return record, seen


def test_without_for_it_fires_at_once() -> None:
    record, seen = live(AlertPolicy(), (0, "bad"))

    assert seen == ["inactive > firing @0"]
    assert record.fired == 0


def test_it_fires_once_the_condition_has_held_for_long_enough() -> None:
    _, seen = live(AlertPolicy(hold=30), (0, "bad"), (10, "bad"), (29.9, "bad"), (30, "bad"), (40, "bad"))

    assert seen == ["inactive > pending @0", "pending > firing @30"]


@pytest.mark.parametrize("level", ["good", "between"])
def test_pending_ends_as_soon_as_the_condition_ceases(level: Level) -> None:
    _, seen = live(AlertPolicy(hold=30), (0, "bad"), (10, level), (20, "bad"), (40, "bad"), (50, "bad"))

    assert seen == ["inactive > pending @0", "pending > inactive @10", "inactive > pending @20", "pending > firing @50"]


def test_between_the_two_limits_nothing_begins_and_nothing_ends() -> None:
    assert live(AlertPolicy(), (0, "between"))[1] == []
    assert live(AlertPolicy(), (0, "bad"), (10, "between"), (9999, "between"))[1] == ["inactive > firing @0"]


def test_it_resolves_once_the_condition_has_ceased_for_long_enough() -> None:
    _, seen = live(AlertPolicy(keep_firing=60), (0, "bad"), (10, "good"), (60, "good"), (69, "good"), (70, "good"))

    assert seen == ["inactive > firing @0", "firing > resolved @70"]


@pytest.mark.parametrize("level", ["bad", "between"])
def test_keep_firing_counts_from_the_last_time_it_was_not_well(level: Level) -> None:
    _, seen = live(AlertPolicy(keep_firing=60), (0, "bad"), (10, "good"), (60, level), (70, "good"), (129, "good"))

    assert seen == ["inactive > firing @0"]


def test_a_hole_in_the_data_ends_nothing_but_its_lasting_does() -> None:
    holding = AlertPolicy(hold=30)

    assert live(holding, (0, "bad"), (10, "missing"), (20, "bad"), (30, "bad"))[1][-1] == "pending > firing @30"
    assert live(holding, (0, "bad"), (5, "missing"), (5 + MISSING_FOR, "missing"))[1][-1] == "pending > inactive @65"
    assert live(AlertPolicy(), (0, "bad"), (5, "missing"), (64, "missing"))[1] == ["inactive > firing @0"]
    assert live(AlertPolicy(), (0, "bad"), (5, "missing"), (65, "missing"))[1][-1] == "firing > resolved @65"


def test_it_does_not_fire_again_before_it_has_cooled_down_and_does_so_then() -> None:
    life: list[tuple[float, Level]] = [(0, "bad"), (10, "good"), (20, "bad"), (100, "bad"), (110, "bad")]

    assert live(AlertPolicy(cooldown=100), *life)[1] == [
        "inactive > firing @0",
        "firing > resolved @10",
        "resolved > pending @20",
        "pending > firing @110",
    ]


def test_what_comes_and_goes_becomes_one_alert_until_it_is_calm() -> None:
    policy = AlertPolicy(flap_triggers=3, flap_within=1000, flap_calm=200)
    life: list[tuple[float, Level]] = [(at, "bad" if at % 20 == 0 else "good") for at in range(0, 100, 10)]
    record, seen = live(policy, *life)

    assert seen[-1] == "resolved > firing @40"
    assert record.flapping
    _, ending = live(policy, (289, "good"), (290, "good"), record=record)
    assert ending == ["firing > resolved @290"]


def test_a_flapping_alert_says_so_once_however_long_it_goes_on() -> None:
    record, _ = live(
        AlertPolicy(flap_triggers=2), *[(at, "bad" if at % 20 == 0 else "good") for at in range(0, 200, 10)]
    )

    assert record.reason.count("flapping") == 1


def test_it_is_kept_for_as_long_as_its_past_matters() -> None:
    policy = AlertPolicy(cooldown=50, flap_within=100)
    record, _ = live(policy, (0, "bad"), (10, "good"))

    assert not forgettable(record, 109, policy)
    assert forgettable(record, 110, policy)
    assert forgettable(NEW, 0, policy)
    assert not forgettable(live(policy, (0, "bad"))[0], 9999, policy)


@pytest.mark.parametrize(("hold", "after"), [(0, "resolved"), (60, "inactive")])
def test_an_alert_can_be_ended_from_outside(hold: float, after: str) -> None:
    record, _ = live(AlertPolicy(hold=hold), (0, "bad"))
    ended, transition = resolve(record, 5, "the rule is gone")

    assert (ended.state, transition.why) == (after, "the rule is gone")


lives = st.lists(st.tuples(st.integers(0, 500), st.sampled_from(LEVELS)), max_size=60)
policies = st.builds(
    AlertPolicy,
    hold=st.sampled_from([0.0, 15.0, 300.0]),
    keep_firing=st.sampled_from([0.0, 30.0, 400.0]),
    cooldown=st.sampled_from([0.0, 100.0, 2_000.0]),
    flap_triggers=st.integers(2, 5),
    flap_within=st.sampled_from([60.0, 3_600.0]),
    flap_calm=st.sampled_from([10.0, 900.0]),
)


def random_life(
    steps: list[tuple[int, Level]], policy: AlertPolicy
) -> list[tuple[float, AlertRecord, Transition | None]]:
    now, record, life = 0.0, NEW, []
    for pause, level in steps:
        now += pause
        record, transition = step(record, Evaluation(level=level, reason=level), now, policy)
        record = msgspec.json.decode(msgspec.json.encode(record), type=AlertRecord)  # as after a restart
        life.append((now, record, transition))
    return life


@given(lives, policies)
def test_triggers_and_resolves_alternate_in_every_life(steps: list[tuple[int, Level]], policy: AlertPolicy) -> None:
    edges = [
        transition.after
        for _, _, transition in random_life(steps, policy)
        if transition and "firing" in (transition.before, transition.after)
    ]

    assert edges == (["firing", "resolved"] * len(edges))[: len(edges)]


@given(lives, policies)
def test_transitions_follow_one_another_and_end_in_the_state_there_is(
    steps: list[tuple[int, Level]], policy: AlertPolicy
) -> None:
    state = "inactive"
    for _, record, transition in random_life(steps, policy):
        if transition is not None:
            assert transition.before == state != transition.after
            state = transition.after
        assert record.state == state


@given(lives, policies)
def test_it_never_fires_before_its_time_nor_while_it_cools_down(
    steps: list[tuple[int, Level]], policy: AlertPolicy
) -> None:
    bad_since = resolved = None
    for (now, _, transition), (_, level) in zip(random_life(steps, policy), steps, strict=True):
        if level == "bad":
            bad_since = now if bad_since is None else bad_since
        elif level != "missing":
            bad_since = None
        if transition and transition.after == "firing":
            assert bad_since is not None
            assert now - bad_since >= policy.hold
            assert resolved is None or now - resolved >= policy.cooldown
        if transition and transition.after == "resolved":
            resolved = now


@given(lives, policies)
def test_what_has_been_bad_for_long_enough_fires(steps: list[tuple[int, Level]], policy: AlertPolicy) -> None:
    last = random_life(steps, policy)
    now, record = (last[-1][0], last[-1][1]) if last else (0.0, NEW)
    for at in (now, now + policy.hold + policy.cooldown):
        record, _ = step(record, Evaluation(level="bad", reason=""), at, policy)

    assert record.state == "firing"


@given(lives, policies)
def test_what_is_well_for_long_enough_resolves(steps: list[tuple[int, Level]], policy: AlertPolicy) -> None:
    last = random_life(steps, policy)
    now, record = (last[-1][0], last[-1][1]) if last else (0.0, NEW)
    for at in (now, now + policy.keep_firing + policy.flap_calm):
        record, _ = step(record, Evaluation(level="good", reason=""), at, policy)

    assert record.state in ("inactive", "resolved")
