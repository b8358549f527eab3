"""The work of the dead: handed back to the living, and the poison among it found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest

from penstock.dlq import dead_letter
from penstock.event import decode_retry, encode_retry
from penstock.streams.commit import Source
from penstock.streams.heartbeat import GIVEN_UP, INTERVAL, Beats
from penstock.streams.rescue import MOST_DEATHS, Rescuer
from tests.hands import (
    FRESH,
    GROUP,
    KEYS,
    ME,
    OTHER,
    PARKED,
    RETRY_STREAM,
    SOURCES,
    STREAM,
    Raw,
    add,
    connected,
    end,
    fields_of,
    make_groups,
    pending,
    snapshot,
    take,
    taken,
)
from tests.mesh import eventually
from tests.servers import Server

BEATS = KEYS.beats(GROUP)
LEASE = 30.0
Mode = Literal["rescue", "expired", "release", "stale"]


class Hands:
    """A rescuer whose single moves a test can make."""

    def __init__(self, rescuer: Rescuer) -> None:
        self.rescuer = rescuer

    async def move(self, mode: Mode, *, source: Source = FRESH, consumer: str = ME, beat: str = "") -> list[int]:
        return await self.rescuer._call(source, consumer, mode, beat)

    async def see(self, *beats: dict[str, str], every: float = INTERVAL) -> None:
        """Let it see beats, one look after another, and act on the last; the time is what the looks say."""
        now = time.monotonic()
        for number, seen in enumerate(beats, start=1):
            self.rescuer.observe(Beats(now - (len(beats) - number) * every, seen))
        await self.rescuer._tick()


@asynccontextmanager
async def rescuer(server: Server) -> AsyncIterator[Hands]:
    async with connected(server) as client:
        yield Hands(Rescuer(client, KEYS, group=GROUP, consumer="rescuer", sources=SOURCES, dlq="dlq", lease=LEASE))


@pytest.fixture(autouse=True)
def groups(raw: Raw) -> None:
    make_groups(raw)


def values(raw: Raw, number: int) -> list[str]:
    """Return names and values of an entry of the retry stream, in their order: a name may be there twice."""
    script = "return redis.call('XRANGE', KEYS[1], '-', '+')[tonumber(ARGV[1])][2]"
    return [part.decode() for part in raw.eval(script, 1, RETRY_STREAM, number + 1)]


def park(raw: Raw, entry: str, *, attempt: int = 1, crashes: int = 0, error: str = "", **fields: str) -> None:
    """Put an event on the retry stream, as a commit or a rescue does."""
    own = [part for pair in {"type": "t", **fields}.items() for part in pair]
    parked = encode_retry(entry, attempt=attempt, error=error, crashes=crashes)
    raw.execute_command("XADD", RETRY_STREAM, "*", *own, *parked)


def consumers(raw: Raw, key: str = STREAM) -> set[str]:
    return {row["name"].decode() for row in raw.xinfo_consumers(key, GROUP)}


async def test_what_a_dead_consumer_had_goes_to_whoever_reads_the_retry_stream_next(server: Server, raw: Raw) -> None:
    first, second = taken(raw, 2, data="5", attempt="producer's own")
    async with rescuer(server) as hands:
        assert await hands.move("rescue") == [2, 0, 0, 1]

    assert [values(raw, number) for number in range(2)] == [
        ["type", "t", "data", "5", "attempt", "producer's own", *encode_retry(entry, attempt=1, error="", crashes=1)]
        for entry in (first, second)
    ]
    assert pending(raw) == {}
    assert consumers(raw) == set()  # its name does not stay behind
    assert len(take(raw, consumer=OTHER, key=RETRY_STREAM)) == 2


@pytest.mark.parametrize("mode", ["rescue", "expired"])
@pytest.mark.parametrize("seen", ["", "6:1"])
async def test_a_consumer_that_has_beaten_meanwhile_is_left_alone(
    server: Server, raw: Raw, mode: Mode, seen: str
) -> None:
    taken(raw, 2)
    raw.hset(BEATS, ME, "7:1")
    before = snapshot(raw)
    async with rescuer(server) as hands:
        assert await hands.move(mode, beat=seen) == [-1]

    assert snapshot(raw) == before


async def test_what_a_silent_consumer_had_is_moved_and_nothing_is_charged(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw)
    raw.hset(BEATS, ME, "7:1")
    async with rescuer(server) as hands:
        assert await hands.move("expired", beat="7:1") == [1, 0, 0, 1]

    assert crashes(raw) == {entry: "0"}


async def test_only_the_dead_consumers_entries_move(server: Server, raw: Raw) -> None:
    (mine,) = taken(raw)
    add(raw)
    (theirs,) = take(raw, consumer=OTHER)
    async with rescuer(server) as hands:
        await hands.move("rescue")

    assert pending(raw) == {theirs: OTHER}
    assert [fields["retry.entry"] for fields in fields_of(raw, RETRY_STREAM)] == [mine]
    assert consumers(raw) == {OTHER}


async def test_an_attempt_that_died_is_counted_as_a_crash_and_not_as_an_attempt(server: Server, raw: Raw) -> None:
    park(raw, "5-0", attempt=3, error="x")
    take(raw, key=RETRY_STREAM)
    async with rescuer(server) as hands:
        await hands.move("rescue", source=PARKED)

    assert fields_of(raw, RETRY_STREAM) == [
        {"type": "t", "retry.entry": "5-0", "attempt": "3", "retry.crashes": "1", "retry.error": "x"}
    ]
    assert pending(raw, RETRY_STREAM) == {}


async def test_what_is_handed_back_in_order_is_no_crash(server: Server, raw: Raw) -> None:
    taken(raw, 2)
    async with rescuer(server) as hands:
        assert await hands.rescuer.release(ME) == 2

    assert [fields["retry.crashes"] for fields in fields_of(raw, RETRY_STREAM)] == ["0", "0"]
    assert consumers(raw) == set()


def suspects(raw: Raw, count: int, *, crashes: int = MOST_DEATHS - 1) -> list[str]:
    for number in range(count):
        park(raw, f"{number + 1}-0", crashes=crashes)
    return take(raw, key=RETRY_STREAM)


def crashes(raw: Raw) -> dict[str, str]:
    return {fields["retry.entry"]: fields["retry.crashes"] for fields in fields_of(raw, RETRY_STREAM)}


async def test_of_several_suspects_only_the_one_on_trial_is_charged(server: Server, raw: Raw) -> None:
    _, culprit, _ = suspects(raw, 3)
    raw.hset("quarantine:worker", ME, culprit)
    async with rescuer(server) as hands:
        assert await hands.move("rescue", source=PARKED) == [3, 0, 0, 1]

    assert crashes(raw) == {"1-0": "2", "2-0": "3", "3-0": "2"}
    assert not raw.hexists("quarantine:worker", ME)


async def test_suspects_that_were_on_no_trial_are_not_charged_again(server: Server, raw: Raw) -> None:
    suspects(raw, 2)
    async with rescuer(server) as hands:
        await hands.move("rescue", source=PARKED)

    assert crashes(raw) == {"1-0": "2", "2-0": "2"}
    assert not raw.exists("dlq")


async def test_the_first_deaths_are_charged_to_all_that_was_in_hand(server: Server, raw: Raw) -> None:
    suspects(raw, 2, crashes=1)
    async with rescuer(server) as hands:
        await hands.move("rescue", source=PARKED)

    assert crashes(raw) == {"1-0": "2", "2-0": "2"}


async def test_a_trial_that_ends_in_order_charges_nobody(server: Server, raw: Raw) -> None:
    (suspect,) = suspects(raw, 1)
    raw.hset("quarantine:worker", ME, suspect)
    async with rescuer(server) as hands:
        await hands.move("release", source=PARKED)

    assert crashes(raw) == {"1-0": "2"}
    assert not raw.exists("quarantine:worker")


async def test_what_kills_on_being_read_after_it_was_condemned_is_buried(server: Server, raw: Raw) -> None:
    park(raw, "5-0", attempt=2, crashes=MOST_DEATHS, type="bomb", data="1")
    take(raw, key=RETRY_STREAM)
    async with rescuer(server) as hands:
        await hands.move("rescue", source=PARKED)

    (letter,) = fields_of(raw, "dlq")
    codec = dead_letter.encode(
        stream=STREAM,
        group=GROUP,
        entry="5-0",
        reason="crashed",
        error="the process died 3 times with this event in flight, the last time on reading it",
        attempts=2,
        time=0,
        fingerprint="crashed:bomb",
    )
    as_codec_has_it = dict(zip(codec[::2], codec[1::2], strict=True))
    assert letter == {"type": "bomb", "data": "1", **as_codec_has_it, dead_letter.TIME: letter[dead_letter.TIME]}
    assert letter[dead_letter.TIME].endswith("Z")


async def test_entries_that_were_deleted_are_let_go_and_counted(server: Server, raw: Raw) -> None:
    gone, _ = taken(raw, 2)
    raw.xdel(STREAM, gone)
    async with rescuer(server) as hands:
        assert await hands.move("rescue") == [1, 0, 1, 1]

    assert pending(raw) == {}


async def test_more_than_one_call_can_move_is_moved_in_several(server: Server, raw: Raw) -> None:
    taken(raw, 450)
    async with rescuer(server) as hands:
        assert await hands.move("rescue") == [200, 0, 0, 0]
        assert consumers(raw) == {ME}
        assert await hands.rescuer.release(ME) == 250

    assert raw.xlen(RETRY_STREAM) == 450
    assert pending(raw) == {}


async def test_entries_that_nobody_has_worked_on_for_long_are_handed_back_whoever_has_them(
    server: Server, raw: Raw
) -> None:
    forgotten, worked_on = taken(raw, 2)
    raw.xclaim(STREAM, GROUP, ME, 0, [forgotten], idle=61_000, justid=True)
    async with rescuer(server) as hands:
        assert await hands.move("stale", consumer="") == [1, 0, 0, 0]

    assert pending(raw) == {worked_on: ME}
    assert crashes(raw) == {forgotten: "0"}
    assert consumers(raw) == {ME}


async def test_releasing_what_was_flushed_away_is_nothing(server: Server, raw: Raw) -> None:
    taken(raw, 2)
    raw.flushall()
    async with rescuer(server) as hands:
        assert await hands.rescuer.release(ME) == 0


async def test_an_event_of_more_fields_than_lua_can_hold_is_moved_whole(server: Server, raw: Raw) -> None:
    fields = {"type": "t", **{f"f{number}": "v" for number in range(20_000)}}
    raw.xadd(STREAM, fields)
    take(raw)
    async with rescuer(server) as hands:
        assert await hands.move("rescue") == [1, 0, 0, 1]

    event, origin = decode_retry(STREAM, "9-0", [part.encode() for part in values(raw, 0)])
    assert len(event.extra) == 20_000
    assert origin.crashes == 1


async def test_large_entries_are_moved_in_several_calls(server: Server, raw: Raw) -> None:
    taken(raw, 5, data="x" * 400_000)
    async with rescuer(server) as hands:
        assert await hands.move("rescue") == [3, 0, 0, 0]


# Who is dead? Silence alone proves nothing.

SILENT = [{ME: "7:1", "rescuer": f"{number}:1"} for number in range(5)]  # for four seconds
BEYOND_ITS_LEASE = [{ME: "7:1", "rescuer": f"{number}:1"} for number in range(32)]


@pytest.fixture
def silent(raw: Raw) -> str:
    """Let ME hold an entry, and have stopped beating."""
    (entry,) = taken(raw)
    raw.hset(BEATS, ME, "7:1")
    return entry


async def test_who_is_silent_and_no_longer_connected_is_dead(server: Server, raw: Raw, silent: str) -> None:
    async with rescuer(server) as hands:
        await hands.see(*SILENT)

    assert crashes(raw) == {silent: "1"}
    assert consumers(raw) == set()
    assert not raw.exists(BEATS)


async def test_who_is_gone_has_nobody_on_trial(server: Server, raw: Raw, silent: str) -> None:
    quarantine = KEYS.quarantine(GROUP)
    raw.hset(quarantine, mapping={ME: "1-1", OTHER: "1-1", "rescuer": "1-1"})  # settled, and not acquitted yet
    async with rescuer(server) as hands:
        await hands.see(*SILENT)
        assert raw.hkeys(quarantine) == [OTHER.encode(), b"rescuer"]
        await hands.rescuer.release("rescuer")
    assert raw.hkeys(quarantine) == [OTHER.encode()]


async def test_who_is_silent_for_less_than_a_lifetime_is_not(server: Server, raw: Raw, silent: str) -> None:
    async with rescuer(server) as hands:
        await hands.see(*SILENT[:3])

    assert pending(raw) == {silent: ME}


async def test_who_is_silent_and_connected_only_pauses(server: Server, raw: Raw, silent: str) -> None:
    with server.client() as pausing:
        pausing.client_setname(f"{ME}:reader")
        async with rescuer(server) as hands:
            await hands.see(*SILENT)
            assert pending(raw) == {silent: ME}
        raw.delete(*raw.keys("lock:*"))  # of this tick
        async with rescuer(server) as hands:
            await hands.see(*BEYOND_ITS_LEASE)

    assert crashes(raw) == {silent: "0"}


@pytest.mark.parametrize("meanwhile", [{}, {ME: "8:1"}])
async def test_who_goes_or_is_heard_of_while_a_rescuer_looks_is_left_alone(
    server: Server, raw: Raw, silent: str, meanwhile: dict[str, str]
) -> None:
    async with rescuer(server) as hands:
        seen = Beats(time.monotonic(), {"rescuer": "9:1", **meanwhile})
        asyncio.get_running_loop().call_soon(hands.rescuer.observe, seen)  # as soon as it waits for anything
        await hands.see(*SILENT)

    assert pending(raw) == {silent: ME}


async def test_who_has_given_up_is_taken_over_from_at_once_and_uncharged(server: Server, raw: Raw, silent: str) -> None:
    raw.hset(BEATS, ME, GIVEN_UP)
    with server.client() as blocked:
        blocked.client_setname(ME)
        async with rescuer(server) as hands:
            await hands.see({ME: GIVEN_UP})

    assert crashes(raw) == {silent: "0"}


async def test_silence_that_the_observer_shared_proves_nothing(server: Server, raw: Raw, silent: str) -> None:
    async with rescuer(server) as hands:
        await hands.see(*SILENT, every=3.5)  # Redis answered nobody in between

    assert pending(raw) == {silent: ME}


async def test_a_consumer_that_no_beat_speaks_of_is_found_by_a_sweep(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw)
    async with rescuer(server) as hands:
        await hands.see({"rescuer": "1:1"})
        assert pending(raw) == {entry: ME}
        await hands.see(*[{"rescuer": f"{number}:1"} for number in range(5)])

    assert crashes(raw) == {entry: "1"}


async def test_a_sweep_before_all_groups_are_made_finds_who_holds_what_there_is(server: Server, raw: Raw) -> None:
    (entry,) = taken(raw)
    raw.delete(RETRY_STREAM)
    async with rescuer(server) as hands:
        await hands.see({"rescuer": "1:1"})
        raw.xgroup_create(RETRY_STREAM, GROUP, "0", mkstream=True)
        await hands.see(*[{"rescuer": f"{number}:1"} for number in range(5)])

    assert crashes(raw) == {entry: "1"}


async def test_without_the_right_to_list_connections_the_lease_decides(server: Server, raw: Raw, silent: str) -> None:
    raw.acl_setuser("narrow", enabled=True, nopass=True, categories=["+@all"], commands=["-client|list"], keys=["*"])
    url = server.url.replace("//", "//narrow:x@", 1) if "unix" not in server.url else f"{server.url}?username=narrow"
    async with connected(url) as client:
        hands = Hands(Rescuer(client, KEYS, group=GROUP, consumer="rescuer", sources=SOURCES, dlq="dlq", lease=LEASE))
        await hands.see(*SILENT)
        assert pending(raw) == {silent: ME}
        raw.delete(*raw.keys("lock:*"))  # of this tick
        hands = Hands(Rescuer(client, KEYS, group=GROUP, consumer="rescuer", sources=SOURCES, dlq="dlq", lease=LEASE))
        await hands.see(*BEYOND_ITS_LEASE)

    assert crashes(raw) == {silent: "0"}


async def test_a_rescuer_outlives_a_flush(server: Server, raw: Raw, silent: str) -> None:
    async with rescuer(server) as hands:
        task = asyncio.create_task(hands.rescuer.run())
        raw.flushall()
        hands.rescuer.observe(Beats(time.monotonic(), {}))
        await eventually(lambda: raw.exists(f"lock:sweep:{GROUP}"), what="it sweeps, and finds no group")
        assert not task.done()
        await end(task)
