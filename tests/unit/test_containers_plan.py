"""The planner of the containers service: from any state it converges, and tells each thing once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_services.containers.model import Container, Declaration, Health, Instance, Port, Record
from penstock_services.containers.plan import (
    CRASHES,
    STABLE,
    Claim,
    Create,
    Failed,
    Remove,
    Start,
    Step,
    Stop,
    Tell,
    Unpause,
    Wait,
    back_off,
    note,
    plan,
)

WEB = Declaration(name="web", image="busybox", ports={"http": Port(container=80)})
MOST_STEPS = 120


@dataclass
class World:
    """An engine as it would follow, with a clock; `crashes` runs of each container end with 1."""

    containers: dict[str, Container] = field(default_factory=dict)
    now: float = 1_000.0
    crashes: int = 0
    runs: int = 0
    told: list[str] = field(default_factory=list)
    most: dict[tuple[int, int], int] = field(default_factory=dict)

    def follow(self, record: Record, *, loses: bool = False) -> Step:
        """Take one step; `loses`: whoever took it died before the record knew."""
        step = plan(record, list(self.containers.values()), self.now)
        self._act(step, record)
        if isinstance(step, Wait):
            self.now += 60.0 if step.seconds is None else step.seconds
        if not loses:
            note(step, record, self.now)
            if isinstance(step, Claim):
                record.known(step.ordinal).ports = dict.fromkeys(record.declared.ports, 20000 + step.ordinal)
            if isinstance(step, Tell):
                self.told.append(step.what)
            if isinstance(step, Failed):
                self.told.append(f"failed {step.phase}")
        return step

    def _act(self, step: Step, record: Record) -> None:
        match step:
            case Create(ordinal):
                name = record.container_name("", ordinal)
                assert name not in self.containers
                self.containers[name] = Container(
                    id=name,
                    name=name,
                    service="web",
                    generation=record.generation,
                    ordinal=ordinal,
                    digest=record.declared.digest,
                    state="created",
                )
            case Start(one):
                self.runs += 1
                ends = self.crashes > 0
                self.crashes -= ends
                self._put(
                    one,
                    state="exited" if ends else "running",
                    health="none",
                    started_at=str(self.runs),
                    exit_code=int(ends),
                )
            case Unpause(one):
                self._put(one, state="running")
            case Stop(one):
                self._put(one, state="exited", exit_code=143)
            case Remove(one):
                assert not one.runs
                del self.containers[one.name]
            case _:
                pass
        running = [(one.generation, one.ordinal) for one in self.containers.values() if one.runs]
        for which in running:
            assert running.count(which) == 1

    def _put(self, one: Container, **changes: object) -> None:
        self.containers[one.name] = msgspec.structs.replace(self.containers[one.name], **changes)

    def settle(self, record: Record) -> int:
        """Follow until there is nothing to do; return how many steps it took."""
        for number in range(MOST_STEPS):
            step = self.follow(record)
            if step == Wait(None) or step == Tell("deleted"):
                return number
        raise AssertionError(f"no end after {MOST_STEPS} steps: {step}")


def test_a_service_is_claimed_created_started_and_told_once() -> None:
    world, record = World(), Record(declared=WEB)
    steps = []
    while (step := world.follow(record)) != Wait(None):
        steps.append(type(step).__name__)
    assert steps == ["Claim", "Create", "Tell", "Start", "Tell"]
    assert world.told == ["created", "started"]
    assert world.follow(record) == Wait(None)
    assert world.told == ["created", "started"]


def test_a_crash_is_told_with_its_attempt_and_the_service_started_again() -> None:
    world, record = World(crashes=2), Record(declared=WEB)
    world.settle(record)
    assert world.told == ["created", "failed run", "failed run", "started"]
    assert record.instances[0].failures == 2


def test_what_crashes_again_and_again_backs_off_and_is_said_to_work_only_when_it_does_for_a_while() -> None:
    world, record = World(crashes=CRASHES), Record(declared=WEB)
    began = world.now
    while world.follow(record) != Tell("started"):
        pass
    assert world.now - began >= 1 + 2 + 4 + 8 + 16 + STABLE
    assert record.state == "started"
    assert back_off(100) == 300


def test_a_container_that_could_not_be_made_is_tried_again_when_it_is_due() -> None:
    record = Record(declared=WEB, instances={0: Instance(state="failed", failures=1, retry_at=1_030.0)})
    assert plan(record, [], 1_000.0) == Wait(30.0)
    assert plan(record, [], 1_030.0) == Claim(0)


def test_a_dead_container_is_removed_and_made_again() -> None:
    world, record = World(), Record(declared=WEB)
    world.settle(record)
    world._put(world.containers["web-g1-0"], state="dead", exit_code=1)
    steps = []
    while (step := world.follow(record)) != Wait(None):
        steps.append(type(step))
    assert [step for step in steps if step in (Failed, Remove, Create, Start)] == [Failed, Remove, Create, Start]


def test_a_container_of_a_lost_record_that_has_a_name_of_ours_makes_way() -> None:
    world, record = World(), Record(declared=msgspec.structs.replace(WEB, strategy="rolling"))
    world.containers["web-g1-0"] = Container(
        id="old", name="web-g1-0", service="web", generation=1, ordinal=0, digest="other", state="running"
    )
    world.settle(record)
    assert {name: one.digest for name, one in world.containers.items()} == {"web-g1-0": WEB.digest}


def test_failures_long_ago_count_no_more() -> None:
    world, record = World(crashes=3), Record(declared=WEB)
    world.settle(record)
    world.now += STABLE
    world._put(world.containers["web-g1-0"], state="exited", exit_code=1)
    assert world.follow(record) == Failed(0, "run", world.containers["web-g1-0"])
    assert record.instances[0].failures == 1


@pytest.mark.parametrize(
    ("restart", "code", "again"), [("no", 1, False), ("on-failure", 0, False), ("on-failure", 1, True)]
)
def test_what_ends_is_started_again_as_declared(restart: str, code: int, again: bool) -> None:
    declared = msgspec.structs.replace(WEB, restart=restart)
    world, record = World(), Record(declared=declared)
    world.settle(record)
    world._put(world.containers["web-g1-0"], state="exited", exit_code=code)
    world.settle(record)
    assert (world.containers["web-g1-0"].state == "running") is again
    assert (record.state == "stopped") is not again


def test_a_container_that_somebody_removes_is_told_and_made_again() -> None:
    world, record = World(), Record(declared=WEB)
    world.settle(record)
    del world.containers["web-g1-0"]
    world.settle(record)
    assert world.told == ["created", "started", "failed drift", "started"]


def test_recreate_ends_the_old_before_the_new_begins_and_rolling_after_it_has_drained() -> None:
    for strategy, first in (("recreate", Stop), ("rolling", Claim)):
        declared = msgspec.structs.replace(WEB, strategy=strategy)
        world, record = World(), Record(declared=declared)
        world.settle(record)
        record.declared = msgspec.structs.replace(declared, image="busybox:2")
        record.generation, record.instances, record.state = 2, {}, ""
        assert isinstance(world.follow(record), first)
        told_at = None
        while (step := world.follow(record)) != Wait(None):
            if step == Tell("started"):
                told_at = world.now
            if isinstance(step, Stop) and strategy == "rolling":
                assert told_at is not None
                assert world.now >= told_at + declared.drain
        assert set(world.containers) == {"web-g2-0"}


def test_an_unhealthy_container_is_told_stopped_and_started_again() -> None:
    declared = msgspec.structs.replace(WEB, health=Health(test=["true"]))
    world, record = World(), Record(declared=declared)
    world.settle(record)
    world._put(world.containers["web-g1-0"], health="unhealthy")
    assert isinstance(world.follow(record), Failed)
    assert isinstance(world.follow(record), Stop)
    world._put(world.containers["web-g1-0"], health="starting")
    while world.containers["web-g1-0"].state != "running":
        world.follow(record)
    assert world.told == ["created", "started", "failed health"]
    world._put(world.containers["web-g1-0"], health="healthy")
    world.settle(record)
    assert world.told[-1] == "started"


def test_what_is_stopped_stays_and_is_started_again_without_a_failure() -> None:
    world, record = World(), Record(declared=WEB)
    world.settle(record)
    record.wanted, record.state = "stopped", ""
    world.settle(record)
    assert world.containers["web-g1-0"].state == "exited"
    record.wanted, record.state = "running", ""
    world.settle(record)
    assert world.told == ["created", "started", "stopped", "started"]


def test_a_stop_that_whoever_did_it_did_not_live_to_record_is_no_failure_later() -> None:
    world, record = World(), Record(declared=WEB)
    world.settle(record)
    record.wanted, record.state = "stopped", ""
    assert isinstance(world.follow(record, loses=True), Stop)
    world.settle(record)
    record.wanted, record.state = "running", ""
    world.settle(record)
    assert world.told == ["created", "started", "stopped", "started"]


_CONTAINERS = st.lists(
    st.builds(
        lambda generation, ordinal, digest, state, health, code: Container(
            id=f"{generation}-{ordinal}",
            name=f"web-g{generation}-{ordinal}",
            service="web",
            generation=generation,
            ordinal=ordinal,
            digest=digest,
            state=state,
            health=health,
            exit_code=code,
            started_at="" if state == "created" else "0",
        ),
        st.integers(1, 4),
        st.integers(0, 3),
        st.sampled_from([WEB.digest, "other"]),
        st.sampled_from(["created", "running", "paused", "exited", "dead"]),
        st.sampled_from(["none", "healthy", "unhealthy"]),
        st.sampled_from([0, 1, 137]),
    ),
    max_size=8,
    unique_by=lambda one: one.name,
)
_INSTANCES = st.dictionaries(
    st.integers(0, 3),
    st.builds(
        Instance,
        state=st.sampled_from(["", "created", "started", "failed"]),
        ports=st.sampled_from([{}, {"http": 20_000}]),
        ended=st.sampled_from(["", "2-0@0", "2-1@0"]),
        failures=st.integers(0, 3),
        retry_at=st.sampled_from([0.0, 1_030.0]),
    ),
    max_size=4,
)
_RECORDS = st.builds(
    lambda wanted, replicas, strategy, state, instances, created: Record(
        declared=msgspec.structs.replace(WEB, replicas=replicas, strategy=strategy),
        wanted=wanted,
        generation=2,
        created=created,
        state=state,
        instances=instances,
    ),
    st.sampled_from(["running", "stopped", "deleted"]),
    st.integers(1, 3),
    st.sampled_from(["recreate", "rolling"]),
    st.sampled_from(["", "started", "failed", "stopped"]),
    _INSTANCES,
    st.integers(0, 2),
)


@given(
    record=_RECORDS, containers=_CONTAINERS, losses=st.lists(st.integers(0, 40), max_size=6), crashes=st.integers(0, 3)
)
def test_from_any_state_whatever_is_lost_it_converges_with_one_container_of_each_name(
    record: Record, containers: list[Container], losses: list[int], crashes: int
) -> None:
    """In `losses` are the numbers of steps after which whoever took them dies."""
    record = msgspec.json.decode(msgspec.json.encode(record), type=Record)
    world = replace(World(), containers={one.name: one for one in containers}, crashes=crashes)
    for number in range(MOST_STEPS):
        step = world.follow(record, loses=number in losses)
        if number > 40 and (step == Wait(None) or step == Tell("deleted")):
            break
    else:
        raise AssertionError(f"no end: {step}, {record}, {world.containers}")
    states = {(one.generation, one.ordinal): one.state for one in world.containers.values()}
    match record.wanted:
        case "running":
            assert states == {(2, ordinal): "running" for ordinal in range(record.declared.replicas)}
            assert record.state == "started"
        case "stopped":
            assert "running" not in states.values()
            assert record.state == "stopped"
        case _:
            assert not states
