"""The metrics service as a process: everything is counted exactly once, by its own time, and late is what is late."""

from __future__ import annotations

import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from penstock.event import encode_retry
from penstock.metrics.tally import decode
from tests.metrics import EPOCH_MS, TOPOLOGY, Model, fields, published, service, until_closed
from tests.processes import eventually
from tests.servers import Server

START = EPOCH_MS // 1000
KINDS = ("job.completed",) * 7 + ("job.failed", "job.dead", "ticket.triaged")
JOB_TYPES = ("ticket.created", "http.request")


def add_random(model: Model, count: int, *, seconds: int, chance: random.Random) -> None:
    """Add events over some time, a few of them of an earlier time than the one at which they come."""
    for number in range(count):
        taken = EPOCH_MS + number * seconds * 1000 // count
        model.add(
            taken,
            chance.choice(KINDS),
            tenant=chance.choice((None, "acme", "globex")),
            job_type=chance.choice(JOB_TYPES),
            time_ms=taken - round(chance.expovariate(1 / 4_000)) if chance.random() < 0.1 else None,
            duration=round(chance.lognormvariate(-4, 2), 6),
        )


def left(raw: Any) -> int:
    """Return how many events the service has not read."""
    groups = raw.xinfo_groups("events")
    return int(groups[0]["lag"] if groups else raw.xlen("events"))


@pytest.mark.parametrize("replicas", [1, 2])
def test_counts_and_percentiles_of_every_window_match_an_exact_computation(
    server: Server, raw: Any, replicas: int
) -> None:
    model = Model(raw)
    add_random(model, 10_000, seconds=180, chance=random.Random(replicas))
    model.publish()
    with ExitStack() as stack:
        for _ in range(replicas):
            stack.enter_context(service(server))
        until_closed(raw)
    assert model.late > 0
    model.check(10)
    model.check(60)


def test_an_hour_that_nobody_read_is_counted_by_its_own_time_and_is_not_late(server: Server, raw: Any) -> None:
    model = Model(raw)
    for minute in range(60):
        for number in range(5):
            model.add(EPOCH_MS + minute * 60_000 + number * 7_000, "ticket.triaged")
    model.publish()
    with service(server):
        until_closed(raw)
    model.check(10)
    model.check(60)
    assert model.late == 0
    assert sum(late for _, late in published(raw, 60).values()) == 0


def test_a_window_stays_open_while_an_event_of_it_is_in_the_hands_of_another_replica(
    server: Server, raw: Any, tmp_path: Path
) -> None:
    patient = tmp_path / "streams.yaml"  # its lease must not end before we have looked
    patient.write_text(TOPOLOGY.read_text().replace("lease: 4s", "lease: 10m"))
    model = Model(raw)
    for second in range(0, 60, 5):
        model.add(EPOCH_MS + second * 1000, "ticket.triaged")
    model.publish()
    raw.xgroup_create("events", "metrics", "0")
    raw.client_setname("other")
    raw.hset("beats:metrics", mapping={"reader": "1:0", "other": "1:0"})
    raw.xreadgroup("metrics", "reader", {"events": ">"}, count=6)
    raw.xclaim("events", "metrics", "other", 0, [f"{EPOCH_MS + 25_000}-5"])
    with service(server, PENSTOCK_TOPOLOGY=str(patient)):
        eventually(lambda: raw.xpending("events", "metrics")["pending"] == 1, what="all but one are settled")
        eventually(lambda: len(published(raw, 10)) == 2, what="what ended before it is closed")
        eventually(lambda: raw.llen(f"state:metrics:open:{START + 50}") == 1)
        assert sorted(published(raw, 10)) == [START, START + 10]
        raw.client_setname("gone")
        until_closed(raw)
    model.check(10)
    model.check(60)


