"""`penstock.asgi.LiveStreams` in a real uvicorn: the streams of the gateway, for whom the application says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.hands import Raw
from tests.integration.asgi_apps import MESH
from tests.live import event_source, web_socket
from tests.mesh import eventually
from tests.servers import Server
from tests.uvicorns import Site, serving

STAFF, ANN, BOB = {"X-User": "staff"}, {"X-User": "ann", "X-Tenant": "acme"}, {"X-User": "bob", "X-Tenant": "other"}
WS = "/live/ws"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "streams.yaml").write_text(MESH)
    return tmp_path


@pytest.fixture
def site(server: Server, folder: Path) -> Iterator[Site]:
    with serving("tests.integration.live_app:app", folder, folder / "log", REDIS_URL=server.url) as site:
        yield site


def add(raw: Raw, number: int, **fields: str) -> None:
    raw.xadd("events", {"type": "counted", "data": str(number), **fields})


async def status(site: Site, path: str, headers: dict[str, str] | None = None) -> int:
    async with event_source(site.port, path, headers=headers) as stream:
        return stream.response.status


async def refused(site: Site, headers: dict[str, str], **how: Any) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as error:
        async with web_socket(site.port, WS, headers=headers, **how):
            pass
    return error.value.status


async def test_streams_and_sockets_are_those_of_the_gateway(site: Site, raw: Raw) -> None:
    raw.xadd("orders", {"type": "t", "tenant": "acme", "source": "s"}, id="1-1")
    async with (
        event_source(site.port, "/live/jobs/orders-1-1/events", headers=ANN) as job,
        web_socket(site.port, WS, headers=ANN, protocols=("penstock.live",)) as socket,
    ):
        (state,) = await job.take(1)
        begun = job.last_id
        ready = await socket.ask("subscribe", "a", types=["counted"])
        for tenant in ("other", "acme"):
            add(raw, 7, tenant=tenant)
        (counted,) = await socket.take(1)
        cause = {"cause": "orders-1-1", "causesource": "s", "tenant": "acme"}
        raw.xadd("events", {"type": "job.completed", "data": "1", **cause})
        told = await job.rest()
        protocol = socket.socket.protocol
    async with event_source(site.port, "/live/jobs/orders-1-1/events", headers=ANN, last_id=begun) as later:
        (missed,) = await later.take(1)
    resumed_at = counted["position"]
    async with web_socket(site.port, WS, headers=ANN) as later_socket:
        add(raw, 8, tenant="acme")
        await later_socket.say("resume", "a", types=["counted"], position=resumed_at)
        resumed = await later_socket.take(2)  # whether 8 comes before or behind `ready` is a matter of luck

    assert (state.name, state.data["state"]) == ("state", "queued")
    assert (ready["event"], protocol) == ("ready", "penstock.live")
    assert (counted["data"]["data"], counted["data"]["tenant"]) == (7, "acme")
    assert [one.name for one in told] == ["message", "end"]
    assert missed == told[0]
    assert sorted(one["event"] for one in resumed) == ["message", "ready"]
    assert [one["data"]["data"] for one in resumed if one["event"] == "message"] == [8]
    assert job.response.headers["Content-Type"] == "text/event-stream"


async def test_the_application_says_who_may_see_what(site: Site, raw: Raw) -> None:
    raw.xadd("orders", {"type": "t", "tenant": "acme", "source": "s"}, id="1-1")
    assert await status(site, "/live/stream") == 401
    assert await status(site, "/live/stream?tenant=other", ANN) == 403
    assert await status(site, "/live/stream?subject=secret", ANN) == 403
    assert await status(site, "/live/stream?subject=secret", STAFF) == 200
    assert await status(site, "/live/jobs/orders-1-1/events", BOB) == 404
    assert await status(site, "/live/jobs/orders-1-1/events", STAFF) == 200
    assert await status(site, "/live/nothing", STAFF) == 404
    assert await status(site, "/live/ws", STAFF) == 426
    assert await status(site, "/live/stream", {**ANN, "Origin": "http://evil.example"}) == 403
    assert await status(site, "/live/stream", {**ANN, "Origin": "https://shop.example"}) == 200
    assert await refused(site, {}) == 401
    assert await refused(site, {**ANN, "Origin": "http://evil.example"}) == 403
    async with web_socket(site.port, WS, headers=ANN) as socket:
        assert (await socket.ask("subscribe", "a", subject="secret"))["data"]["status"] == 403
        assert (await socket.ask("subscribe", "a", tenant="other"))["data"]["status"] == 403
        await socket.socket.send_str('"' + "x" * 20_000 + '"')
        (large,) = await socket.take(1)
    assert large["data"]["status"] == 413


async def test_a_ticket_opens_one_stream_for_whoever_fetched_it(site: Site, raw: Raw) -> None:
    first, second = (site.post("/live/tickets", **ANN) for _ in range(2))
    assert (first.status, site.post("/live/tickets").status) == (201, 401)
    async with event_source(site.port, f"/live/stream?ticket={first.json['ticket']}") as stream:
        await stream.take(1)
        for tenant in ("other", "acme"):
            add(raw, 1, tenant=tenant)
        (told,) = await stream.take(1)
    protocols = ("penstock.live", f"ticket.{second.json['ticket']}")
    async with web_socket(site.port, WS, protocols=protocols) as socket:
        assert (await socket.ask("subscribe", "a"))["event"] == "ready"

    assert told.data["tenant"] == "acme"
    assert await status(site, f"/live/stream?ticket={first.json['ticket']}") == 401
    assert await refused(site, {}, protocols=protocols) == 401


async def follow(port: int, numbers: list[int], last: int, begun: asyncio.Semaphore) -> None:
    """Take numbers until the last one, over one connection after another."""
    at: dict[str, str] = {}
    while numbers[-1:] != [last]:
        with contextlib.suppress(aiohttp.ClientError):  # its worker is gone
            async with web_socket(port, WS, headers=STAFF) as socket:
                socket.positions["a"] = at.get("position", "")
                await socket.say("resume" if at else "subscribe", "a", types=["counted"], **at)
                while numbers[-1:] != [last] and (told := await socket.next()) is not None:
                    assert told["event"] in ("message", "ready"), told
                    if told["event"] == "message":
                        numbers.append(told["data"]["data"])
                    elif not at:
                        begun.release()
                    at = {"position": socket.positions["a"]}
        await asyncio.sleep(0)


async def test_connections_of_a_killed_worker_go_on_at_another_and_are_forgotten(
    server: Server, raw: Raw, folder: Path
) -> None:
    total, clients, most = 300, 40, 100
    begun = asyncio.Semaphore(0)
    seen: list[list[int]] = [[] for _ in range(clients)]

    async def publish() -> None:
        for _ in range(clients):
            await begun.acquire()
        for number in range(total):
            await eventually(lambda: min(map(len, seen)) > number - most, what="all have read what was told")  # noqa: B023
            add(raw, number)

    def known() -> Counter[str]:
        processes = [process.decode() for process in raw.zrange("live:connections", 0, -1)]
        return Counter({process: raw.hlen(f"live:connections:{process}") for process in processes})

    app = "tests.integration.live_app:app"
    with serving(app, folder, folder / "log", "--workers", "2", REDIS_URL=server.url) as two:
        following = [asyncio.create_task(follow(two.port, one, total - 1, begun)) for one in seen]
        publishing = asyncio.create_task(publish())
        await eventually(lambda: min(map(len, seen)) > most, what="all are in the midst of it")
        await eventually(lambda: known().total() == clients, what="all are known")
        killed = max(known())
        os.kill(int(killed.split("-")[-2]), signal.SIGKILL)
        await eventually(lambda: not known()[killed], what="what it had is forgotten")
        await asyncio.gather(publishing, *following)

    assert [one for one in seen if one != list(range(total))] == []
