"""A minute of torture with a fixed seed; and the torture itself, given what it must find."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.chaos.torture import experiment
from tests.chaos.torture.behaviour import FOR_EVER
from tests.chaos.torture.check import check
from tests.chaos.torture.evidence import Evidence
from tests.chaos.torture.faults import KINDS, Fault, schedule
from tests.chaos.torture.model import Expected, predict
from tests.chaos.torture.plan import Plan, draw
from tests.chaos.torture.seen import DeadLetter, Entry, Seen, State
from tests.chaos.torture.shrink import shrink
from tests.servers import required_kinds

SEED = 197
PATIENCE = 30.0


def tortured(plan: Plan, faults: list[Fault], folder: Path) -> experiment.Result:
    kind = required_kinds()[0]
    return asyncio.run(experiment.run(plan, faults, server_kind=kind, patience=PATIENCE, folder=folder))


def test_whatever_is_done_to_it_a_mesh_does_what_the_model_predicts(tmp_path: Path) -> None:
    faults = schedule(SEED, seconds=12, rate=4)
    result = tortured(draw(SEED, seconds=12, rate=15), faults, tmp_path)

    assert result.findings == []
    assert result.injected.total() > len(faults) / 2, result.injected


def test_a_handler_that_publishes_outside_its_commit_is_found_out(tmp_path: Path) -> None:
    plan = msgspec.structs.replace(draw(SEED, seconds=4, rate=15), sabotaged=True)
    everybody = sum(service.replicas for service in plan.services)
    faults = [Fault(2.0, "kill", {"process": number, "seconds": 0.0}) for number in range(everybody)]
    result = tortured(plan, faults, tmp_path)

    assert result.injected == {"kill": everybody}
    assert any(finding.kind == "doubled" for finding in result.findings)


def test_a_seed_always_makes_the_same() -> None:
    assert draw(1, seconds=5, rate=10) == draw(1, seconds=5, rate=10) != draw(2, seconds=5, rate=10)
    assert predict(draw(1, seconds=5, rate=10)) == predict(draw(1, seconds=5, rate=10))
    assert schedule(1, seconds=60, rate=5) == schedule(1, seconds=60, rate=5) != schedule(2, seconds=60, rate=5)


def test_what_is_off_changes_nothing_about_the_rest() -> None:
    everything = schedule(1, seconds=600, rate=5)
    assert {fault.kind for fault in everything} == KINDS.keys()
    some = {"kill", "cut", "drop", "replay"}
    assert schedule(1, seconds=600, rate=5, kinds=some) == [fault for fault in everything if fault.kind in some]


# The checker


@pytest.fixture(scope="module")
def expected() -> Expected:
    return predict(draw(4, seconds=20, rate=15))


def perfect(expected: Expected) -> Seen:
    """Return what is to be seen where nothing ever went wrong, and everything dead was replayed."""
    entries = [
        Entry(
            stream=one.stream,
            entry_ms=1,
            id=f"id of {one.key}",
            key=one.key,
            type=one.type,
            subject=one.subject,
            tenant=one.tenant,
            cause=f"id of {one.cause}" if one.cause else None,
        )
        for one in expected.published
    ]
    dead_letters: list[DeadLetter] = []
    states = {name: State() for name in {service for service, _ in expected.handled}}
    for (service, key), handled in expected.handled.items():
        state = states[service]
        for life in range(min(handled.deaths, 2)):
            replayed = handled.deaths < FOR_EVER or life == 0
            dead_letters.append(
                DeadLetter(
                    id=f"{len(dead_letters)}-0",
                    service=service,
                    key=key,
                    reason=handled.reason,
                    attempts=handled.attempts,
                    replayed=replayed,
                )
            )
        if handled.deaths < FOR_EVER:
            state.done[key] = 1
            state.order.append(key)
        if handled.counts_deaths and handled.deaths:
            state.died[key] = min(handled.deaths, 2)
        for name in ("retried", "snoozed"):
            if count := getattr(handled, name):
                getattr(state, name)[key] = count
        if handled.counts_nonces:
            state.nonces[key] = 1
    for state in states.values():
        state.total = state.scores = len(state.done)
    return Seen(entries=entries, dead_letters=dead_letters, states=states, leftovers=[])


def test_the_checker_finds_nothing_where_nothing_is_wrong(expected: Expected) -> None:
    assert check(expected, perfect(expected), Evidence()) == []


def lose_an_output(seen: Seen) -> None:
    seen.entries.pop()


def double_an_output(seen: Seen) -> None:
    seen.entries.append(msgspec.structs.replace(seen.entries[-1], id="another"))


def publish_an_id_twice(seen: Seen) -> None:
    seen.entries.append(msgspec.structs.replace(seen.entries[-1], key="another"))


def publish_what_nobody_should(seen: Seen) -> None:
    seen.entries.append(msgspec.structs.replace(seen.entries[-1], key="surprise", id="surprise"))


def publish_too_early(seen: Seen) -> None:
    seen.entries[-1] = msgspec.structs.replace(seen.entries[-1], not_before=100.0)


def lose_a_subject(seen: Seen) -> None:
    seen.entries[-1] = msgspec.structs.replace(seen.entries[-1], subject=None)


def lose_a_dead_letter(seen: Seen) -> None:
    seen.dead_letters.pop()


def double_a_dead_letter(seen: Seen) -> None:
    seen.dead_letters.append(seen.dead_letters[-1])


def bury_what_did_well(seen: Seen) -> None:
    state = next(iter(seen.states.values()))
    key = next(iter(state.done))
    service = next(iter(seen.states))
    seen.dead_letters.append(DeadLetter(id="9", service=service, key=key, reason="failed", attempts=1, replayed=False))


def charge_deaths_that_nobody_died(seen: Seen) -> None:
    service, state = next(iter(seen.states.items()))
    key = next(iter(state.done))
    seen.dead_letters.append(DeadLetter(id="9", service=service, key=key, reason="crashed", attempts=1, replayed=True))


def count_twice(seen: Seen) -> None:
    next(iter(seen.states.values())).total += 1


def count_a_key_twice(seen: Seen) -> None:
    done = next(iter(seen.states.values())).done
    done[next(iter(done))] += 1


def append_twice(seen: Seen) -> None:
    order = next(iter(seen.states.values())).order
    order[-1] = order[0]


def count_a_retry_twice(seen: Seen) -> None:
    retried = next(state.retried for state in seen.states.values() if state.retried)
    retried[next(iter(retried))] += 1


def fail_without_being_told_to(seen: Seen) -> None:
    next(iter(seen.states.values())).surprises["r0, attempt 1"] = "OSError: too bad"


def take_a_step_twice(seen: Seen) -> None:
    nonces = next(state.nonces for state in seen.states.values() if state.nonces)
    nonces[next(iter(nonces))] += 1


def leave_a_checkpoint(seen: Seen) -> None:
    seen.leftovers.append(f"checkpoint:{next(iter(seen.states))}:redis-cli:{seen.entries[0].id}")


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lose_an_output, "lost"),
        (double_an_output, "doubled"),
        (publish_an_id_twice, "doubled"),
        (publish_what_nobody_should, "unpredicted"),
        (publish_too_early, "wrong"),
        (lose_a_subject, "wrong"),
        (lose_a_dead_letter, "wrong"),
        (double_a_dead_letter, "wrong"),
        (bury_what_did_well, "wrong"),
        (charge_deaths_that_nobody_died, "wrong"),
        (count_twice, "wrong"),
        (count_a_key_twice, "doubled"),
        (append_twice, "doubled"),
        (count_a_retry_twice, "doubled"),
        (fail_without_being_told_to, "wrong"),
        (take_a_step_twice, "doubled"),
        (leave_a_checkpoint, "left"),
    ],
)
def test_the_checker_finds(expected: Expected, damage: Callable[[Seen], None], kind: str) -> None:
    seen = perfect(expected)
    damage(seen)
    assert kind in {finding.kind for finding in check(expected, seen, Evidence())}


def test_the_checker_finds_runs_that_were_in_vain(expected: Expected) -> None:
    done = next(key for key, one in expected.handled.items() if one.retried == 0 and not (one.deaths or one.snoozed))
    assert check(expected, perfect(expected), Evidence(runs={done: 1})) == []
    (finding,) = check(expected, perfect(expected), Evidence(runs={done: 2}))
    assert finding.kind == "wrong"


# The shrinker


@pytest.mark.parametrize("guilty", [{3}, {0, 99}, {17, 42, 43}, set(range(5))])
def test_shrinking_leaves_the_guilty_alone(guilty: set[int]) -> None:
    tried: list[int] = []

    async def fails(items: list[int]) -> bool:
        tried.append(len(items))
        return guilty <= set(items)

    assert asyncio.run(shrink(range(100), fails)) == sorted(guilty)
    assert len(tried) < 100
