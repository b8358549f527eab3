"""How far a group is behind, however wrong the server's own figure is."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.streams.lag import count_lag
from tests.hands import Raw, connected
from tests.servers import Server


def fill(raw: Raw, count: int) -> list[str]:
    """Add as many entries, a second apart."""
    with raw.pipeline(transaction=False) as pipeline:
        for number in range(count):
            pipeline.xadd("events", {"type": "t"}, id=f"{1_000 * (number + 1)}-0")
        return [entry_id.decode() for entry_id in pipeline.execute()]


async def lag(server: Server, raw: Raw) -> tuple[int, Any]:
    """Return what is counted, and what the server says."""
    (group,) = raw.xinfo_groups("events")
    async with connected(server) as client:
        return await count_lag(client, "events", group), group["lag"]


@pytest.mark.parametrize("read", [0, 3, 2_000, 7_997, 8_000])
async def test_near_either_end_it_is_exact_whatever_the_server_says(server: Server, raw: Raw, read: int) -> None:
    entries = fill(raw, 8_000)
    last = entries[read - 1] if read else "0-0"
    raw.xgroup_create("events", "metrics", last, entries_read=5_432)

    assert await lag(server, raw) == (8_000 - read, 2_568)


async def test_after_an_entry_was_deleted_it_is_exact(server: Server, raw: Raw) -> None:
    entries = fill(raw, 100)
    raw.xgroup_create("events", "metrics", entries[9])
    raw.xdel("events", entries[50])

    assert await lag(server, raw) == (89, None)


@pytest.mark.parametrize(("said", "counted"), [(12_000, 12_000), (1, 10_000), (10**9, 15_000)])
async def test_amid_a_long_stream_the_server_is_believed_within_what_can_be(
    server: Server, raw: Raw, said: int, counted: int
) -> None:
    entries = fill(raw, 20_000)
    raw.xgroup_create("events", "metrics", entries[9_999], entries_read=max(0, 20_000 - said))
    (group,) = raw.xinfo_groups("events")
    async with connected(server) as client:
        found = await count_lag(client, "events", {**group, "lag": said})

    assert found == pytest.approx(counted, abs=1)
