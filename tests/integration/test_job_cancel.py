"""Cancelling a job: what waits never runs, what has begun goes on, and it is told once which of the two it was."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from penstock import BatchContext, Context, JobCancelled, NotCancelled, Penstock, Service, sync
from penstock.dlq.queue import DeadLetters
from penstock.errors import AmbiguousEvent
from penstock.jobs import cancel as cancel_module
from penstock.keys import Keys
from penstock.topology import parse
from tests.command_line import Cli
from tests.gateways import running_gateway
from tests.hands import Raw, connected, fields_of
from tests.mesh import DEADLINE, eventually, running, settled
from tests.processes import ROOT
from tests.servers import Server

MESH = """
streams: {orders: {kind: work, reports: news}, news: {}}
services:
  shop: {consumes: {orders: {retry: {attempts: 3, base: 60, jitter: 0}}}}
  audit: {consumes: {orders: {unhandled: skip}}}
"""
TOPOLOGY = parse(MESH)
SHIPPED = (ROOT / "streams.yaml").read_text()
SECRETS = {"OPS_SECRET": "ops-secret-0123456789abcdef", "SHOP_SECRET": "shop-secret-0123456789abcdef"}
CLIENTS = """
clients:
  ops: {secret: OPS_SECRET, scopes: [operate], tenant: acme}
  shop: {secret: SHOP_SECRET, scopes: [publish, read]}
