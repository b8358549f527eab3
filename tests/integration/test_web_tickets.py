"""Tickets: a browser that can send no header comes in with one; once, and only for a while."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.gateways import Gateway, running_gateway
from tests.hands import Raw
from tests.integration.test_gateway_live import CLIENTS, SECRETS, SHIPPED
from tests.live import event_source, web_socket
from tests.servers import Server

ACME, ALL = ({"Authorization": f"Bearer {SECRETS[name]}"} for name in ("ACME_SECRET", "ALL_SECRET"))


@pytest.fixture
def gateway(server: Server, tmp_path: Path) -> Iterator[Gateway]:
    topology = tmp_path / "streams.yaml"
    topology.write_text(SHIPPED + CLIENTS)
    with running_gateway(server, tmp_path, PENSTOCK_TOPOLOGY=str(topology), **SECRETS) as one:
        yield one


def fetch(gateway: Gateway, headers: dict[str, str] = ACME) -> str:
    answer = gateway.post({}, headers, path="/v1/tickets")
    assert (answer.status, answer.json["expires_in"]) == (201, 60)
    assert answer.headers["Cache-Control"] == "no-store"
    ticket: str = answer.json["ticket"]
    return ticket


async def status(gateway: Gateway, path: str) -> int:
    async with event_source(gateway.port, path) as stream:
        return stream.response.status


async def test_a_stream_and_a_socket_are_opened_once_as_whoever_fetched_the_ticket(gateway: Gateway, raw: Raw) -> None:
    first, second, third, fourth = (fetch(gateway) for _ in range(4))
    async with event_source(gateway.port, f"/v1/stream?ticket={first}") as stream:
        await stream.take(1)
        again = await status(gateway, f"/v1/stream?ticket={first}")
        for tenant in ("other", "acme"):
            raw.xadd("events", {"type": "counted", "data": "1", "tenant": tenant})
        (told,) = await stream.take(1)
    async with web_socket(gateway.port, protocols=("penstock.live", f"ticket.{second}")) as socket:
        chosen = socket.socket.protocol
        foreign = await socket.ask("subscribe", "a", tenant="other")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with web_socket(gateway.port, protocols=("penstock.live", f"ticket.{second}")):
            pass
    async with web_socket(gateway.port, f"/v1/ws?ticket={third}") as socket:
        assert (await socket.ask("subscribe", "a"))["event"] == "ready"
    missing = await status(gateway, f"/v1/jobs/nix/events?ticket={fourth}")

    assert told.data["tenant"] == "acme"
    assert (again, refused.value.status) == (401, 401)
    assert chosen == "penstock.live"
    assert foreign["data"]["status"] == 403
    assert missing == 404


async def test_a_page_goes_on_with_another_ticket_and_its_position(gateway: Gateway, raw: Raw) -> None:
    async with event_source(gateway.port, f"/v1/stream?ticket={fetch(gateway)}") as stream:
        await stream.take(1)
    raw.xadd("events", {"type": "counted", "data": "1", "tenant": "acme"})
    path = f"/v1/stream?ticket={fetch(gateway)}&position={stream.last_id}"
    async with event_source(gateway.port, path) as later:
        told = await later.take(2)

    assert [one.name for one in told] == ["message", "ready"]


async def test_of_a_ticket_a_hash_is_kept_and_a_minute_long(gateway: Gateway, raw: Raw) -> None:
    ticket = fetch(gateway)
    (key,) = raw.keys("ticket:*")
    lives = raw.ttl(key)
    raw.pexpire(key, 0)  # as when the minute is over

    assert key.decode() == f"ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"
    assert 0 < lives <= 60
    assert await status(gateway, f"/v1/stream?ticket={ticket}") == 401


async def test_a_ticket_opens_nothing_else_and_gives_no_scope(gateway: Gateway, raw: Raw) -> None:
    ticket = fetch(gateway)
    assert gateway.get(f"/v1/jobs/nix?ticket={ticket}").status == 401
    assert gateway.post({}, path=f"/v1/tickets?ticket={ticket}").status == 401
    assert gateway.post({}, path="/v1/tickets").status == 401
    assert raw.keys("ticket:*")  # it was not even looked at
    raw.set(f"ticket:{hashlib.sha256(b'guessed').hexdigest()}", "gone")
    assert await status(gateway, "/v1/stream?ticket=guessed") == 401  # its holder is no client any more
    assert await status(gateway, "/v1/stream?ticket=") == 401


async def test_where_nobody_is_asked_who_they_are_a_ticket_is_good_too(server: Server, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path) as gateway:
        async with event_source(gateway.port, f"/v1/stream?ticket={fetch(gateway, {})}") as stream:
            assert [one.name for one in await stream.take(1)] == ["ready"]
