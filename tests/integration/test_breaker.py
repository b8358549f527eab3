"""Circuit breakers, shared by a fleet and driven by a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import Reject, Unavailable
from penstock.keys import Keys
from penstock.redis.connection import client
from penstock.resilience.breaker import BreakerPolicy, Breakers, BreakerStatus, CircuitOpen, statuses
from tests.processes import eventually, service_process
from tests.servers import Server

KEYS = Keys()
POLICY = BreakerPolicy(failure_threshold=3, failure_window=60, recovery_timeout=10, half_open_max_calls=2)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def fleet(
    server: Server, size: int = 2, policy: BreakerPolicy = POLICY
) -> AsyncIterator[tuple[Clock, list[Breakers]]]:
    """Yield as many processes' views of the breakers, on one clock."""
    clock = Clock()
    clients = [client(server.url) for _ in range(size)]
    try:
        yield (
            clock,
            [
                Breakers(one, KEYS, service="shop", policies=lambda _: policy, events="events", clock=clock)
                for one in clients
            ],
        )
    finally:
        for one in clients:
            await one.aclose()


async def fail(breakers: Breakers, times: int = 1, error: Exception | None = None) -> None:
    for _ in range(times):
        with pytest.raises((ConnectionError, Reject, ValueError)):
            async with breakers.guard("crm", failures=(ConnectionError,)):
                raise error or ConnectionError("refused")


async def succeed(breakers: Breakers, times: int = 1) -> None:
    for _ in range(times):
        async with breakers.guard("crm"):
            pass


async def refused(breakers: Breakers) -> float:
    with pytest.raises(CircuitOpen) as caught:
        await succeed(breakers)
    return caught.value.seconds


async def status_of(server: Server) -> BreakerStatus:
    connection = client(server.url)
    try:
        [status] = await statuses(connection, KEYS)
        return status
    finally:
        await connection.aclose()


def transitions(raw: Any) -> list[str]:
    return [fields[b"type"].decode() for _, fields in raw.xrange("events")]


async def test_failures_of_two_processes_open_it_for_both(server: Server, raw: Any) -> None:
    async with fleet(server) as (_, (one, other)):
        await fail(one, 2)
        await fail(other)
        await one.look()
        assert await refused(one) == pytest.approx(10)
        assert await refused(other) == pytest.approx(10)
        assert one.waiting(["crm"]) == pytest.approx(10)
        assert one.waiting(["other"]) == 0
    assert transitions(raw) == ["breaker.opened"]
    data = json.loads(raw.xrange("events")[0][1][b"data"])
    assert (data["name"], data["from"], data["to"]) == ("crm", "closed", "open")
    assert "3 failures in a row" in data["reason"]
    assert "refused" in data["reason"]


async def test_failures_outside_the_window_do_not_count(server: Server, raw: Any) -> None:
    async with fleet(server) as (clock, (one, _)):
        await fail(one, 2)
        clock.now += 61
        await fail(one, 2)
        await succeed(one)
    assert transitions(raw) == []


async def test_a_dependency_that_fails_now_and_then_stays_in_use(server: Server, raw: Any) -> None:
    async with fleet(server, 4) as (clock, processes):
        for _ in range(60):  # a minute of 200 calls a second, of which 2 % fail
            for process in processes:
                await succeed(process, 49)
                await fail(process)
                await process.look()
            clock.now += 1
    assert transitions(raw) == []


async def test_too_large_a_share_of_failures_opens_it_once_there_were_enough_calls(server: Server, raw: Any) -> None:
    async with fleet(server) as (clock, (one, other)):
        for _ in range(9):
            await fail(one)
            await succeed(other)
            await other.look()
        assert transitions(raw) == [], "18 calls are too few to say"
        clock.now += 30
        await fail(one)
        await succeed(other)
        await other.look()
        await fail(one)
    assert transitions(raw) == ["breaker.opened"]
    reason = json.loads(raw.xrange("events")[0][1][b"data"])["reason"]
    assert reason == "11 of 21 calls failed within 60 s, the last: ConnectionError: refused"


