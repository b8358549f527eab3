"""Elections: one of many does a chore in each tick, whatever the server's clock does."""

from __future__ import annotations

from penstock.keys import Keys
from penstock.streams.election import Election, Lease
from tests.hands import Raw, connected
from tests.servers import Server


async def test_one_of_many_wins_a_tick(server: Server, raw: Raw) -> None:
    async with connected(server) as client:
        candidates = [Election(client, Keys(), "sweep", tick=60.0) for _ in range(5)]

        assert [await one.won() for one in candidates] == [True, False, False, False, False]
        assert 50_000 < raw.pttl("lock:sweep") <= 54_000
        raw.delete("lock:sweep")  # the tick is over
        assert [await one.won() for one in reversed(candidates)] == [True, False, False, False, False]


async def test_where_there_is_no_room_for_the_lock_everybody_wins(own_server: Server) -> None:
    async with connected(own_server) as client:
        await client.config_set("maxmemory", 1)

        assert [await Election(client, Keys(), "sweep", tick=60.0).won() for _ in range(2)] == [True, True]


async def test_a_lock_that_lives_on_because_the_clock_went_back_is_taken(server: Server, raw: Raw) -> None:
    async with connected(server) as client:
        election = Election(client, Keys(), "sweep", tick=1.0)
        raw.set("lock:sweep", "1", px=3_600_000)

        won = [await election.won() for _ in range(5)]
    assert won == [False, False, False, False, True]
    assert raw.pttl("lock:sweep") <= 900


async def test_one_of_many_holds_a_lease_for_as_long_as_it_renews_it_or_until_it_gives_it_up(
    server: Server, raw: Raw
) -> None:
    async with connected(server) as client:
        first, second = (Lease(client, Keys(), "listen", lifetime=60.0) for _ in range(2))

        assert [await one.held() for one in (first, second, first)] == [True, False, True]
        raw.pexpire("lock:listen", 1_000)
        assert await first.held()
        assert raw.pttl("lock:listen") > 50_000, "it is renewed"
        await second.release()  # what is not its own
        assert not await second.held()
        await first.release()
        assert [await one.held() for one in (second, first)] == [True, False]
        raw.delete("lock:listen")  # its time is over
        assert [await one.held() for one in (first, second)] == [True, False]


async def test_a_lease_that_lives_on_because_the_clock_went_back_is_taken(server: Server, raw: Raw) -> None:
    async with connected(server) as client:
        raw.set("lock:listen", "somebody", px=3_600_000)

        assert await Lease(client, Keys(), "listen", lifetime=10.0).held()
    assert raw.pttl("lock:listen") <= 10_000
