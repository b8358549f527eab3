"""Dispatch of entries that come twice, where a commit is refused in between."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import Retry, Service
from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.service.dispatch import Dispatcher
from penstock.service.effects import Scope
from penstock.service.execute import Hooks
from penstock.service.runs import Runs
from penstock.streams.commit import Commit, Settled, Source, UnitOfWork
from penstock.testing.doubles import Breakers, Checkpoints, Outlet
from penstock.topology import ServiceSpec, Subscription
from tests.mesh import eventually

ORDERS = Source(0, "orders", "orders", "orders:shop:delayed", is_retry=False)
REFUSED = Settled(refused=frozenset({0}))


class Commits:
    """Commits that end when the test says so, and as it says."""

    consumer = "me"

    def __init__(self) -> None:
        self.waiting: list[Commit] = []

    def submit(self, unit: UnitOfWork) -> Commit:
        self.waiting.append(Commit(unit))
        return self.waiting[-1]

    async def end(self, settled: Settled) -> None:
        await eventually(lambda: self.waiting, what="a commit")
        self.waiting.pop(0).settle(settled)


@pytest.fixture
def service() -> Service:
    return Service("shop")


def dispatcher(service: Service, commits: Any, client: AsyncRedis = None) -> Dispatcher:
    scope = Scope("shop", Keys(), frozenset(), Checkpoints(), Outlet(), Breakers())
    return Dispatcher(
        scope,
        ServiceSpec(consumes={"orders": Subscription()}),
        service.handlers,
        consumer="me",
        hooks={"orders": Hooks()},
        reports={},
        skips=[],
        client=client,
        committer=commits,
        runs=Runs(),
    )


@pytest.mark.parametrize("batch", [None, 10], ids=["one_by_one", "in_batches"])
async def test_an_entry_that_was_read_again_before_its_commit_was_refused_is_done_again(
    service: Service, batch: int | None
) -> None:
    runs = []

    @service.on("orders", batch=batch)
    async def handle(data: Any) -> None:
        runs.append(data)

    commits = Commits()
    one = dispatcher(service, commits)
    one.accept([(ORDERS, "1-0", [b"type", b"t"])])
    await eventually(lambda: commits.waiting, what="a commit")
    one.accept([(ORDERS, "1-0", [b"type", b"t"])])  # the group was lost, and is made again where it stood
    await commits.end(REFUSED)
    await commits.end(Settled())
    await eventually(lambda: not one.in_flight, what="it is settled")

    assert (len(runs), one.running, one.refused) == (2, 0, 0)


async def test_an_entry_whose_commit_was_refused_is_another_s(service: Service) -> None:
    runs = []

    @service.on("orders")
    async def handle(data: Any) -> None:
        runs.append(data)

    commits = Commits()
    one = dispatcher(service, commits)
    one.accept([(ORDERS, "1-0", [b"type", b"t"])])
    await commits.end(REFUSED)
    await eventually(lambda: not one.in_flight, what="it is let go")

    assert (len(runs), one.running, one.refused) == (1, 0, 1)


@pytest.mark.parametrize("attempts", [1, 2], ids=["buried", "parked"])
async def test_what_a_failed_entry_makes_redis_copy_is_counted(service: Service, attempts: int) -> None:
    @service.on("orders", retry=Retry(attempts=attempts))
    async def fail(_: Any) -> None:
        raise ValueError

    commits = Commits()
    one = dispatcher(service, commits)
    one.accept([(ORDERS, "1-0", [b"type", b"t", b"data", b"123"])])
    await eventually(lambda: commits.waiting, what="a commit")

    assert [entry.size for entry in commits.waiting[0].unit.entries] == [12]
    await commits.end(Settled())
    await eventually(lambda: not one.in_flight, what="it is settled")
