"""Publishing: once Redis has it, once for each key, and in the batches that form by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from penstock.errors import ConfigurationError, InvalidEvent, Unavailable
from penstock.event import encode
from penstock.keys import Keys
from penstock.streams.durability import Durability, check_durability, confirm
from penstock.streams.publish import Deduplication, DuplicateConflict, Published, Publisher
from tests.chaos.cutter import cutter
from tests.hands import Raw, connected, fields_of
from tests.mesh import eventually
from tests.servers import BINARIES, Server, free_port, running_server

HELLO = encode("hello", '{"a": 1}', event_id="H-1")


@asynccontextmanager
async def publishing(server: Server | str, **options: Any) -> AsyncIterator[Publisher]:
    async with connected(server) as client, Publisher(client, Keys(), **options) as publisher:
        yield publisher


def scripts_run(raw: Raw) -> int:
    stats = raw.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "eval"))


async def test_an_event_is_published_as_it_was_given(server: Server, raw: Raw) -> None:
    async with publishing(server) as publisher:
        published = await publisher.publish("ingest", HELLO)

    assert published == Published(raw.xrange("ingest")[0][0].decode())
    assert fields_of(raw, "ingest") == [{"type": "hello", "data": '{"a": 1}', "id": "H-1"}]


async def test_what_gathers_during_a_call_travels_together(server: Server, raw: Raw) -> None:
    async with publishing(server) as publisher:
        await publisher.publish("ingest", HELLO)
        before = scripts_run(raw)
        numbers = range(1_000)
        published = await asyncio.gather(*(publisher.publish("ingest", encode("n", str(number))) for number in numbers))

    assert [fields["data"] for fields in fields_of(raw, "ingest")[1:]] == [str(number) for number in numbers]
    assert len({one.entry_id for one in published}) == 1_000
    assert scripts_run(raw) - before <= 3  # 500 at most in one


async def test_large_events_travel_in_calls_of_about_a_megabyte(server: Server, raw: Raw) -> None:
    large = encode("large", "x" * 400_000)
    async with publishing(server) as publisher:
        before = scripts_run(raw)
        await asyncio.gather(*(publisher.publish("ingest", large) for _ in range(8)))

    assert raw.xlen("ingest") == 8
    assert 4 <= scripts_run(raw) - before <= 6


async def test_a_caller_that_gives_up_does_not_hold_up_the_others(server: Server, raw: Raw) -> None:
    async with publishing(server) as publisher:
        given_up = asyncio.create_task(publisher.publish("ingest", encode("given.up", "1")))
        others = [asyncio.create_task(publisher.publish("ingest", encode("kept", "1"))) for _ in range(3)]
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(*others)

    assert sum(fields["type"] == "kept" for fields in fields_of(raw, "ingest")) == 3


async def test_publishing_ends_with_the_publisher(server: Server) -> None:
    async with publishing(server) as publisher:
        await publisher.publish("ingest", HELLO)
    with pytest.raises(Unavailable, match="shutting down"):
        await publisher.publish("ingest", HELLO)


async def test_what_is_under_way_when_the_publisher_closes_still_arrives(server: Server, raw: Raw) -> None:
    async with publishing(server) as publisher:
        under_way = [asyncio.create_task(publisher.publish("ingest", HELLO)) for _ in range(10)]
        await asyncio.sleep(0)

    await asyncio.gather(*under_way)
    assert raw.xlen("ingest") == 10


# Deduplication


def once(key: str = "k", **options: Any) -> list[Deduplication]:
    return [Deduplication("shop", key, **options)]


async def test_of_many_publishers_with_one_key_one_publishes(server: Server, raw: Raw) -> None:
    async with connected(server) as client:
        publishers = [Publisher(client, Keys()) for _ in range(50)]
        async with asyncio.TaskGroup() as tasks:
            attempts = [tasks.create_task(publish_once(publisher)) for publisher in publishers]
    answers = [attempt.result() for attempt in attempts]

    assert raw.xlen("ingest") == 1
    assert sum(not answer.duplicate for answer in answers) == 1
    assert {answer.entry_id for answer in answers} == {raw.xrange("ingest")[0][0].decode()}


async def publish_once(publisher: Publisher) -> Published:
    async with publisher:
        return await publisher.publish("ingest", HELLO, dedupe=once())


async def test_within_one_batch_a_key_counts_too(server: Server, raw: Raw) -> None:
    async with publishing(server) as publisher:
        answers = await asyncio.gather(*(publisher.publish("ingest", HELLO, dedupe=once()) for _ in range(20)))

    assert raw.xlen("ingest") == 1
    assert [answer.duplicate for answer in answers] == [False] + [True] * 19


async def test_a_key_lives_as_long_as_it_says_and_is_its_scopes_own(server: Server, raw: Raw) -> None:
    async with publishing(server) as publisher:
        await publisher.publish("ingest", HELLO, dedupe=once(lifetime=77))
        await publisher.publish("ingest", HELLO, dedupe=[Deduplication("other", "k")])

    assert raw.xlen("ingest") == 2
    assert 0 < raw.ttl("dedupe:shop:k") <= 77


async def test_a_key_that_was_used_for_another_payload_is_a_conflict(server: Server, raw: Raw) -> None:
    other = encode("hello", '{"a": 2}', event_id="H-1")
    async with publishing(server) as publisher:
        await publisher.publish("ingest", HELLO, dedupe=once())
        with pytest.raises(DuplicateConflict, match="used before, for another payload"):
            await publisher.publish("ingest", other, dedupe=once())
        same = await publisher.publish("ingest", HELLO, dedupe=once())

    assert same.duplicate
    assert raw.xlen("ingest") == 1


async def test_a_digest_says_what_counts_as_the_same_payload(server: Server, raw: Raw) -> None:
    later = encode("hello", '{"a": 1}', event_id="H-2")
    async with publishing(server) as publisher:
        await publisher.publish("ingest", HELLO, dedupe=once(digest="same"))
        answer = await publisher.publish("ingest", later, dedupe=once(digest="same"))

    assert answer.duplicate
    assert raw.xlen("ingest") == 1


async def test_any_of_several_keys_that_was_seen_makes_a_duplicate_and_the_others_seen(
    server: Server, raw: Raw
) -> None:
    async with publishing(server) as publisher:
        first = await publisher.publish("ingest", HELLO, dedupe=once("a"))
        second = await publisher.publish("ingest", HELLO, dedupe=[*once("b"), *once("a")])
        third = await publisher.publish("ingest", HELLO, dedupe=once("b"))

    assert (second.duplicate, third.duplicate) == (True, True)
    assert first.entry_id == second.entry_id == third.entry_id
    assert raw.xlen("ingest") == 1


# Later


async def test_a_delayed_event_waits_in_the_schedule_of_its_stream(server: Server, raw: Raw) -> None:
    async with publishing(server) as publisher:
        published = await publisher.publish("ingest", HELLO, delay=60)

    assert published == Published("")
    assert not raw.exists("ingest")
    ((_, due),) = raw.zrange("ingest:scheduled", 0, -1, withscores=True)
    seconds, _ = raw.time()
    assert 0 < due / 1000 - seconds <= 61


async def test_equal_delayed_events_are_as_many_as_were_published(server: Server, raw: Raw) -> None:
    nameless = encode("reminder", "null")
    async with publishing(server) as publisher:
        await publisher.publish("ingest", nameless, delay=60)
        await publisher.publish("ingest", nameless, delay=60)

    assert raw.zcard("ingest:scheduled") == 2


async def test_a_delayed_event_is_deduplicated_too(server: Server, raw: Raw) -> None:
    async with publishing(server) as publisher:
        for duplicate in (False, True):
            answer = await publisher.publish("ingest", HELLO, delay=60, dedupe=once())
            assert answer.duplicate is duplicate

    assert raw.zcard("ingest:scheduled") == 1


# Refusals


async def test_an_entry_that_can_never_be_published_is_refused_alone(server: Server, raw: Raw) -> None:
    raw.set("text", "x")
    too_many = encode("t", "1", extra={f"f{number}": "v" for number in range(3_000)})
    async with publishing(server) as publisher:
        answers = await asyncio.gather(
            publisher.publish("text", HELLO),
            publisher.publish("ingest", too_many),
            publisher.publish("ingest", HELLO),
            publisher.publish("text:scheduled", HELLO, delay=0),
            return_exceptions=True,
        )

    assert [str(answer) for answer in answers[:2]] == ["text holds a string, not a stream", "more than 3000 fields"]
    assert isinstance(answers[0], InvalidEvent)
    assert isinstance(answers[2], Published)
    assert raw.xlen("ingest") == 1


@pytest.mark.parametrize(
    ("command", "undo", "reason"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "out of memory"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "a read-only replica"),
        (
            ("CONFIG", "SET", "min-replicas-to-write", "1"),
            ("CONFIG", "SET", "min-replicas-to-write", "0"),
            "too few replicas",
        ),
    ],
)
async def test_what_redis_refuses_for_now_is_unavailable_and_not_half_published(
    server: Server, raw: Raw, command: tuple[str, ...], undo: tuple[str, ...], reason: str
) -> None:
    raw.execute_command(*command)
    try:
        async with publishing(server) as publisher:
            with pytest.raises(Unavailable, match=reason):
                await publisher.publish("ingest", HELLO, dedupe=once())
            raw.execute_command(*undo)
            answer = await publisher.publish("ingest", HELLO, dedupe=once())
    finally:
        raw.execute_command(*undo)

    assert not answer.duplicate  # the claim was not kept without its event
    assert raw.xlen("ingest") == 1


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with publishing(f"redis://127.0.0.1:{free_port()}/0", retry_for=0.05) as publisher:
        with pytest.raises(Unavailable, match="cannot connect"):
            await publisher.publish("ingest", HELLO)


async def test_every_caller_of_a_batch_that_failed_is_told() -> None:
    async with publishing(f"redis://127.0.0.1:{free_port()}/0", retry_for=0.05) as publisher:
        answers = await asyncio.gather(*(publisher.publish("ingest", HELLO) for _ in range(5)), return_exceptions=True)

    assert [type(answer) for answer in answers] == [Unavailable] * 5


# Lost replies


async def test_an_event_whose_reply_was_lost_is_published_once(server: Server, raw: Raw) -> None:
    with cutter(server) as proxy:
        async with publishing(proxy.url) as publisher:
            await publisher.publish("ingest", encode("first", "1"))
            proxy.cut_reply_to(b"second")
            published = await publisher.publish("ingest", encode("second", "2"))

    assert proxy.cuts == 1
    assert [fields["type"] for fields in fields_of(raw, "ingest")] == ["first", "second"]
    assert published.entry_id == raw.xrevrange("ingest", count=1)[0][0].decode()


async def test_a_batch_whose_reply_was_lost_is_published_once(server: Server, raw: Raw) -> None:
    with cutter(server) as proxy:
        async with publishing(proxy.url) as publisher:
            await publisher.publish("ingest", HELLO)
            proxy.cut_reply_to(b"many")
            published = await asyncio.gather(
                *(
                    publisher.publish("ingest", encode("many", str(number)), dedupe=once(str(number)))
                    for number in range(50)
                )
            )

    assert proxy.cuts == 1
    assert raw.xlen("ingest") == 51
    assert not any(one.duplicate for one in published)


# Durability


async def check(server: Server, durability: Durability) -> Durability:
    async with connected(server) as client:
        return await check_durability(client, durability)


@pytest.mark.skipif(BINARIES["redis-7"] is None, reason="needs redis-server")
async def test_redis_7_0_must_sync_always_to_promise_the_disk() -> None:
    with running_server("redis-7") as server:
        with pytest.raises(
            ConfigurationError, match=r"PENSTOCK_DURABILITY=aof needs WAITAOF .* or `appendfsync always`"
        ):
            await check(server, "aof")
        with server.client() as raw:
            raw.config_set("appendfsync", "always")
        assert await check(server, "aof") == "memory"  # every reply then comes after the disk has it


async def test_the_disk_cannot_be_promised_without_an_append_only_file(server: Server, raw: Raw) -> None:
    raw.config_set("appendonly", "no")
    try:
        with pytest.raises(ConfigurationError, match="needs the append-only file: set `appendonly yes`"):
            await check(server, "aof")
    finally:
        raw.config_set("appendonly", "yes")


@pytest.mark.parametrize("durability", ["memory", "replica"])
async def test_other_promises_need_nothing_of_the_server(server: Server, durability: Durability) -> None:
    assert await check(server, durability) == durability


async def test_without_a_replica_that_has_it_an_event_is_not_accepted(server: Server, raw: Raw) -> None:
    async with publishing(server, durability="replica", durability_timeout=0.05) as publisher:
        with pytest.raises(Unavailable, match="no replica has it yet"):
            await publisher.publish("ingest", HELLO)

    assert raw.xlen("ingest") == 1  # it is there, but not as safe as was asked


async def test_a_replica_that_has_it_is_waited_for(server: Server) -> None:
    kind = next(kind for kind, binary in BINARIES.items() if binary == server.binary)
    port = free_port()
    with (
        running_server(kind, "--repl-diskless-sync-delay", "0", port=port) as primary,
        running_server(kind, "--appendonly", "no", "--replicaof", "127.0.0.1", str(port)) as copy,
        copy.client() as replica,
    ):
        await eventually(lambda: replica.info("replication")["master_link_status"] == "up", what="it is a replica")
        async with publishing(primary, durability="replica", durability_timeout=20) as publisher:
            await publisher.publish("ingest", HELLO)
        assert replica.xlen("ingest") == 1


needs_waitaof = pytest.mark.skipif(
    BINARIES["valkey-9"] is None, reason="WAITAOF needs Valkey, from the extra `embedded`"
)


@needs_waitaof
async def test_the_disk_is_waited_for() -> None:
    with running_server("valkey-9") as server:
        assert await check(server, "aof") == "aof"
        async with publishing(server, durability="aof", durability_timeout=20) as publisher:
            await asyncio.gather(*(publisher.publish("ingest", HELLO) for _ in range(20)))
            published = await publisher.publish("ingest", HELLO)
        server.kill()
        server.start()
        with server.client() as raw:
            assert raw.xrevrange("ingest", count=1)[0][0].decode() == published.entry_id


@needs_waitaof
async def test_an_event_that_is_not_on_disk_in_time_is_not_accepted() -> None:
    with running_server("valkey-9", "--appendfsync", "no") as server:
        async with publishing(server, durability="aof", durability_timeout=0.05) as publisher:
            with pytest.raises(Unavailable, match="not yet on disk"):
                await publisher.publish("ingest", HELLO)


@needs_waitaof
async def test_an_event_whose_reply_was_lost_is_waited_for_like_any_other() -> None:
    with running_server("valkey-9") as server, cutter(server) as proxy, server.client() as raw:
        async with publishing(server, durability="aof", durability_timeout=20) as publisher:
            await publisher.publish("ingest", HELLO)
        raw.config_set("appendfsync", "no")  # from here on nothing reaches the disk
        async with publishing(proxy.url, durability="aof", durability_timeout=0.05) as publisher:
            proxy.cut_reply_to(b"second")
            with pytest.raises(Unavailable, match="not yet on disk"):
                await publisher.publish("ingest", encode("second", "2"))

        assert proxy.cuts == 1
        assert raw.xlen("ingest") == 2


async def test_memory_needs_no_confirmation(server: Server) -> None:
    async with connected(server) as client:
        await confirm(client, "memory", 0.01)
