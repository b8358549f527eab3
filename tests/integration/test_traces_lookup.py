"""What a look at the streams finds while they change under it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.keys import Keys
from penstock.redis.connection import client
from penstock.topology import load
from penstock.traces import Trace, Traces, progress
from tests.servers import Server
from tests.tracing import TOPOLOGY, attempts_of

FIELDS = {"type": "parcel.requested", "data": "{}"}


@pytest.fixture
def entry(raw: Any) -> str:
    """An event that the group has in flight."""
    raw.xgroup_create("parcels", "shipping", "0", mkstream=True)
    made: bytes = raw.xadd("parcels", FIELDS)
    raw.xreadgroup("shipping", "me", {"parcels": ">"})
    return made.decode()


async def look(server: Server, entry: str) -> Trace:
    redis = client(server.url)
    try:
        found = await Traces(redis, Keys(), load(TOPOLOGY)).find(f"parcels-{entry}")
    finally:
        await redis.aclose()
    assert found is not None
    return found


def meanwhile(monkeypatch: pytest.MonkeyPatch, *happens: tuple[Any, ...]) -> None:
    """Let commands run just before the look asks where groups stand: after it has read every stream."""

    async def find_progress(redis: Any, *arguments: Any) -> Any:
        for command in happens:
            await redis.execute_command(*command)
        return await progress.find_progress(redis, *arguments)

    monkeypatch.setattr("penstock.traces.lookup.find_progress", find_progress)


def packed(**more: str) -> bytes:
    return msgspec.msgpack.encode([part for pair in (FIELDS | more).items() for part in pair])


async def test_an_event_that_fails_meanwhile_does_not_look_done(
    server: Server, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parked = packed(**{"retry.entry": entry, "attempt": "2", "retry.error": "E"})
    meanwhile(
        monkeypatch,
        ("ZADD", "parcels:shipping:delayed", 9_999_999_999_999, parked),
        ("XACK", "parcels", "shipping", entry),
    )

    trace = await look(server, entry)
    [attempt] = attempts_of(trace.events[0], "shipping")
    assert (trace.state, attempt.number, attempt.error) == ("delayed", 2, "E")


async def test_an_event_that_dies_meanwhile_does_not_look_done(
    server: Server, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = {"dlq.stream": "parcels", "dlq.group": "shipping", "dlq.entry": entry, "dlq.reason": "failed"}
    dead_letter = [part for pair in (FIELDS | origin).items() for part in pair]
    meanwhile(monkeypatch, ("XADD", "dlq", "*", *dead_letter), ("XACK", "parcels", "shipping", entry))

    assert (await look(server, entry)).state == "dead"


async def test_what_an_event_leads_to_meanwhile_is_not_taken_for_done(
    server: Server, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    effect = ("XADD", "ingest", "*", "type", "order.placed", "cause", f"parcels-{entry}", "source", "shipping")
    meanwhile(monkeypatch, effect, ("XACK", "parcels", "shipping", entry))

    trace = await look(server, entry)
    assert [event.type for event in trace.events] == ["parcel.requested", "order.placed"]
    assert trace.state == "queued"


async def test_without_a_change_the_event_is_in_hand(server: Server, entry: str) -> None:
    [attempt] = attempts_of((await look(server, entry)).events[0], "shipping")

    assert (attempt.outcome, attempt.consumer) == ("running", "me")


async def test_an_event_that_the_group_is_done_with_says_so(server: Server, entry: str, raw: Any) -> None:
    raw.xack("parcels", "shipping", entry)

    assert (await look(server, entry)).state == "completed"


async def test_who_only_watches_what_happens_keeps_no_trace_open(server: Server, raw: Any, tmp_path: Any) -> None:
    topology = TOPOLOGY.read_text().replace("consumes: {parcels: {}}", "consumes: {parcels: {}, events: {}}")
    (tmp_path / "streams.yaml").write_text(topology)
    job = raw.xadd("ingest", {"type": "order.placed"}).decode()
    raw.xadd("events", {"type": "order.taken", "cause": f"ingest-{job}", "source": "worker"})
    raw.xgroup_create("ingest", "worker", job)
    redis = client(server.url)
    found = await Traces(redis, Keys(), load(tmp_path / "streams.yaml")).recent()
    await redis.aclose()

    assert [(trace.state, trace.events) for trace in found.traces] == [("completed", 2)]