def test_what_is_no_event_holds_up_nothing(server: Server, raw: Any) -> None:
    model = Model(raw)
    raw.xadd("events", {"data": "1"}, id=f"{EPOCH_MS - 2}-0")
    raw.xadd("events", {"type": "x", "source": b"\xff"}, id=f"{EPOCH_MS - 1}-0")
    model.add(EPOCH_MS, "ticket.triaged")
    model.publish()
    with service(server):
        until_closed(raw)
    model.check(10)
    assert raw.xlen("dlq") == 2


def test_a_replayed_dead_letter_of_a_closed_window_counts_as_late(server: Server, raw: Any) -> None:
    model = Model(raw)
    model.add(EPOCH_MS, "ticket.triaged")
    model.publish()
    with service(server):
        until_closed(raw)
        own = [part for pair in fields("x").items() for part in pair]
        parked = encode_retry(f"{EPOCH_MS + 1}-0", attempt=1, error="")
        raw.execute_command("XADD", "events:metrics:retry", "*", *own, *parked)
        now = int(raw.time()[0])

        def counted_late() -> bool:
            return any(
                decode(part).late == 1
                for start in raw.zrangebyscore("state:metrics:open", now - 10, "+inf")
                for part in raw.lrange(f"state:metrics:open:{int(start)}", 0, -1)
            )

        eventually(counted_late, what="it is counted as late in the current window")
    model.check(10)


def test_series_beyond_the_bound_are_counted_together_and_this_is_said_once(
    server: Server, raw: Any, tmp_path: Path
) -> None:
    for number in range(600):
        raw.xadd("events", {"type": f"type.{number % 300}"}, id=f"{EPOCH_MS + number * 100}-0")
    log = tmp_path / "log"
    with service(server, log=log, PENSTOCK_METRICS_SERIES="20"):
        until_closed(raw)
    ((series, _),) = published(raw, 60).values()
    assert [one.name for one in series] == ["events"] * 20 + ["overflow"]
    assert sum(one.count or 0 for one in series) == 600
    assert log.read_text().count("more series than are kept") == 1


def test_a_stopped_service_goes_on_where_it_was(server: Server, raw: Any) -> None:
    model = Model(raw)
    chance = random.Random(5)
    add_random(model, 20_000, seconds=60, chance=chance)
    model.publish()
    while (before := left(raw)) > 8_000:
        with service(server) as process:
            eventually(lambda: left(raw) < before, what="the process has read some")
            process.terminate()
            assert process.wait(20) == 0
    with service(server):
        until_closed(raw)
    model.check(10)
    model.check(60)


def test_two_meshes_on_one_server_are_measured_apart(server: Server, raw: Any) -> None:
    raw.xadd("blue:events", {"type": "x"}, id=f"{EPOCH_MS}-0")
    with service(server, PENSTOCK_PREFIX="blue:"):
        eventually(lambda: raw.exists(f"blue:state:metrics:closed:60:{START}"))
    assert {name.partition(b":")[0] for name in raw.keys("*")} == {b"blue"}


def test_an_id_of_a_time_that_has_not_come_opens_no_window_that_never_closes_and_is_told(
    server: Server, raw: Any, tmp_path: Path
) -> None:
    """Every later entry of the stream gets such an id, too."""
    log = tmp_path / "log"
    raw.xadd("events", fields("ticket.triaged"), id="9999999999999-0")
    raw.xgroup_create("events", "metrics", "$")
    for _ in range(2):
        raw.xadd("events", fields("ticket.triaged"))
    with service(server, log=log):
        eventually(lambda: raw.zcard("state:metrics:open"), what="they are counted")
        eventually(lambda: "ahead of Redis's clock" in log.read_text(), what="it is told")
        now, _ = raw.time()
        assert all(now - 60 < score <= now for _, score in raw.zrange("state:metrics:open", 0, -1, withscores=True))
        eventually(lambda: published(raw, 10, scope="mesh"), what="there are gauges")
    told = [one for series, _ in published(raw, 10, scope="mesh").values() for one in series if one.name == "ids_ahead"]
    assert told[0].labels == {"stream": "events", "group": "metrics"}
    assert told[0].value
