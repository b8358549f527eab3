"""`/v1/ws` of the gateway: subscribe, unsubscribe, resume; all that was told, or `resync`, whatever happens."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.live import websocket
from penstock.topology import load
from tests.gateways import Gateway, running_gateway
from tests.hands import Raw
from tests.integration.test_gateway_live import CLIENTS, SECRETS, SHIPPED, Worker, add, submit
from tests.live import Socket, event_source, web_socket
from tests.mesh import eventually, running
from tests.ports import serving
from tests.servers import Server


@pytest.fixture
def gateway(server: Server, tmp_path: Path) -> Any:
    with running_gateway(server, tmp_path) as one:
        yield one


def connections(gateway: Gateway) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = gateway.get("/v1/connections").json["connections"]
    return listed


def names(told: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(one["event"], one.get("sub")) for one in told]


async def test_a_job_and_what_else_happens_are_told_over_one_connection(server: Server, gateway: Gateway) -> None:
    worker = Worker()
    job_id = await submit(gateway)
    async with web_socket(gateway.port) as socket:
        state = await socket.ask("subscribe", "mine", job=job_id)
        ready = await socket.ask("subscribe", "all", types=["order.*", "job.completed"])
        begun = dict(socket.positions)
        async with running(worker.service, load(), server):
            worker.say.put_nowait((0.4, "parsing"))
            progress = await socket.take(1)
            worker.say.put_nowait({"paid": 7})
            rest = await socket.take(3)
        gone = await socket.ask("unsubscribe", "mine")  # which has ended
        over = await socket.ask("subscribe", "mine", job=job_id), *await socket.take(1)
        ended = await socket.ask("unsubscribe", "all")
    async with web_socket(gateway.port) as later:
        missed = await later.ask("resume", "mine", job=job_id, position=begun["mine"]), *await later.take(2)
        nothing = await later.ask("resume", "mine", job=job_id, position=socket.positions["mine"])

    assert state["data"] == {"job_id": job_id, "state": "queued", "type": "order.placed"}
    assert (ready["event"], ready["data"]) == ("ready", {})
    assert begun["mine"] == begun["all"] == state["position"]
    assert (progress[0]["event"], progress[0]["sub"], progress[0]["data"]["progress"]) == ("progress", "mine", 0.4)
    assert sorted(names(rest)) == [("end", "mine"), ("message", "all"), ("message", "mine")]
    told = {one["sub"]: one for one in rest if one["event"] == "message"}
    assert told["mine"]["data"] == told["all"]["data"]
    assert told["mine"]["data"]["data"]["result"] == {"paid": 7}
    assert (gone["event"], gone["data"]["status"]) == ("error", 404)
    assert names([*over]) == [("state", "mine"), ("end", "mine")]
    assert names([ended]) == [("unsubscribed", "all")]
    assert names([*missed]) == [("message", "mine"), ("state", "mine"), ("end", "mine")]
    assert missed[0] == told["mine"]
    assert names([nothing]) == [("end", "mine")]


async def test_what_is_unsubscribed_is_told_no_more_and_its_name_is_free(raw: Raw, gateway: Gateway) -> None:
    async with web_socket(gateway.port) as socket:
        await socket.ask("subscribe", "a", types=["counted"])
        await socket.ask("subscribe", "b", types=["counted"])
        add(raw, 1)
        first = await socket.take(2)
        await socket.ask("unsubscribe", "a")
        add(raw, 2)
        second = await socket.take(1)
        resumed = await socket.ask("resume", "a", types=["counted"], position=socket.positions["a"])
        then = await socket.take(1)

    assert sorted(names(first)) == [("message", "a"), ("message", "b")]
    assert names(second) == [("message", "b")]
    assert (resumed["sub"], resumed["data"]["data"]) == ("a", 2)
    assert names(then) == [("ready", "a")]


@pytest.mark.parametrize(
    ("command", "status", "of"),
    [
        ("no json", 400, None),
        ("[]", 400, None),
        ("[" * 10_000, 400, None),
        ('{"type": "publish", "sub": "a"}', 400, "a"),
        ('{"type": "subscribe"}', 400, None),
        ('{"type": "subscribe", "sub": "a", "jobs": "x"}', 400, "a"),
        ('{"type": "subscribe", "sub": "a", "job": "nix"}', 404, "a"),
        ('{"type": "subscribe", "sub": "a", "job": "nix", "types": ["t"]}', 400, "a"),
        ('{"type": "subscribe", "sub": "taken"}', 409, "taken"),
        ('{"type": "resume", "sub": "a"}', 400, "a"),
        ('{"type": "unsubscribe", "sub": "a"}', 404, "a"),
        (json.dumps({"type": "subscribe", "sub": "a", "types": ["t"] * 21}), 400, "a"),
    ],
)
async def test_what_is_wrong_with_a_message_is_said_and_the_rest_goes_on(
    command: str, status: int, of: str | None, raw: Raw, gateway: Gateway
) -> None:
    async with web_socket(gateway.port) as socket:
        await socket.ask("subscribe", "taken", types=["counted"])
        await socket.socket.send_str(command)
        (told,) = await socket.take(1)
        add(raw, 1)
        (after,) = await socket.take(1)

    assert (told["event"], told["data"]["status"], told.get("sub")) == ("error", status, of)
    assert told["data"]["detail"]
    assert (after["sub"], after["data"]["data"]) == ("taken", 1)


async def test_a_connection_has_a_bounded_number_of_subscriptions_and_messages_a_bounded_size(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with web_socket(gateway.port) as socket:
        for number in range(100):
            assert (await socket.ask("subscribe", str(number), types=["counted"]))["event"] == "ready"
        refused = await socket.ask("subscribe", "one more")
        await socket.socket.send_str('"' + "x" * websocket.MOST_TEXT + '"')
        assert await socket.next() is None

    assert refused["data"]["status"] == 429
    assert socket.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_200_connections_of_a_killed_gateway_go_on_at_another_without_gap_or_repeat(
    server: Server, raw: Raw, gateway: Gateway, tmp_path: Path
) -> None:
    total, clients, most = 400, 200, 100
    begun = asyncio.Semaphore(0)

    async def publish() -> None:
        for _ in range(clients):
            await begun.acquire()
        for number in range(total):
            # As fast as they can read in one process: who falls behind further is told `resync`, and rightly.
            await eventually(lambda: min(map(len, seen)) > number - most, what="all have read what was told")  # noqa: B023
            add(raw, number)

    async def follow(ports: list[int], seen: list[int]) -> None:
        at: dict[str, str] = {}
        for port in ports:
            async with web_socket(port) as socket:
                await socket.say("resume" if at else "subscribe", "a", types=["counted"], **at)
                while seen[-1:] != [total - 1] and (told := await socket.next()) is not None:
                    assert told["event"] in ("message", "ready"), told
                    if told["event"] == "message":
                        seen.append(told["data"]["data"])
                    elif not at:
                        begun.release()
                at = {"position": socket.positions["a"]}

    with running_gateway(server, tmp_path) as other:
        seen: list[list[int]] = [[] for _ in range(clients)]
        following = [asyncio.create_task(follow([gateway.port, other.port], one)) for one in seen]
        publishing = asyncio.create_task(publish())
        await eventually(lambda: min(map(len, seen)) > most, what="all are in the midst of it")
        before = Counter(one["process"] for one in connections(other))
        gateway.process.send_signal(signal.SIGKILL)
        await eventually(lambda: not {*before} & {one["process"] for one in connections(other)}, what="none is left")
        await asyncio.gather(publishing, *following)

    assert list(before.values()) == [clients]
    assert [one for one in seen if one != list(range(total))] == []


async def test_after_a_flush_there_is_a_new_epoch_and_everybody_begins_anew(raw: Raw, gateway: Gateway) -> None:
    raw.xadd("ingest", {"type": "t"}, id="1-1")
    async with web_socket(gateway.port) as socket:
        await socket.ask("subscribe", "job", job="ingest-1-1")
        await socket.ask("subscribe", "all", types=["counted"])
        before = dict(socket.positions)
        raw.flushall()
        raw.xadd("ingest", {"type": "other"}, id="1-1")
        told = {(one["event"], one["sub"]): one for one in await socket.take(4)}
        add(raw, 1)
        (after,) = await socket.take(1)
    async with web_socket(gateway.port) as later:
        resumed = await later.ask("resume", "all", position=before["all"]), *await later.take(1)

    assert set(told) == {("resync", "job"), ("state", "job"), ("resync", "all"), ("ready", "all")}
    assert told["state", "job"]["data"]["type"] == "other"
    assert (after["sub"], after["data"]["data"]) == ("all", 1)
    assert after["position"].split("-")[0] != before["all"].split("-")[0]
    assert names([*resumed]) == [("resync", "all"), ("ready", "all")]


async def test_a_slow_reader_is_told_to_begin_anew_while_others_go_on(server: Server, raw: Raw, tmp_path: Path) -> None:
    total = 1_500
    with running_gateway(server, tmp_path, PENSTOCK_GATEWAY_SEND_TIMEOUT="60") as gateway:
        async with web_socket(gateway.port, buffer=16_384) as slow, web_socket(gateway.port) as quick:
            await slow.ask("subscribe", "a", types=["counted"])
            await quick.ask("subscribe", "a", types=["counted"])
            seen = []
            for number in range(0, total, 100):
                for one in range(number, number + 100):
                    add(raw, one, subject="x" * 10_000)
                seen += [told["data"]["data"] for told in await quick.take(100)]
            runs: list[list[int]] = [[]]
            while total - 1 not in runs[-1]:
                (told,) = await slow.take(1)
                if told["event"] == "resync":
                    runs.append([])
                elif told["event"] == "message":
                    runs[-1].append(told["data"]["data"])
                elif told["event"] == "ready" and len(runs) > 1:
                    add(raw, total - 1)  # the others are gone for this one, maybe this too

    assert seen == list(range(total))
    assert len(runs) > 1
    assert sum(map(len, runs)) < total
    assert [run for run in runs if run[:-1] != list(range(run[0], run[0] + len(run) - 1) if run else [])] == []


async def test_each_tenant_is_told_of_its_own(server: Server, raw: Raw, tmp_path: Path) -> None:
    topology = tmp_path / "streams.yaml"
    topology.write_text(SHIPPED + CLIENTS)
    bearer = {name: {"Authorization": f"Bearer {secret}"} for name, secret in SECRETS.items()}
    for name, tenant in (("1-1", "acme"), ("1-2", "other")):
        raw.xadd("ingest", {"type": "t", "tenant": tenant, "source": "s"}, id=name)
    with running_gateway(server, tmp_path, PENSTOCK_TOPOLOGY=str(topology), **SECRETS) as gateway:
        with pytest.raises(aiohttp.WSServerHandshakeError) as nobody:
            async with web_socket(gateway.port):
                pass
        async with (
            web_socket(gateway.port, headers=bearer["ACME_SECRET"]) as acme,
            web_socket(gateway.port, headers=bearer["ALL_SECRET"]) as everybody,
        ):
            foreign = await acme.ask("subscribe", "job", job="ingest-1-2")
            other = await acme.ask("subscribe", "other", tenant="other")
            own = await acme.ask("subscribe", "own", job="ingest-1-1")
            all_of_it = await acme.ask("subscribe", "all")
            resumed = await acme.ask("resume", "again", tenant="other", position=all_of_it["position"])
            assert (await everybody.ask("subscribe", "all"))["event"] == "ready"
            assert (await everybody.ask("subscribe", "other", tenant="other"))["event"] == "ready"
            for tenant in ("other", "acme", ""):
                whose = {"tenant": tenant} if tenant else {}
                said = {"source": "s", "type": "t", "attempt": "1", "share": "0.5", "note": tenant or "none", **whose}
                raw.xadd("progress", {"job": "ingest-1-1", **said})
                cause = {"cause": "ingest-1-1", "causesource": "s"}
                raw.xadd("events", {"type": "job.failed", "data": f'"{tenant}"', **cause, **whose})
            for tenant in ("acme", "other"):
                add(raw, 0, tenant=tenant, subject="last")
            told = [await until_last(one, count) for one, count in ((acme, 1), (everybody, 3))]

    assert nobody.value.status == 401
    assert [one["data"]["status"] for one in (foreign, other, resumed)] == [404, 403, 403]
    assert (own["event"], own["data"]["tenant"]) == ("state", "acme")
    assert {(one["sub"], one["data"].get("tenant", "")) for one in told[0]} == {("own", "acme"), ("all", "acme")}
    assert {(one["sub"], one["data"].get("tenant", "")) for one in told[1]} == {
        *(("all", tenant) for tenant in ("", "acme", "other")),
        ("other", "other"),
    }


async def until_last(socket: Socket, count: int) -> list[dict[str, Any]]:
    """Return all until so many messages about `last` have come."""
    told: list[dict[str, Any]] = []
    while sum(one["data"].get("subject") == "last" for one in told) < count:
        told += await socket.take(1)
    return told


async def test_a_page_of_another_origin_gets_no_connection(gateway: Gateway) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with web_socket(gateway.port, headers={"Origin": "http://evil.example"}):
            pass
    async with web_socket(gateway.port, headers={"Origin": f"http://127.0.0.1:{gateway.port}"}) as own:
        assert (await own.ask("subscribe", "a"))["event"] == "ready"
    plain = gateway.get("/v1/ws")

    assert refused.value.status == 403
    assert (plain.status, plain.headers["Upgrade"]) == (426, "websocket")


async def test_who_asks_too_often_is_refused_and_told_what_was_asked_before(
    server: Server, raw: Raw, tmp_path: Path
) -> None:
    topology = tmp_path / "streams.yaml"
    limited = CLIENTS.replace("scopes: [read]}", "scopes: [read], rate: 0.01}")  # the connection uses it up
    topology.write_text(SHIPPED + limited)
    with running_gateway(server, tmp_path, PENSTOCK_TOPOLOGY=str(topology), **SECRETS) as gateway:
        async with web_socket(gateway.port, headers={"Authorization": f"Bearer {SECRETS['ALL_SECRET']}"}) as socket:
            refused = await socket.ask("subscribe", "a")

    assert (refused["event"], refused["data"]["status"]) == ("error", 429)


async def test_a_connection_outlives_redis(own_server: Server, tmp_path: Path) -> None:
    with running_gateway(own_server, tmp_path) as gateway:
        async with web_socket(gateway.port) as socket:
            await socket.ask("subscribe", "a", types=["counted"])
            with own_server.client() as raw:
                add(raw, 1)
            told = await socket.take(1)
            own_server.kill()
            refused = await socket.ask("subscribe", "b", job="ingest-1-1")
            own_server.start()
            with own_server.client() as raw:
                add(raw, 2)
            told += await socket.take(1)

    assert [one["data"]["data"] for one in told] == [1, 2]
    assert refused["data"]["status"] == 503


async def test_a_gateway_that_is_asked_to_stop_says_that_it_goes_away(gateway: Gateway) -> None:
    async with web_socket(gateway.port) as socket, web_socket(gateway.port) as idle:
        await socket.ask("subscribe", "a")
        gateway.process.send_signal(signal.SIGTERM)
        assert await socket.next() is None
        assert await idle.next() is None
        assert await asyncio.to_thread(gateway.process.wait, 5) == 0  # well before the grace time is over

    assert socket.socket.close_code == idle.socket.close_code == aiohttp.WSCloseCode.GOING_AWAY


async def test_one_reader_serves_whoever_follows_and_stops_with_the_last(raw: Raw, gateway: Gateway) -> None:
    def reads() -> int:
        return sum(client["cmd"].startswith("xread") for client in raw.client_list())

    async with web_socket(gateway.port) as socket, event_source(gateway.port, "/v1/stream") as stream:
        await socket.ask("subscribe", "a")
        await stream.take(1)
        await eventually(lambda: reads() == 1, what="one reads")
        async with web_socket(gateway.port) as another:
            await another.ask("subscribe", "a")
            add(raw, 1)
            await another.take(1)
            assert reads() <= 1
    await eventually(lambda: reads() == 0, deadline=8, what="nobody reads")


async def test_nothing_is_told_of_a_subscription_before_it_is_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "PING", 0)  # all the time it is said how far all is told
    async with serving("gateway", server) as port, web_socket(port.number) as socket:
        assert (await socket.ask("subscribe", "a", types=["paid"]))["event"] == "ready"


async def test_silence_is_broken_by_how_far_all_is_told(
    server: Server, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "PING", 0.01)
    async with serving("gateway", server) as port, web_socket(port.number) as socket:
        await socket.ask("subscribe", "a", types=["paid"])
        add(raw, 1)  # which this one does not want
        ((unwanted, _),) = raw.xrevrange("events", count=1)
        while not socket.positions["a"].endswith(unwanted.decode()):
            (told,) = await socket.take(1)
            assert (told["event"], told["sub"], told["data"]) == ("position", "a", {})