async def test_calls_that_are_over_for_a_window_do_not_count(server: Server, raw: Any) -> None:
    async with fleet(server) as (clock, (one, _)):
        for _ in range(9):
            await fail(one)
            await succeed(one)
        clock.now += 61
        await fail(one)
        await succeed(one)
        await fail(one)
    assert transitions(raw) == []


async def test_a_failure_whose_text_is_not_utf8_counts_too(server: Server, raw: Any) -> None:
    async with fleet(server) as (_, (one, _)):
        await fail(one, 3, ConnectionError("bad \udcff byte"))
        await one.force("other", is_open=True, reason="\udcff")
    assert transitions(raw) == ["breaker.opened"] * 2
    assert json.loads(raw.xrange("events")[0][1][b"data"])["reason"].endswith("ConnectionError: bad ? byte")


async def test_a_redis_that_cannot_be_told_hides_neither_failure_nor_result(own_server: Server) -> None:
    async with fleet(own_server) as (_, (one, other)):
        await one.look()
        one.watch(["crm"])
        await one.look()
        own_server.kill()
        await fail(one)
        await succeed(one)
        with pytest.raises(Unavailable):
            await succeed(other)  # it does not know yet whether the breaker is closed
        own_server.start()
        await one.look()
        assert (await status_of(own_server)).success_count == 1


async def test_only_what_the_caller_names_counts_as_a_failure(server: Server, raw: Any) -> None:
    async with fleet(server) as (_, (one, _)):
        await fail(one, 5, ValueError("our own bug"))
        await fail(one, 5, Reject("bad data"))
        await succeed(one)
    assert transitions(raw) == []


async def test_a_redis_that_is_away_is_no_failure_of_the_dependency(server: Server, raw: Any) -> None:
    marked = OSError("cannot connect")
    marked.unavailable = Unavailable("cannot connect")  # type: ignore[attr-defined]
    async with fleet(server) as (_, (one, _)):
        for error in (Unavailable("out of memory"), marked):
            for _ in range(5):
                with pytest.raises((Unavailable, OSError)):
                    async with one.guard("crm"):
                        raise error
        await succeed(one)
    assert transitions(raw) == []


async def test_probes_are_bounded_over_the_fleet_and_their_success_closes_it(server: Server, raw: Any) -> None:
    async with fleet(server) as (clock, (one, other)):
        await fail(one, 3)
        await other.look()
        clock.now += 10
        async with one.guard("crm"), other.guard("crm"):
            assert await refused(one) > 0, "a third probe must wait"
            assert await refused(other) > 0
        await succeed(one)
        await other.look()
        await succeed(other)
    assert transitions(raw) == ["breaker.opened", "breaker.half_open", "breaker.closed"]


async def test_a_failed_probe_opens_it_again_for_the_whole_recovery_time(server: Server, raw: Any) -> None:
    async with fleet(server) as (clock, (one, _)):
        await fail(one, 3)
        clock.now += 10
        await fail(one)
        assert await refused(one) == pytest.approx(10)
    assert transitions(raw) == ["breaker.opened", "breaker.half_open", "breaker.opened"]


async def test_a_probe_whose_process_died_is_given_up_for_lost(server: Server) -> None:
    async with fleet(server) as (clock, (one, other)):
        await fail(one, 3)
        clock.now += 10
        lost = [one.guard("crm") for _ in range(2)]
        for probe in lost:
            await probe.__aenter__()  # never left: the process is gone
        await other.look()
        await refused(other)
        clock.now += 10
        await succeed(other, 2)
        await succeed(other)


async def test_a_clock_that_goes_back_keeps_it_open_no_longer_than_its_recovery_time(server: Server, raw: Any) -> None:
    async with fleet(server) as (clock, (one, other)):
        await fail(one, 3)
        other.watch(["crm"])
        clock.now -= 3_600
        await other.look()
        clock.now += 9
        await other.look()
        assert await refused(other) == pytest.approx(1)
        clock.now += 1
        async with one.guard("crm"), other.guard("crm"):
            clock.now -= 3_600  # these two never say what came of it
        await other.look()
        await succeed(other, 2)
    assert transitions(raw)[-1] == "breaker.closed"