"""


class Shop(Service):
    """A service that notes what it has run."""

    def __init__(self) -> None:
        super().__init__("shop")
        self.ran: list[Any] = []

        @self.on("orders", type="order.placed")
        async def place(order: Any) -> None:
            self.ran.append(order)

        @self.on("orders", type="order.failing")
        async def fail(order: Any, ctx: Context) -> None:
            self.ran.append(order)
            await ctx.step("charge", _charge)
            raise ConnectionError("the bank is away")


async def _charge() -> None: ...


@pytest.fixture
def shop() -> Shop:
    return Shop()


def client(server: Server, source: str = "web") -> Penstock:
    return Penstock.connect(server.url, topology=TOPOLOGY, source=source)


def told(raw: Raw, kind: str = "job.cancelled") -> list[str]:
    """Return the jobs of which something is told."""
    return [entry["cause"] for entry in fields_of(raw, "news") if entry["type"] == kind]


async def test_a_job_that_nobody_has_read_never_runs_and_others_see_its_event(
    shop: Shop, server: Server, raw: Raw
) -> None:
    audit, seen = Service("audit"), []

    @audit.on("orders", type="*")
    async def note(order: Any) -> None:
        seen.append(order)

    async with client(server) as mesh:
        jobs = [await mesh.submit("order.placed", number, subject="o-1", tenant="acme") for number in range(3)]
        await jobs[1].cancel()
        status = await jobs[1].status()
        async with running(shop, MESH, server), running(audit, MESH, server):
            for job in (jobs[0], jobs[2]):
                await job.result(DEADLINE)
            with pytest.raises(JobCancelled, match=f"job {jobs[1].id} was cancelled"):
                await jobs[1].result(DEADLINE)
            await eventually(lambda: seen == [0, 1, 2], what="the other group has all of them")
            await eventually(lambda: raw.xpending("orders", "shop")["pending"] == 0, what="it is settled")

    assert shop.ran == [0, 2]
    assert (status.state, status.attempts, status.tenant, status.is_over) == ("cancelled", 0, "acme", True)
    assert status.finished_at is not None
    (report,) = (entry for entry in fields_of(raw, "news") if entry["type"] == "job.cancelled")
    assert json.loads(report["data"]) == {"job_id": jobs[1].id, "job_type": "order.placed", "attempt": 0}
    named = ("source", "subject", "tenant", "cause", "causesource")
    assert [report[name] for name in named] == ["shop", "o-1", "acme", jobs[1].id, "web"]
    submitted = fields_of(raw, "orders")[1]
    assert report["traceparent"].split("-")[1] == submitted["traceparent"].split("-")[1] == status.trace_id
    assert not raw.exists("orders:cancelled")


async def test_a_job_that_is_due_later_is_never_published(server: Server, raw: Raw) -> None:
    async with client(server) as mesh:
        kept = await mesh.submit("order.placed", 1, delay=3600)
        job = await mesh.submit("order.placed", 2, delay=3600)
        await job.cancel()

        assert (await kept.status()).state == "queued"
        assert (await job.status()).state == "cancelled"
    assert raw.zcard("orders:scheduled") == 1
    assert told(raw) == [job.id]
    assert raw.ttl(f"job:{job.id}") > 0


async def test_a_job_that_waits_for_another_attempt_has_none(shop: Shop, server: Server, raw: Raw) -> None:
    async with running(shop, MESH, server), client(server) as mesh:
        job = await mesh.submit("order.failing", 1)
        async for change in job.watch():
            if change.state == "retrying":
                await job.cancel()
        status = await job.status()

    assert (change.state, status.state, status.attempts) == ("cancelled", "cancelled", 1)
    assert not raw.exists("orders:shop:delayed")
    assert not raw.keys("checkpoint:*")
    assert shop.ran == [1]


async def test_a_replayed_job_that_waits_in_the_retry_stream_does_not_run(shop: Shop, server: Server, raw: Raw) -> None:
    async with client(server) as mesh:
        job = await mesh.submit("order.unheard.of", 1)
        async with running(shop, MESH, server):
            await eventually(lambda: raw.exists("dlq") and raw.xlen("dlq"), what="it is dead")
        async with connected(server) as redis:
            letters = DeadLetters(redis, Keys())
            async for letter in letters.newest():
                await letters.replay(letter)
        await job.cancel()
        async with running(shop, MESH, server):
            await eventually(lambda: raw.xlen("orders:shop:retry") == 0, what="it is settled")
        assert (await job.status()).state == "cancelled"
    assert raw.xlen("dlq") == 1  # else it were there again
    assert not raw.exists("orders:cancelled")


async def test_in_a_batch_the_others_are_handled(server: Server, raw: Raw) -> None:
    service, ran = Service("shop"), []

    @service.on("orders", batch=50)
    async def place(orders: list[int], ctx: BatchContext) -> None:
        ran.extend(orders)

    async with client(server) as mesh:
        jobs = [await mesh.submit("order.placed", number) for number in range(20)]
        for job in jobs[::2]:
            await job.cancel()
        async with running(service, MESH, server):
            await eventually(lambda: len(told(raw, "job.completed")) == 10, what="the others are")
    assert sorted(ran) == list(range(1, 20, 2))


async def test_what_has_begun_or_is_over_or_was_never_there_is_not_cancelled(server: Server, raw: Raw) -> None:
    service = Service("shop")
    begun, go = asyncio.Event(), asyncio.Event()

    @service.on("orders")
    async def place(_: Any, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ConnectionError("the bank is away")
        begun.set()
        await go.wait()

    topology = MESH.replace("base: 60", "base: 0.01")
    async with running(service, topology, server), client(server) as mesh:
        job = await mesh.submit("order.placed")
        await begun.wait()  # for the second time: its record is of the first
        with pytest.raises(NotCancelled, match=f"job {job.id} is running: what has begun goes on to its end") as error:
            await job.cancel()
        assert error.value.state == "running"
        go.set()
        await job.result(DEADLINE)
        with pytest.raises(NotCancelled, match="is completed: it is over"):
            await job.cancel()
        with pytest.raises(NotCancelled, match="nothing is known of a job J-9") as error:
            await mesh.job("J-9").cancel()
        assert error.value.state is None
    assert (told(raw), raw.exists("orders:cancelled")) == ([], 0)


async def test_to_cancel_twice_is_to_cancel_once(server: Server, raw: Raw) -> None:
    async with client(server) as mesh:
        jobs = [await mesh.submit("order.placed", delay=delay) for delay in (None, 3600)]
        for job in jobs:
            await asyncio.gather(*(job.cancel() for _ in range(10)))
            await job.cancel()

    assert sorted(told(raw)) == sorted(job.id for job in jobs)


async def test_a_job_stays_cancelled_when_its_record_has_expired(shop: Shop, server: Server, raw: Raw) -> None:
    async with client(server) as mesh:
        job = await mesh.submit("order.placed")
        await job.cancel()
        raw.delete(f"job:{job.id}")
        await job.cancel()
        assert (await job.status()).state == "cancelled"
        async with running(shop, MESH, server):
            await eventually(lambda: not raw.exists("orders:cancelled"), what="it is settled")
    assert (shop.ran, told(raw)) == ([], [job.id])


async def test_of_several_sources_the_one_that_is_said_is_cancelled(server: Server, raw: Raw) -> None:
    async with client(server, "a") as one, client(server, "b") as other:
        for mesh in (one, other):
            await mesh.publish("orders", "order.placed", event_id="o-1")
        await other.job("o-1", source="b").cancel()

        assert (await one.job("o-1", source="a").status()).state == "queued"
        assert (await one.job("o-1", source="b").status()).state == "cancelled"
        await one.job("o-1", source="a").cancel()
        with pytest.raises(AmbiguousEvent):
            await one.job("o-1").cancel()


async def test_each_job_runs_or_is_cancelled_and_never_both(server: Server, raw: Raw) -> None:
    one, other = Shop(), Shop()
    async with client(server) as mesh:
        jobs = {number: await mesh.submit("order.placed", number) for number in range(300)}
        for number in range(300, 400):
            jobs[number] = await mesh.submit("order.placed", number, delay=0.001 * (number - 299))

        async def cancel(number: int) -> bool:
            try:
                await jobs[number].cancel()
            except NotCancelled:
                return False
            return True

        async with running(one, MESH, server, concurrency=2), running(other, MESH, server, concurrency=2):
            ended = await asyncio.gather(*map(cancel, reversed(jobs)))
            cancelled = {number for number, was in zip(reversed(jobs), ended, strict=True) if was}
            await eventually(
                lambda: len(told(raw)) + len(told(raw, "job.completed")) == len(jobs), what="each has an end"
            )
            await eventually(lambda: settled(raw, "orders", "shop"), what="what is cancelled is read, and settled, too")

    ran = one.ran + other.ran
    assert sorted(ran) == sorted(set(jobs) - cancelled)
    assert cancelled
    assert ran
    assert sorted(told(raw)) == sorted(jobs[number].id for number in cancelled)
    assert not raw.exists("orders:cancelled")


@pytest.mark.parametrize("delay", [None, 3600], ids=["published", "scheduled"])
async def test_what_changes_meanwhile_is_looked_at_again(
    delay: float | None, shop: Shop, server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the act somebody else has ended it: that is what it is then."""
    async with client(server) as mesh:
        job = await mesh.submit("order.placed", delay=delay)
        name = "_cancel" if delay is None else "_cancel_scheduled"
        script = getattr(cancel_module, name)

        async def too_late(*arguments: Any) -> Any:
            record = b'orders-1-0 {"state":"completed","type":"order.placed","attempts":1}'
            raw.hset(f"job:{job.id}", "web", record)
            return await script(*arguments)

        monkeypatch.setattr(cancel_module, name, too_late)
        with pytest.raises(NotCancelled, match="is completed"):
            await job.cancel()
    assert told(raw) == []
    assert raw.zcard("orders:scheduled") == (0 if delay is None else 1)


