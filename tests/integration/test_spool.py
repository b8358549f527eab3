"""The spool under a publisher: Redis goes, replies are lost, files are damaged; each event is published once."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shutil
import signal
import time
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from penstock.errors import InvalidEvent, SpoolFull, Unavailable
from penstock.event import encode
from penstock.spool.directory import Directory
from penstock.streams.publish import Deduplication, Publisher
from tests.chaos.cutter import cutter
from tests.hands import Raw, connected, fields_of
from tests.mesh import eventually
from tests.servers import Server
from tests.spools import OWNER, ROOMY, aside, publisher, segment_files, spooling


def event(number: int | str) -> list[str]:
    return encode("n", str(number), event_id=f"e-{number}")


def numbers(raw: Raw, stream: str = "ingest") -> list[int]:
    return [int(fields["data"]) for fields in fields_of(raw, stream)]


@asynccontextmanager
async def opened(server: Server | str, folder: Path, **options: Any) -> AsyncIterator[Publisher]:
    given = {name: options.pop(name) for name in ("owner", "bounds") if name in options}
    async with connected(server) as client, publisher(client, spooling(folder, **given), **options) as made:
        yield made


def waiting(made: Publisher) -> int:
    assert made.spooling is not None
    return made.spooling.waiting


async def emptied(made: Publisher) -> None:
    await eventually(lambda: waiting(made) == 0, what="the spool is empty")


async def test_while_redis_is_there_nothing_is_spooled(server: Server, raw: Raw, tmp_path: Path) -> None:
    async with opened(server, tmp_path) as made:
        published = await asyncio.gather(*(made.publish("ingest", event(number)) for number in range(20)))
        assert segment_files(tmp_path) == []

    assert not any(one.spooled for one in published)
    assert [one.entry_id for one in published] == [entry_id.decode() for entry_id, _ in raw.xrange("ingest")]
    assert numbers(raw) == list(range(20))
    assert list_of(tmp_path) == [], "what was its own is gone with it"
    assert all(0 < raw.ttl(key) <= 86_400 for key in raw.keys("spool:*"))


async def test_what_redis_does_not_take_is_kept_and_published_in_order_without_overtaking(
    own_server: Server, tmp_path: Path
) -> None:
    async with opened(own_server, tmp_path) as made:
        await made.publish("ingest", event(0))
        own_server.stop()
        for number in range(1, 100):
            assert (await made.publish("ingest", event(number))).spooled
        own_server.start()
        late = [await made.publish("ingest", event(number)) for number in range(100, 200)]
        await emptied(made)
        direct = await made.publish("ingest", event(200))

        with own_server.client() as raw:
            assert numbers(raw) == list(range(201))
    assert late[0].spooled
    assert not direct.spooled
    assert direct.entry_id


async def test_a_batch_whose_reply_was_lost_and_that_was_kept_is_published_once(
    own_server: Server, tmp_path: Path
) -> None:
    with cutter(own_server) as proxy:
        async with opened(proxy.url, tmp_path) as made:
            await made.publish("ingest", event(0))
            proxy.cut_reply_to(b"e-1")
            publishing = asyncio.create_task(made.publish_all("ingest", [event(1), event(2)]))
            await eventually(lambda: proxy.cuts == 1)
            with own_server.client() as raw:
                assert raw.xlen("ingest") == 3, "Redis has taken them, and nobody knows"
            own_server.stop()  # before it can be asked again
            answers = await publishing
            await made.publish("ingest", event(3))
            own_server.start()
            await emptied(made)
    assert [one.spooled for one in answers] == [True, True]
    with own_server.client() as raw:
        assert numbers(raw) == [0, 1, 2, 3]


async def test_a_batch_whose_reply_was_lost_is_asked_for_again_and_answered_as_at_first(
    server: Server, raw: Raw, tmp_path: Path
) -> None:
    once = [Deduplication("shop", "k", digest="same")]
    with cutter(server) as proxy:
        async with opened(proxy.url, tmp_path) as made:
            await made.publish("ingest", event(0), dedupe=once)
            proxy.cut_reply_to(b"e-1")
            answers = await asyncio.gather(
                made.publish("ingest", event(1)),
                made.publish("ingest", event(2), dedupe=once),
                made.publish("ingest", event(3)),
            )
    assert proxy.cuts == 1
    assert numbers(raw) == [0, 1, 3]
    first, second, third = (entry_id.decode() for entry_id, _ in raw.xrange("ingest"))
    assert [(one.entry_id, one.duplicate) for one in answers] == [(second, False), (first, True), (third, False)]


async def test_what_was_refused_in_a_replay_whose_reply_was_lost_is_put_aside(
    own_server: Server, tmp_path: Path
) -> None:
    with own_server.client() as raw:
        raw.set("text", "no stream")
    with cutter(own_server) as proxy:
        async with opened(proxy.url, tmp_path) as made:
            own_server.stop()
            await made.publish("ingest", event(0))
            await made.publish("text", event(1))
            proxy.cut_reply_to(b"e-1")
            own_server.start()
            await emptied(made)
    assert proxy.cuts == 1
    assert len(aside(tmp_path)) == 1


async def test_a_replay_whose_reply_was_lost_publishes_once(own_server: Server, tmp_path: Path) -> None:
    with cutter(own_server) as proxy:
        async with opened(proxy.url, tmp_path) as made:
            own_server.stop()
            for number in range(10):
                await made.publish("ingest", event(number))
            proxy.cut_reply_to(b"e-9")
            own_server.start()
            await emptied(made)
    assert proxy.cuts == 1
    with own_server.client() as raw:
        assert numbers(raw) == list(range(10))


async def test_a_call_that_arrives_after_its_events_were_replayed_adds_nothing(
    own_server: Server, tmp_path: Path
) -> None:
    assert own_server.process is not None
    async with opened(own_server, tmp_path) as made:
        await made.publish("ingest", event(0))
        own_server.process.send_signal(signal.SIGSTOP)  # it will find the call in its socket
        answer = await made.publish("ingest", event(1))
        own_server.process.send_signal(signal.SIGCONT)
        await emptied(made)
    assert answer.spooled
    with own_server.client() as raw:
        assert numbers(raw) == [0, 1]


async def test_how_far_a_publisher_has_come_is_known_for_as_long_as_it_lives(
    server: Server, raw: Raw, tmp_path: Path
) -> None:
    async with opened(server, tmp_path) as made:
        await made.publish("ingest", event(0))
        assert [raw.ttl(key) for key in raw.keys("spool:*")] == [-1]


async def test_what_two_replicas_kept_under_one_key_is_published_once(own_server: Server, tmp_path: Path) -> None:
    once = [Deduplication("shop", "delivery-1", digest="same")]
    async with opened(own_server, tmp_path) as one, opened(own_server, tmp_path) as other:
        own_server.stop()
        answers = [
            await made.publish("ingest", event(number), dedupe=once) for number, made in enumerate([one, one, other])
        ]
        own_server.start()
        await emptied(one)
        await emptied(other)
        late = await one.publish("ingest", event(7), dedupe=once)
    assert all(answer.spooled for answer in answers)
    assert late.duplicate
    assert aside(tmp_path) == []
    with own_server.client() as raw:
        assert raw.xlen("ingest") == 1


async def test_a_delayed_event_is_due_when_it_would_have_been(own_server: Server, tmp_path: Path) -> None:
    async with opened(own_server, tmp_path) as made:
        own_server.stop()
        asked = time.time()
        await made.publish("ingest", event(1), delay=60)
        await made.publish("ingest", event(2), delay=0.001)
        own_server.start()
        await emptied(made)
    with own_server.client() as raw:
        (first, _), (last, due) = raw.zrange("ingest:scheduled", 0, -1, withscores=True)
    assert b"e-2" in first
    assert b"e-1" in last
    assert 59 < due / 1000 - asked < 62


async def test_what_can_never_be_published_is_refused_at_once_or_put_aside_and_told(
    own_server: Server, tmp_path: Path
) -> None:
    once = [Deduplication("shop", "k")]
    with own_server.client() as raw:
        raw.set("text", "no stream")
    async with opened(own_server, tmp_path) as made:
        own_server.stop()
        with pytest.raises(InvalidEvent, match="more than 3000 fields"):
            await made.publish("ingest", encode("t", "1", extra={f"f{number}": "v" for number in range(3_000)}))
        await made.publish("text", event(1))
        await made.publish("ingest", event(2), dedupe=once)
        await made.publish("ingest", event(3), dedupe=once)
        await made.publish("ingest", event(4))
        with capture_logs() as logs:
            own_server.start()
            await emptied(made)
        assert made.spooling is not None
        await eventually(lambda: made.spooling is not None and made.spooling.state.aside == 2)
        assert "penstock_spool_aside 2\n" in made.spooling.exposition()
    with own_server.client() as raw:
        assert numbers(raw) == [2, 4]
    kept = [json.loads(path.read_text()) for path in aside(tmp_path)]
    assert [(one["why"], one["fields"]["id"]) for one in kept] == [
        ("text holds a string, not a stream", "e-1"),
        ("its key was used before, for another payload", "e-3"),
    ]
    assert sum(line["log_level"] == "error" for line in logs) == 2


async def test_refusals_of_redis_are_spooled_but_not_what_this_user_may_not_do(
    own_server: Server, tmp_path: Path
) -> None:
    async with opened(own_server, tmp_path) as made:
        with own_server.client() as raw:
            raw.config_set("maxmemory", 1)
            assert (await made.publish("ingest", event(1))).spooled
            raw.config_set("maxmemory", 0)
            await emptied(made)
            raw.execute_command("ACL", "SETUSER", "default", "resetkeys", "~ingest", "~spool*")
            with pytest.raises(Unavailable, match="user default may not"):
                await made.publish("events", event(2))
            assert segment_files(tmp_path) == []
            raw.execute_command("ACL", "SETUSER", "default", "allkeys")
            assert numbers(raw) == [1]


# Bounds


@pytest.mark.parametrize(
    ("bound", "why"),
    [
        ({"most_bytes": 2_000}, "PENSTOCK_SPOOL_MAX_BYTES"),
        ({"most_age": 0.05}, "PENSTOCK_SPOOL_MAX_AGE"),
    ],
)
async def test_a_full_spool_refuses_and_drops_nothing(
    own_server: Server, tmp_path: Path, bound: dict[str, float], why: str
) -> None:
    async with opened(own_server, tmp_path, bounds=msgspec.structs.replace(ROOMY, **bound)) as made:
        own_server.stop()
        accepted = 0

        async def fill() -> None:
            nonlocal accepted
            while True:
                await made.publish("ingest", event(accepted))
                accepted += 1

        with pytest.raises(SpoolFull, match=why):
            await fill()
        for _ in range(2):
            with pytest.raises(SpoolFull, match=why):
                await made.publish("ingest", event("refused"))
        own_server.start()
        await emptied(made)
        await made.publish("ingest", event(accepted))
    assert accepted
    with own_server.client() as raw:
        assert numbers(raw) == list(range(accepted + 1))


async def test_what_the_disk_must_keep_free_is_kept_free(own_server: Server, tmp_path: Path) -> None:
    async with opened(own_server, tmp_path, bounds=msgspec.structs.replace(ROOMY, least_free=2**60)) as made:
        own_server.stop()
        with pytest.raises(SpoolFull, match="PENSTOCK_SPOOL_MIN_FREE"):
            await made.publish("ingest", event(1))
    assert segment_files(tmp_path) == []


# Whoever dies


async def leave_behind(server: Server, folder: Path, events: Sequence[int], **options: Any) -> None:
    """Spool events and end while Redis is away."""
    async with opened(server, folder, **options) as made:
        server.stop()
        for number in events:
            await made.publish("ingest", event(number))


async def test_the_spool_of_a_process_that_is_gone_is_adopted_and_goes_first(
    own_server: Server, tmp_path: Path
) -> None:
    await leave_behind(own_server, tmp_path, range(1_000))
    async with opened(own_server, tmp_path) as made:
        assert waiting(made) == 1_000
        assert (await made.publish("ingest", event(1_000))).spooled
        own_server.start()
        await emptied(made)
        with own_server.client() as raw:
            assert numbers(raw) == list(range(1_001))
        await eventually(lambda: len(list_of(tmp_path)) == 1, what="only the new one's is left")


def list_of(folder: Path) -> list[str]:
    return Directory(folder).names()


async def test_nobody_adopts_the_spool_of_a_living_process_or_of_another_mesh(
    own_server: Server, tmp_path: Path
) -> None:
    elsewhere = msgspec.structs.replace(OWNER, server="redis://elsewhere")
    await leave_behind(own_server, tmp_path, [1], owner=elsewhere)
    async with opened(own_server, tmp_path) as living:
        await living.publish("ingest", event(2))
        async with opened(own_server, tmp_path) as other:
            assert (waiting(living), waiting(other)) == (1, 0)
    own_server.start()
    assert len(segment_files(tmp_path)) == 2, "both wait for whoever is of their mesh"


async def test_part_of_a_spool_that_was_published_before_its_process_died_is_not_published_again(
    own_server: Server, tmp_path: Path
) -> None:
    await leave_behind(own_server, tmp_path, range(600))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / list_of(tmp_path)[0], copy / list_of(tmp_path)[0])
    own_server.start()
    async with opened(own_server, tmp_path) as made:
        await emptied(made)
    async with opened(own_server, copy) as made:  # as if it had died before it could delete its segment
        await emptied(made)
    with own_server.client() as raw:
        assert numbers(raw) == list(range(600))


async def test_a_caller_that_is_cancelled_while_its_event_is_kept_leaves_it_kept_once(
    own_server: Server, tmp_path: Path
) -> None:
    async with opened(own_server, tmp_path) as made:
        own_server.stop()
        await made.publish("ingest", event(0))
        leader = asyncio.create_task(made.publish("ingest", event(1)))
        follower = asyncio.create_task(made.publish("ingest", event(2)))
        await asyncio.sleep(0)  # the first is on its way to the disk, the other waits
        leader.cancel()
        assert (await follower).spooled
        own_server.start()
        await emptied(made)
    with own_server.client() as raw:
        assert numbers(raw) == [0, 1, 2]


# Damage


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


async def test_a_flipped_byte_costs_its_record_and_is_put_aside_and_told(own_server: Server, tmp_path: Path) -> None:
    await leave_behind(own_server, tmp_path, range(100))
    (segment,) = segment_files(tmp_path)
    flip(segment, segment.read_bytes().index(b"e-41"))
    own_server.start()
    with capture_logs() as logs:
        async with opened(own_server, tmp_path) as made:
            await emptied(made)
            await eventually(lambda: made.spooling is not None and made.spooling.state.aside == 1)
    with own_server.client() as raw:
        assert numbers(raw) == [number for number in range(100) if number != 41]
    assert [path.name.endswith(segment.name) for path in aside(tmp_path)] == [True]
    lost = [line["events"] for line in logs if line["event"] == "events of the spool are lost"]
    assert lost == [1]


async def test_a_segment_that_is_damaged_while_its_process_lives_costs_no_more(
    own_server: Server, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        async with opened(own_server, tmp_path) as made:
            own_server.stop()
            for number in range(100):
                await made.publish("ingest", event(number))
            (segment,) = segment_files(tmp_path)
            flip(segment, 3)  # the very first mark
            segment.write_bytes(segment.read_bytes()[:-1])
            own_server.start()
            await emptied(made)
            await made.publish("ingest", event(100))
    with own_server.client() as raw:
        assert numbers(raw) == [*range(1, 99), 100]
    lost = [line["events"] for line in logs if line["event"] == "events of the spool are lost"]
    assert lost == [2]


async def test_a_tail_that_was_cut_off_costs_what_was_cut_off(own_server: Server, tmp_path: Path) -> None:
    await leave_behind(own_server, tmp_path, range(10))
    (segment,) = segment_files(tmp_path)
    segment.write_bytes(segment.read_bytes()[:-5])
    own_server.start()
    with capture_logs() as logs:
        async with opened(own_server, tmp_path) as made:
            await emptied(made)
    with own_server.client() as raw:
        assert numbers(raw) == list(range(9))
    assert any("the end of a segment is no record" in line["event"] for line in logs)


async def test_a_segment_that_is_gone_stops_nothing(own_server: Server, tmp_path: Path) -> None:
    async with opened(own_server, tmp_path) as made:
        own_server.stop()
        await made.publish("ingest", event(1))
        segment_files(tmp_path)[0].unlink()
        own_server.start()
        await emptied(made)
        await made.publish("ingest", event(2))
    with own_server.client() as raw:
        assert numbers(raw) == [2]


async def test_what_is_lost_behind_the_first_record_is_counted_too(own_server: Server, tmp_path: Path) -> None:
    await leave_behind(own_server, tmp_path, range(3))
    (segment,) = segment_files(tmp_path)
    flip(segment, segment.read_bytes().index(b"e-1"))
    own_server.start()
    with capture_logs() as logs:
        async with opened(own_server, tmp_path) as made:
            await emptied(made)
    assert [line["events"] for line in logs if line["event"] == "events of the spool are lost"] == [1]


# Fork


async def test_a_forked_child_does_not_keep_the_spool_of_its_parent_from_being_adopted(
    own_server: Server, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    release = context.Event()
    async with opened(own_server, tmp_path) as made:
        own_server.stop()
        await made.publish("ingest", event(1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, from Python 3.12 on
            child = context.Process(target=release.wait)
            child.start()
    try:
        own_server.start()
        async with opened(own_server, tmp_path) as made:
            await emptied(made)
            with own_server.client() as raw:
                assert numbers(raw) == [1]
    finally:
        release.set()
        child.join()


# What is told


async def test_the_mesh_is_told_what_waits_and_what_was_put_aside_and_no_more_once_it_is_over(
    own_server: Server, tmp_path: Path
) -> None:
    def told() -> list[dict[str, Any]]:
        with own_server.client() as raw:
            return [json.loads(text) for text in raw.hvals("spools")]

    with own_server.client() as raw:
        raw.set("text", "no stream")
    async with opened(own_server, tmp_path) as made:
        own_server.stop()
        await made.publish("text", event(1))
        own_server.start()
        await eventually(lambda: [(one["program"], one["events"], one["aside"]) for one in told()] == [("shop", 0, 1)])
    assert told() == []


async def test_events_that_redis_does_not_take_when_it_is_back_are_told_of_by_their_age(
    own_server: Server, tmp_path: Path
) -> None:
    async with opened(own_server, tmp_path, durability="replica", durability_timeout=0.05) as made:
        kept_at = time.time()
        assert (await made.publish("ingest", event(1))).spooled, "there is no replica"
        with own_server.client() as raw:
            await eventually(lambda: raw.hlen("spools") == 1)
            (text,) = raw.hvals("spools")
            assert raw.xlen("ingest") == 1, "it is there, but not as safe as was asked"
    told = json.loads(text)
    assert told["events"] == 1
    assert abs(told["oldest"] / 1000 - kept_at) < 60
