"""Live streams of the gateway: the state and what follows, gap-free through whatever happens, or `resync`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock import Context, Service
from penstock.live import sse
from penstock.topology import load
from tests.gateways import Gateway, running_gateway
from tests.hands import Raw
from tests.live import EventSource, Told, event_source
from tests.mesh import eventually, running
from tests.ports import serving
from tests.processes import ROOT
from tests.servers import Server

SHIPPED = (ROOT / "streams.yaml").read_text()
SECRETS = {"ACME_SECRET": "acme-secret-0123456789abcdef", "ALL_SECRET": "all-secret-0123456789abcdef"}
CLIENTS = """
clients:
  acme: {secret: ACME_SECRET, scopes: [publish, read], tenant: acme}
  all: {secret: ALL_SECRET, scopes: [read]}
"""


class Worker:
    """A service whose handler does what the test says next."""

    def __init__(self) -> None:
        self.service = Service("worker")
        self.say: asyncio.Queue[Any] = asyncio.Queue()

        @self.service.on("ingest")
        async def handle(_: Any, ctx: Context) -> Any:
            while isinstance(said := await self.say.get(), tuple):
                ctx.progress(*said)
            if isinstance(said, Exception):
                raise said
            return said


@pytest.fixture
def gateway(server: Server, tmp_path: Path) -> Any:
    with running_gateway(server, tmp_path) as one:
        yield one


def add(raw: Raw, number: int, **fields: str) -> None:
    raw.xadd("events", {"type": "counted", "data": str(number), **fields})


def numbers(told: list[Told]) -> list[int]:
    return [one.data["data"] for one in told if one.name == "message"]


async def submit(gateway: Gateway) -> str:
    answer = await asyncio.to_thread(gateway.post, {"type": "order.placed", "data": {}, "subject": "o-1"})
    job_id: str = answer.json["job_id"]
    return job_id


async def test_a_job_is_told_from_its_state_to_its_end_and_once(server: Server, gateway: Gateway) -> None:
    worker = Worker()
    job_id = await submit(gateway)
    path = f"/v1/jobs/{job_id}/events"
    async with event_source(gateway.port, path) as stream:
        state = await stream.take(1)
        begun = stream.last_id
        async with running(worker.service, load(), server):
            worker.say.put_nowait((0.4, "parsing"))
            progress = await stream.take(1)
            worker.say.put_nowait({"paid": 7})
            rest = await stream.rest()
    async with event_source(gateway.port, path, last_id=begun) as later:
        missed = await later.rest()
    async with event_source(gateway.port, path, last_id=stream.last_id) as over:
        status = over.response.status
    async with event_source(gateway.port, path) as anew:
        told_anew = await anew.rest()

    assert state == [Told("state", {"job_id": job_id, "state": "queued", "type": "order.placed"})]
    assert progress == [
        Told(
            "progress",
            {
                "job_id": job_id,
                "job_type": "order.placed",
                "attempt": 1,
                "progress": 0.4,
                "note": "parsing",
                "subject": "o-1",
            },
        )
    ]
    (completed, end) = rest
    assert (completed.name, completed.data["type"], completed.data["data"]["result"]) == (
        "message",
        "job.completed",
        {"paid": 7},
    )
    assert (completed.data["subject"], completed.data["cause"]) == ("o-1", job_id)
    assert end == Told("end", {})
    assert [one.name for one in missed] == ["message", "state", "end"]
    assert missed[0] == completed
    assert missed[1].data["state"] == "completed"
    assert status == 204
    assert [(one.name, one.data.get("state")) for one in told_anew] == [("state", "completed"), ("end", None)]
    assert stream.response.headers["Content-Type"] == "text/event-stream"
    assert stream.response.headers["Cache-Control"] == "no-store"


async def test_a_job_nobody_knows_is_a_404_and_a_head_has_no_body(server: Server, gateway: Gateway) -> None:
    assert gateway.get("/v1/jobs/nix/events").status == 404
    head = gateway.request("HEAD", "/v1/stream")
    assert (head.status, head.headers["Content-Type"], head.body) == (200, "text/event-stream", b"")


async def test_clients_of_a_killed_gateway_go_on_at_another_without_gap_or_repeat(
    server: Server, raw: Raw, gateway: Gateway, tmp_path: Path
) -> None:
    total, clients = 1_500, 8

    async def publish() -> None:
        for number in range(total):
            add(raw, number)
            if number % 20 == 0:
                await asyncio.sleep(0.01)  # a publisher's pace: clients are to be in the midst of it

    async def follow(ports: list[int], seen: list[int]) -> None:
        last_id = ""
        for port in ports:
            async with event_source(port, "/v1/stream?type=counted", last_id=last_id) as stream:
                with contextlib.suppress(aiohttp.ClientPayloadError):
                    while seen[-1:] != [total - 1] and (told := await stream.next()) is not None:
                        assert told.name in ("message", "ready"), told
                        seen += numbers([told])
                last_id = stream.last_id

    with running_gateway(server, tmp_path) as other:
        seen: list[list[int]] = [[] for _ in range(clients)]
        following = [asyncio.create_task(follow([gateway.port, other.port], one)) for one in seen]
        publishing = asyncio.create_task(publish())
        await eventually(lambda: min(map(len, seen)) > 300, what="all are in the midst of it")
        gateway.process.send_signal(signal.SIGKILL)
        await asyncio.gather(publishing, *following)

    for one in seen:
        assert one == list(range(one[0], total))


@pytest.mark.parametrize("path", ["/v1/stream?type=counted", "/v1/jobs/ingest-1-1/events"])
async def test_after_a_flush_there_is_a_new_epoch_and_everybody_begins_anew(
    path: str, server: Server, raw: Raw, gateway: Gateway
) -> None:
    raw.xadd("ingest", {"type": "t"}, id="1-1")
    async with event_source(gateway.port, path) as stream:
        await stream.take(1)
        before = stream.last_id
        raw.flushall()
        raw.xadd("ingest", {"type": "other"}, id="1-1")
        await eventually(lambda: raw.exists("epoch"), what="there is a new epoch")
        (resync, then) = await stream.take(2) if "jobs" in path else [*await stream.take(1), None]
        add(raw, 1)
        if "jobs" not in path:
            assert (await stream.take(2))[1].data["data"] == 1
    async with event_source(gateway.port, path, last_id=before) as later:
        told = await later.take(2)

    assert resync == Told("resync", {})
    assert then is None or (then.name, then.data["type"]) == ("state", "other")
    assert stream.last_id.split("-")[0] != before.split("-")[0]
    assert [one.name for one in told] == ["resync", "state" if "jobs" in path else "ready"]


@pytest.mark.parametrize("how", ["trimmed", "too many", "malformed", "deleted"])
async def test_what_cannot_be_told_whole_is_not_told_in_part(
    how: str, server: Server, raw: Raw, gateway: Gateway
) -> None:
    add(raw, 0)
    async with event_source(gateway.port, "/v1/stream") as stream:
        await stream.take(1)
        last_id = stream.last_id
    with raw.pipeline() as pipeline:
        for number in range(1, 10_002 if how == "too many" else 11):
            pipeline.xadd("events", {"type": "counted", "data": str(number)})
        pipeline.execute()
    if how == "trimmed":
        raw.xtrim("events", maxlen=5, approximate=False)
    elif how == "deleted":
        raw.delete("events")
    async with event_source(gateway.port, "/v1/stream", last_id="nonsense" if how == "malformed" else last_id) as later:
        told = await later.take(2)
        add(raw, 99)
        after = await later.take(1)

    assert [one.name for one in told] == ["resync", "ready"]
    assert numbers(after) == [99]


async def test_who_was_there_before_the_first_event_misses_nothing(server: Server, raw: Raw, gateway: Gateway) -> None:
    async with event_source(gateway.port, "/v1/stream") as stream:
        await stream.take(1)
    for number in range(1_200):
        add(raw, number)
    async with event_source(gateway.port, "/v1/stream", last_id=stream.last_id) as later:
        told = await later.take(1_201)

    assert numbers(told) == list(range(1_200))
    assert told[-1].name == "ready"


async def test_a_slow_reader_is_told_to_begin_anew_while_others_go_on(server: Server, raw: Raw, tmp_path: Path) -> None:
    total = 1_500
    padding = "x" * 10_000
    with running_gateway(server, tmp_path, PENSTOCK_GATEWAY_SEND_TIMEOUT="60") as gateway:
        async with (
            event_source(gateway.port, "/v1/stream", buffer=16_384) as slow,
            event_source(gateway.port, "/v1/stream") as quick,
        ):
            await slow.take(1)
            await quick.take(1)
            seen: list[int] = []
            for number in range(0, total, 100):
                for one in range(number, number + 100):
                    add(raw, one, subject=padding)
                seen += numbers(await quick.take(100))
            runs: list[list[int]] = [[]]
            last = total - 1
            while last not in runs[-1]:
                (told,) = await slow.take(1)
                if told.name == "resync":
                    runs.append([])
                elif told.name == "ready":  # from here on it is told, unless it falls behind again
                    last += 1
                    add(raw, last)
                else:
                    runs[-1] += numbers([told])

    assert seen == list(range(total))
    assert len(runs) > 1
    assert sum(map(len, runs)) < last
    whole = [run for run in runs if run]
    assert [run for run in whole if run != list(range(run[0], run[0] + len(run)))] == []  # nothing is missing within
    assert whole == sorted(whole)


async def test_each_tenant_is_told_of_its_own(server: Server, raw: Raw, tmp_path: Path) -> None:
    topology = tmp_path / "streams.yaml"
    topology.write_text(SHIPPED + CLIENTS)
    bearer = {name: {"Authorization": f"Bearer {secret}"} for name, secret in SECRETS.items()}
    for name, tenant in (("1-1", "acme"), ("1-2", "other")):
        raw.xadd("ingest", {"type": "t", "tenant": tenant, "source": "s"}, id=name)
    with running_gateway(server, tmp_path, PENSTOCK_TOPOLOGY=str(topology), **SECRETS) as gateway:
        statuses = {}
        for path in (
            "/v1/jobs/ingest-1-2/events",
            "/v1/stream?tenant=other",
        ):
            async with event_source(gateway.port, path, headers=bearer["ACME_SECRET"]) as refused:
                statuses[path] = refused.response.status
        async with (
            event_source(gateway.port, "/v1/stream", headers=bearer["ACME_SECRET"]) as acme,
            event_source(gateway.port, "/v1/stream", headers=bearer["ALL_SECRET"]) as everybody,
            event_source(gateway.port, "/v1/stream?tenant=other", headers=bearer["ALL_SECRET"]) as other,
            event_source(gateway.port, "/v1/jobs/ingest-1-1/events", headers=bearer["ACME_SECRET"]) as job,
        ):
            streams = (acme, everybody, other, job)
            for one in streams:
                await one.take(1)
            for tenant in ("other", "acme", ""):
                whose = {"tenant": tenant} if tenant else {}
                said = {"source": "s", "type": "t", "attempt": "1", "share": "0.5", "note": tenant or "none", **whose}
                raw.xadd("progress", {"job": "ingest-1-1", **said})
                cause = {"cause": "ingest-1-1", "causesource": "s"}
                raw.xadd("events", {"type": "job.failed", "data": f'"{tenant}"', **cause, **whose})
            add(raw, 0, tenant="acme", subject="last")
            add(raw, 0, tenant="other", subject="last")
            told = [await until_last(one) for one in (acme, everybody, other)]
            raw.xadd("events", {"type": "job.completed", "data": "1", "tenant": "acme", **cause})
            of_job = [one for one in await job.rest() if one.name == "message"]

    assert statuses == {"/v1/jobs/ingest-1-2/events": 404, "/v1/stream?tenant=other": 403}
    assert [sorted({one.data.get("tenant", "") for one in told_one}) for told_one in told] == [
        ["acme"],
        ["", "acme", "other"],
        ["other"],
    ]
    assert [(one.data["type"], one.data["tenant"]) for one in of_job] == [
        ("job.failed", "acme"),
        ("job.completed", "acme"),
    ]


async def until_last(stream: EventSource) -> list[Told]:
    told = await stream.take(1)
    while told[-1].data.get("subject") != "last":
        told += await stream.take(1)
    return told


async def test_a_stream_is_filtered_by_type_and_subject(server: Server, raw: Raw, gateway: Gateway) -> None:
    async with event_source(gateway.port, "/v1/stream?type=order.*,paid&subject=o-1") as stream:
        await stream.take(1)
        for event_type in ("order.seen", "orders", "paid", "breaker.opened"):
            for subject in ("o-1", "o-2"):
                raw.xadd("events", {"type": event_type, "subject": subject, "data": '{\n"a":\r1}'})
        raw.xadd("events", {"type": "paid", "subject": "o-1", "data": "no json\n\nevent: end"})
        told = await stream.take(3)

    assert [(one.data["type"], one.data["subject"], one.data["data"]) for one in told] == [
        ("order.seen", "o-1", {"a": 1}),
        ("paid", "o-1", {"a": 1}),
        ("paid", "o-1", "no json\n\nevent: end"),
    ]


async def test_a_stream_outlives_redis(own_server: Server, tmp_path: Path) -> None:
    with running_gateway(own_server, tmp_path) as gateway:
        async with event_source(gateway.port, "/v1/stream?type=counted") as stream:
            await stream.take(1)
            with own_server.client() as raw:
                add(raw, 1)
            told = await stream.take(1)
            own_server.kill()
            refused = []
            for address, last_id in ("/v1/stream", stream.last_id), ("/v1/jobs/j-1/events", ""):
                async with event_source(gateway.port, address, last_id=last_id) as asking:
                    refused.append(asking.response.status)
            async with event_source(gateway.port, "/v1/stream?type=counted") as another:
                assert (await another.take(1))[0].name == "ready"
                own_server.start()
                with own_server.client() as raw:
                    add(raw, 2)
                told += await stream.take(1)
                assert numbers(await another.take(1)) == [2]

    assert (numbers(told), refused) == ([1, 2], [503, 503])


async def test_a_gateway_that_is_asked_to_stop_ends_its_streams(server: Server, gateway: Gateway) -> None:
    async with event_source(gateway.port, "/v1/stream") as stream:
        await stream.take(1)
        gateway.process.send_signal(signal.SIGTERM)
        assert await stream.rest() == []
        assert await asyncio.to_thread(gateway.process.wait, 5) == 0  # well before the grace time is over


async def test_without_listeners_nothing_is_read(server: Server, raw: Raw, gateway: Gateway) -> None:
    def reads() -> bool:
        return any(client["cmd"].startswith("xread") for client in raw.client_list())

    assert not reads()
    async with event_source(gateway.port, "/v1/stream") as stream:
        await stream.take(1)
        await eventually(reads, what="it is read")
    await eventually(lambda: not reads(), deadline=8, what="nobody reads, before a sign of life could find out")


async def test_silence_is_broken_by_comments_that_say_how_far_all_is_told(
    server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "PING", 0.01)
    async with serving("gateway", server) as port, event_source(port.number, "/v1/stream?type=paid") as stream:
        await stream.take(1)
        add(raw, 1)  # which this one does not want
        (unwanted,) = raw.xrevrange("events", count=1)
        while not (line := await stream.response.content.readline()).endswith(b"." + unwanted[0] + b"\n"):
            assert line in {b": alive\n", b"\n"} or line.startswith(b"id: "), line