async def test_without_reports_it_has_a_record_all_the_same(shop: Shop, server: Server, raw: Raw) -> None:
    topology = parse("streams: {orders: {kind: work}}")  # and nobody works there yet
    async with Penstock.connect(server.url, topology=topology) as mesh:
        jobs = [await mesh.submit("order.placed", delay=delay) for delay in (None, 3600)]
        for job in jobs:
            await job.cancel()
            with pytest.raises(JobCancelled):
                await job.result(DEADLINE)


def test_threads_cancel_too(server: Server, raw: Raw) -> None:
    with sync.Penstock.connect(server.url, topology=TOPOLOGY) as mesh:
        job = mesh.submit("order.placed")
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(DEADLINE)
        assert [change.state for change in job.watch()] == ["cancelled"]


def test_the_command_line_cancels_and_says_why_it_cannot(server: Server, raw: Raw, tmp_path: Path) -> None:
    cli = Cli(server.url, tmp_path)
    job_id = f"ingest-{raw.xadd('ingest', {'type': 't'}).decode()}"

    assert cli.json("job", job_id, "--cancel")["state"] == "cancelled"
    assert cli("job", job_id, "--cancel").stdout.startswith(f"{job_id} cancelled")
    raw.xgroup_create("ingest", "worker", "$")
    taken = f"ingest-{raw.xadd('ingest', {'type': 't'}).decode()}"
    raw.xreadgroup("worker", "me", {"ingest": ">"})
    for name, why in (
        ("J-9", "nothing is known of a job J-9"),
        (taken, f"job {taken} is running: what has begun goes on to its end"),
    ):
        done = cli("job", name, "--cancel")
        assert (done.returncode, why in done.stderr) == (1, True)
    assert cli("job", job_id, "--cancel", "--follow").returncode == 2


def test_the_gateway_cancels_for_whoever_operates_and_of_their_tenant(server: Server, raw: Raw, tmp_path: Path) -> None:
    topology = tmp_path / "streams.yaml"
    topology.write_text(SHIPPED + CLIENTS)
    ops, shop = ({"Authorization": f"Bearer {secret}"} for secret in SECRETS.values())
    with running_gateway(server, tmp_path, PENSTOCK_TOPOLOGY=str(topology), **SECRETS) as gateway:

        def cancel(job: str, who: dict[str, str]) -> tuple[int, str]:
            answer = gateway.request("POST", f"/v1/jobs/{job}/cancel", headers=who)
            return answer.status, answer.json["state"] if answer.status == 200 else answer.json["detail"]

        raw.xgroup_create("ingest", "worker", "0", mkstream=True)
        raw.xadd("ingest", {"type": "t", "id": "J-1", "tenant": "acme"})
        raw.xreadgroup("worker", "me", {"ingest": ">"})
        for job, tenant in (("J-2", "acme"), ("J-3", "other")):
            raw.xadd("ingest", {"type": "t", "id": job, "tenant": tenant})

        assert cancel("J-2", shop)[0] == 403
        assert cancel("J-3", ops)[0] == 404
        assert cancel("J-1", ops) == (409, "job J-1 is running: what has begun goes on to its end")
        assert cancel("J-2", ops) == cancel("J-2", ops) == (200, "cancelled")
    assert [entry["cause"] for entry in fields_of(raw, "events")] == ["J-2"]