async def test_an_operator_opens_and_closes_it_by_hand(server: Server) -> None:
    async with fleet(server) as (clock, (one, other)):
        await one.force("crm", is_open=True, reason="maintenance")
        await other.look()
        other.watch(["crm"])
        await other.look()
        clock.now += 1000
        await refused(other)
        status = await status_of(server)
        assert (status.state, status.healthy, status.reason) == ("open", False, "maintenance")
        await one.force("crm", is_open=False, reason="done")
        await other.look()
        await succeed(other)


async def test_counts_add_up_over_the_fleet(server: Server) -> None:
    async with fleet(server) as (_, (one, other)):
        await succeed(one, 5)
        await succeed(other, 2)
        await fail(other)
        await one.look()
        await other.look()
        status = await status_of(server)
    assert (status.success_count, status.failure_count, status.state) == (7, 1, "closed")


def wait_for(raw: Any, check: Callable[[], Any], what: str) -> None:
    eventually(lambda: raw.exists("events") and check(), what=what)


def test_while_open_jobs_that_need_it_wait_and_others_go_on(server: Server, raw: Any) -> None:
    env = {
        "REDIS_URL": server.url,
        "PENSTOCK_JOBS": "tests.integration.breaker_jobs:jobs",
        "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "2",
        "CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "1",
        "CIRCUIT_BREAKER_HALF_OPEN_MAX_CALLS": "1",
    }

    def done(kind: str) -> int:
        events = [
            json.loads(fields[b"data"]) for _, fields in raw.xrange("events") if fields[b"type"] == b"job.completed"
        ]
        return sum(event["job_type"] == kind for event in events)

    raw.set("crm:down", 1)
    with service_process("-m", "penstock_services.worker", env=env):
        for _ in range(20):
            raw.xadd("ingest", {"type": "crm.update"})
        wait_for(raw, lambda: b"breaker.opened" in [fields[b"type"] for _, fields in raw.xrange("events")], "it opens")
        for _ in range(20):
            raw.xadd("ingest", {"type": "crm.update"})
            raw.xadd("ingest", {"type": "plain"})
        wait_for(raw, lambda: done("plain") == 20, "other jobs go on")
        assert done("crm.update") == 0
        raw.delete("crm:down")
        wait_for(raw, lambda: done("crm.update") == 40, "it recovers and nothing was lost")
    assert not raw.exists("dlq")
    failed = [fields for _, fields in raw.xrange("events") if fields[b"type"] == b"job.failed"]
    assert len(failed) < 40, "while it is open no attempts are used up"


def test_what_streams_yaml_says_of_one_breaker_goes_before_the_environment(
    server: Server, raw: Any, tmp_path: Path
) -> None:
    mesh = tmp_path / "streams.yaml"
    mesh.write_text(
        "streams: {ingest: {}, events: {}, dlq: {}}\n"
        "services: {worker: {consumes: {ingest: {}}, publishes: [events]}}\n"
        "breakers: {crm: {failure_threshold: 1, recovery_timeout: 1h}}\n"
    )
    env = {
        "REDIS_URL": server.url,
        "PENSTOCK_TOPOLOGY": str(mesh),
        "PENSTOCK_JOBS": "tests.integration.breaker_jobs:jobs",
        "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1000",
        "CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "0.1",
    }
    raw.set("crm:down", 1)
    with service_process("-m", "penstock_services.worker", env=env):
        raw.xadd("ingest", {"type": "crm.update"})
        wait_for(raw, lambda: b"breaker.opened" in [fields[b"type"] for _, fields in raw.xrange("events")], "it opens")
        in_50_min = (raw.time()[0] + 3_000) * 1_000
        eventually(lambda: raw.zcount("ingest:worker:delayed", in_50_min, "+inf") == 1, what="its job waits as long")
    failed = [fields for _, fields in raw.xrange("events") if fields[b"type"] == b"job.failed"]
    assert len(failed) == 1


async def test_a_breaker_that_stays_open_for_years_lets_events_wait_for_one(server: Server) -> None:
    forever = BreakerPolicy(failure_threshold=1, recovery_timeout=1e9)
    async with fleet(server, 1, forever) as (_, [breakers]):
        await fail(breakers)
        assert await refused(breakers) == 365 * 86_400
