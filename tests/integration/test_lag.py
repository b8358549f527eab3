"""How far a group is behind, however wrong the server's own figure is."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.redis.connection import AsyncRedis
from penstock.streams.lag import LagCounter
from tests.command_line import Cli
from tests.gateways import Gateway, running_gateway
from tests.hands import Raw, connected
from tests.processes import eventually
from tests.servers import Server, required_kinds


def fill(raw: Raw, count: int, *, key: str = "events", size: int = 1) -> list[bytes]:
    """Add as many entries."""
    with raw.pipeline(transaction=False) as pipeline:
        for _ in range(count):
            pipeline.xadd(key, {"data": "x" * size})
        found: list[bytes] = pipeline.execute()
        return found


def scripts_run(raw: Raw) -> int:
    """Return how often scripts were called so far."""
    stats = raw.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha_ro", "eval_ro"))


async def count(client: AsyncRedis, position: bytes, *, counter: LagCounter | None = None) -> int:
    return (await (counter or LagCounter(client)).count("events", [position]))[position]


@pytest.mark.parametrize("read", [0, 3, 500, 9_999, 19_999, 20_000])
async def test_it_is_exact_wherever_a_group_stands(server: Server, raw: Raw, read: int) -> None:
    entries = fill(raw, 20_000)
    position = entries[read - 1] if read else b"0-0"
    async with connected(server) as client:
        assert await count(client, position) == 20_000 - read


async def test_groups_of_one_stream_are_counted_together(server: Server, raw: Raw) -> None:
    entries = fill(raw, 3_000)
    async with connected(server) as client:
        counter = LagCounter(client)
        ahead, behind = entries[2_499], entries[99]
        assert await counter.count("events", [ahead]) == {ahead: 500}
        assert await counter.count("events", [ahead, behind]) == {ahead: 500, behind: 2_900}
        assert await counter.count("events", []) == {}


async def test_what_was_counted_is_not_counted_again_but_for_a_part(server: Server, raw: Raw) -> None:
    entries = fill(raw, 40_000)
    async with connected(server) as client:
        counter = LagCounter(client)
        before = scripts_run(raw)
        assert await count(client, entries[99], counter=counter) == 39_900
        first = scripts_run(raw) - before
        fill(raw, 700)
        assert await count(client, entries[10_299], counter=counter) == 30_400
        again = scripts_run(raw) - before - first
    assert first >= 80
    assert again < 30


async def test_one_call_counts_what_one_call_can(server: Server, raw: Raw) -> None:
    entries = fill(raw, 300)
    async with connected(server) as client:
        counter = LagCounter(client)
        for read, left in (0, 300), (0, 300), (100, 200):
            await count(client, b"0-0")  # the server knows the script
            before = scripts_run(raw)
            assert await count(client, entries[read - 1] if read else b"0-0", counter=counter) == left
            assert scripts_run(raw) - before == 1


async def test_what_is_trimmed_or_deleted_unread_is_counted_no_more(server: Server, raw: Raw) -> None:
    entries = fill(raw, 30_000)
    async with connected(server) as client:
        counter = LagCounter(client)
        assert await count(client, entries[9], counter=counter) == 29_990
        raw.xtrim("events", maxlen=25_250, approximate=False)
        assert await count(client, entries[9], counter=counter) == 25_250
        raw.xdel("events", *entries[25_000:25_100])
        found = [await count(client, entries[9], counter=counter) for _ in range(4)]
        assert found[-1] == 25_150, found


async def test_a_bounded_look_tells_the_least_until_it_has_counted_all(server: Server, raw: Raw) -> None:
    fill(raw, 2_600)
    async with connected(server) as client:
        counter = LagCounter(client, most=1_000)
        assert [await count(client, b"0-0", counter=counter) for _ in range(4)] == [1_000, 2_000, 2_600, 2_600]


async def test_no_call_looks_at_many_large_entries(server: Server, raw: Raw) -> None:
    fill(raw, 20, size=1_000_000)
    before = scripts_run(raw)
    async with connected(server) as client:
        assert await count(client, b"0-0") == 20
    assert scripts_run(raw) - before >= 7


@pytest.mark.parametrize("own_server", required_kinds(), indirect=True)
def test_after_a_restart_from_the_aof_and_a_deletion_people_and_the_mark_are_told_the_truth(
    own_server: Server, tmp_path: Path
) -> None:
    with own_server.client() as raw:
        raw.xgroup_create("ingest", "worker", "0", mkstream=True)
        entries = fill(raw, 13_000, key="ingest")
        for _ in range(3):
            rows = raw.xreadgroup("worker", "w", {"ingest": ">"}, count=2_000)[0][1]
            raw.xack("ingest", "worker", *(entry_id for entry_id, _ in rows))
        raw.xdel("ingest", entries[9_000])
    own_server.restart()
    with own_server.client() as raw:
        assert raw.xinfo_groups("ingest")[0]["lag"] != 6_999, "it is wrong, or the test tells nothing"
    cli = Cli(own_server.url, tmp_path)

    [state] = cli.json("status")["groups"]

    assert state["lag"] == 6_999
    for most, status in ((6_998, 429), (7_000, 202)):
        with running_gateway(own_server, tmp_path, PENSTOCK_GATEWAY_MAX_BACKLOG=str(most)) as gateway:
            assert answered(gateway) == status


def answered(gateway: Gateway) -> int:
    """Return what the gateway answers to an event once it has looked."""
    eventually(lambda: gateway.get("/readyz").status == 200)
    return gateway.post({"type": "t"}).status
