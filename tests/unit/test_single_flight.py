"""One look serves everybody for a moment."""

from __future__ import annotations

import asyncio

import pytest

from penstock.single_flight import SingleFlight


class Looks:
    """Counts looks; each waits until it is let go, and fails if told to."""

    def __init__(self) -> None:
        self.count = 0
        self.now = 100.0
        self.go = asyncio.Event()
        self.go.set()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.count += 1
        await self.go.wait()
        if self.error:
            raise self.error
        return self.count


@pytest.fixture
async def looks() -> Looks:
    return Looks()


@pytest.fixture
async def told(looks: Looks) -> SingleFlight[int]:
    return SingleFlight(looks, seconds=2.0, clock=lambda: looks.now)


async def test_what_was_found_serves_for_two_seconds(looks: Looks, told: SingleFlight[int]) -> None:
    assert [await told(), await told()] == [1, 1]
    looks.now += 1.9
    assert await told() == 1
    looks.now += 0.1
    assert await told() == 2


async def test_many_who_ask_at_once_share_one_look(looks: Looks, told: SingleFlight[int]) -> None:
    looks.go.clear()
    waiting = [asyncio.create_task(told()) for _ in range(100)]
    await asyncio.sleep(0)
    looks.now += 60  # however long it takes
    looks.go.set()
    assert await asyncio.gather(*waiting) == [1] * 100


async def test_an_error_goes_to_all_who_wait_and_is_not_remembered(looks: Looks, told: SingleFlight[int]) -> None:
    await told()
    looks.now += 3
    looks.error = ConnectionError()
    both = await asyncio.gather(told(), told(), return_exceptions=True)
    assert [type(one) for one in both] == [ConnectionError, ConnectionError]
    assert looks.count == 2
    looks.error = None
    assert await told() == 3


async def test_one_who_hangs_up_does_not_end_the_look_for_the_others(looks: Looks, told: SingleFlight[int]) -> None:
    looks.go.clear()
    impatient, patient = asyncio.create_task(told()), asyncio.create_task(told())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    looks.go.set()
    assert await patient == 1
