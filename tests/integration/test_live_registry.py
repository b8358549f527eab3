"""The registry of live connections: who follows what, in which process; and messages to one of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.client.client import Penstock
from penstock.live.registry import Connections
from tests.command_line import Cli
from tests.gateways import Gateway, running_gateway
from tests.hands import Raw
from tests.integration.test_gateway_live import CLIENTS, SECRETS, SHIPPED, add
from tests.live import Told, event_source, web_socket
from tests.mesh import DEADLINE, eventually
from tests.ports import serving
from tests.servers import Server

OPERATORS = CLIENTS.replace("scopes: [publish, read]", "scopes: [operate]").replace("[read]", "[operate]")
ACME, ALL = ({"Authorization": f"Bearer {SECRETS[name]}"} for name in ("ACME_SECRET", "ALL_SECRET"))


@pytest.fixture
def gateway(server: Server, tmp_path: Path) -> Iterator[Gateway]:
    topology = tmp_path / "streams.yaml"
    topology.write_text(SHIPPED + OPERATORS)
    with running_gateway(server, tmp_path, PENSTOCK_TOPOLOGY=str(topology), **SECRETS) as one:
        yield one


def listed(gateway: Gateway, headers: dict[str, str] = ALL) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.request("GET", "/v1/connections", headers=headers).json["connections"]
    return found


def follows(gateway: Gateway) -> list[list[str]]:
    return [one.get("topics", []) for one in listed(gateway)]


async def test_who_follows_what_is_listed_for_as_long_as_they_do(server: Server, gateway: Gateway, raw: Raw) -> None:
    raw.xadd("ingest", {"type": "t", "tenant": "acme", "source": "s"}, id="1-1")
    async with web_socket(gateway.port, headers=ACME) as one:
        await one.ask("subscribe", "a", job="ingest-1-1")
        await one.ask("subscribe", "b", types=["order.*", "paid"], subject="o-1")
        async with event_source(gateway.port, "/v1/stream", headers=ALL) as stream:
            await stream.take(1)
            await eventually(lambda: len(follows(gateway)) == 2 and all(follows(gateway)), what="both are known")
            first, second = listed(gateway)
            own = listed(gateway, ACME)
            text = Cli(server.url, gateway.log.parent)("connections").stdout
            shown = Cli(server.url, gateway.log.parent).json("connections")
        await one.ask("unsubscribe", "a")
        await eventually(
            lambda: follows(gateway) == [["order.*, paid about o-1 of acme"]], what="what is left is known"
        )
    await eventually(lambda: listed(gateway) == [], what="nobody is left")

    assert first["id"] == one.id
    assert first["process"].startswith(f"{socket.gethostname()}-{gateway.process.pid}-")
    assert (first["kind"], first["client"], first["tenant"]) == ("websocket", "acme", "acme")
    assert first["topics"] == ["job ingest-1-1 of acme", "order.*, paid about o-1 of acme"]
    assert (first["subscriptions"], second["subscriptions"]) == (2, 1)
    assert first["since"] <= second["since"]
    assert (second["kind"], second["client"], second["topics"]) == ("sse", "all", ["everything"])
    assert "tenant" not in second
    assert [one["id"] for one in own] == [first["id"]]
    assert [one["id"] for one in shown] == [first["id"], second["id"]]
    assert first["id"] in text.replace("\n", "")


async def test_a_message_reaches_one_connection_of_any_process_and_no_other(
    server: Server, gateway: Gateway, tmp_path: Path
) -> None:
    env = {"PENSTOCK_TOPOLOGY": str(tmp_path / "streams.yaml"), **SECRETS}
    with running_gateway(server, tmp_path, **env) as other:

        def tell(connection: str, headers: dict[str, str] = ALL, body: Any = None) -> int:
            answer = other.post(body or {"say": "hello\nyou"}, headers, path=f"/v1/connections/{connection}/messages")
            return answer.status

        async with (
            web_socket(gateway.port, headers=ACME) as one,
            web_socket(gateway.port, headers=ALL) as another,
            event_source(gateway.port, "/v1/stream", headers=ALL) as stream,
        ):
            await stream.take(1)
            await eventually(lambda: len(listed(other)) == 3, what="all are known")
            (source,) = [found["id"] for found in listed(other) if found["kind"] == "sse"]
            statuses = [tell(one.id), tell(source), tell(another.id, ACME), tell(f"{one.id}0"), tell("nix")]
            malformed = tell(one.id, ALL, b"{")
            told = await one.take(1), await stream.take(1)
            async with Penstock.connect(server.url, topology=str(tmp_path / "streams.yaml")) as mesh:
                assert await Connections.of(mesh).tell(another.id, [1])
                assert not await Connections.of(mesh).tell("nix.1", [1])
            (last,) = await another.take(1)
        await eventually(lambda: listed(other) == [], what="nobody is left")
        gone = tell(one.id)

    assert statuses == [202, 202, 404, 404, 404]
    assert (malformed, gone) == (400, 404)
    assert told[0] == [{"event": "direct", "data": {"say": "hello\nyou"}}]
    assert told[1] == [Told("direct", {"say": "hello\nyou"})]
    assert last == {"event": "direct", "data": [1]}


async def test_only_who_may_operate_sees_and_tells(server: Server, tmp_path: Path) -> None:
    topology = tmp_path / "streams.yaml"
    topology.write_text(SHIPPED + CLIENTS)
    with running_gateway(server, tmp_path, PENSTOCK_TOPOLOGY=str(topology), **SECRETS) as gateway:
        statuses = [
            gateway.request("GET", "/v1/connections", headers=ALL).status,
            gateway.post({}, ALL, path="/v1/connections/x/messages").status,
        ]
    assert statuses == [403, 403]


@pytest.mark.parametrize("how", ["flushed", "restarted without data", "paused"])
async def test_what_is_gone_from_redis_is_written_anew(how: str, own_server: Server, tmp_path: Path) -> None:
    with running_gateway(own_server, tmp_path) as gateway:
        async with web_socket(gateway.port) as one:
            await one.ask("subscribe", "a", types=["counted"])
            await eventually(lambda: follows(gateway) == [["counted"]], what="it is known")
            if how == "restarted without data":
                own_server.kill()
                own_server.start()
            with own_server.client() as raw:
                raw.flushall()
                if how == "paused":
                    os.kill(gateway.process.pid, signal.SIGSTOP)
                    raw.zadd("live:connections", {"another": 1})  # it is forgotten by whoever beats
                    os.kill(gateway.process.pid, signal.SIGCONT)
                await eventually(lambda: follows(gateway) == [["counted"]], what="it is known again")
                assert raw.zscore("live:connections", "another") is None
                async with asyncio.timeout(DEADLINE):
                    while (await one.take(1))[0]["event"] != "resync":
                        pass  # what was added before it would stand in what the client looks up anew
                    add(raw, 1)
                    while (await one.take(1))[0]["event"] != "message":
                        pass


async def test_a_process_that_stops_takes_its_connections_with_it(server: Server, raw: Raw, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path, WS_REDIS_REGISTRY_KEY="ws:registry") as gateway:
        async with web_socket(gateway.port) as one:
            await eventually(lambda: raw.keys("ws:registry:*"), what="it is known")
            gateway.process.send_signal(signal.SIGTERM)
            assert await one.next() is None
            await asyncio.to_thread(gateway.process.wait, 5)
    assert raw.keys("ws:registry*") == []
    assert raw.keys("live:*") == []


async def test_without_a_registry_all_else_is_as_it_was(server: Server, raw: Raw, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path, WS_REDIS_REGISTRY_ENABLED="false") as gateway:
        async with web_socket(gateway.port) as one:
            assert one.id is None
            assert (await one.ask("subscribe", "a", types=["counted"]))["event"] == "ready"
            add(raw, 1)
            assert [told["data"]["data"] for told in await one.take(1)] == [1]
            assert listed(gateway) == []
    assert raw.keys("live:*") == []


async def test_what_stands_in_the_way_of_the_registry_costs_no_connection(server: Server, raw: Raw) -> None:
    raw.set("live:connections", "somebody's own")
    async with serving("gateway", server) as port, web_socket(port.number) as one:
        assert (await one.ask("subscribe", "a", types=["counted"]))["event"] == "ready"
        add(raw, 1)
        assert [told["data"]["data"] for told in await one.take(1)] == [1]
        await one.socket.close()
        reads = [True]
        while any(reads):  # nothing is left behind
            reads = [client["cmd"].startswith("xread") for client in raw.client_list()]
            await asyncio.sleep(0)
