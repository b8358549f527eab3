"""`http.request`: where it connects to, and what of a request may be read in its failure."""

from __future__ import annotations

import base64
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from penstock.service.outcome import Dead, Retried
from penstock.settings import Settings
from penstock.testing import Harness
from penstock.testing.run import Run
from penstock_services.worker import http_request

SECRET = "s3cr3t-of-the-sender"


class Target:
    """A server on this machine, as other services' ports are."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.says = ""
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        if request.path == "/redirect":
            raise web.HTTPFound("/elsewhere")
        if self.says:
            return web.Response(status=403, reason=self.says, text=self.says)
        if request.path == "/echo":
            return web.Response(status=403, text=f"token {SECRET} is not valid")
        return web.Response(text="inner matters")


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    found = Target()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.answer)
    async with TestServer(app) as server:
        found.url = f"http://127.0.0.1:{server.port}"
        yield found


async def send(url: str, settings: Settings | None = None, **request: Any) -> Run:
    harness = Harness(http_request.jobs(settings or Settings()), publishes=[])
    return await harness.send("ingest", "http.request", {"url": url, "method": "GET", **request})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"])
async def test_services_on_this_machine_are_out_of_reach(host: str, target: Target) -> None:
    run = await send(target.url.replace("127.0.0.1", host) + "/metrics")
    assert isinstance(run.outcome, Dead)
    assert "only public addresses" in run.outcome.error
    assert target.asked == []


async def test_a_name_is_judged_by_the_address_that_is_connected_to(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(target.url.rpartition(":")[2])

    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", resolve)
    run = await send(f"http://intranet.example:{port}/")
    assert isinstance(run.outcome, Dead)
    assert "127.0.0.1 is a loopback address" in run.outcome.error
    assert target.asked == []


@pytest.mark.parametrize("settings", [Settings(allow_private_targets=True), Settings(allowed_targets="127.0.0.0/8")])
async def test_what_settings_allow_is_reached(settings: Settings, target: Target) -> None:
    run = await send(f"{target.url}/inner", settings)
    assert run.result == {"status": 200, "body": "inner matters"}


async def test_another_network_that_settings_allow_allows_no_other(target: Target) -> None:
    run = await send(f"{target.url}/inner", Settings(allowed_targets="10.0.0.0/8"))
    assert isinstance(run.outcome, Dead)


async def test_redirects_are_not_followed(target: Target) -> None:
    run = await send(f"{target.url}/redirect", Settings(allow_private_targets=True))
    assert isinstance(run.outcome, Dead)
    assert target.asked == ["/redirect"]


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("{target}/echo", {"Authorization": f"token {SECRET}"}),
        ("{target}/echo", {"X-Api-Key": SECRET}),
        ("{target}/echo?key=s3cr3t-of-the-sender", {}),
        ("http://ada:s3cr3t-of-the-sender@[bad/", {}),
        ("http://ada:s3cr3t-of-the-sender@host:99999/", {}),
        ("http://ada:s3cr3t-of-the-sender@127.0.0.1:1/", {}),
    ],
)
async def test_no_secret_of_a_request_stands_in_its_failure(url: str, headers: dict[str, str], target: Target) -> None:
    run = await send(url.format(target=target.url), Settings(allow_private_targets=True), headers=headers)
    assert isinstance(run.outcome, Dead | Retried)
    assert SECRET not in run.outcome.error


LOGIN = base64.b64encode(f"ada:{SECRET}".encode()).decode()


@pytest.mark.parametrize(
    ("path", "headers", "echoed"),
    [
        ("/", {"Authorization": f"token {SECRET}"}, SECRET),
        ("/", {"Authorization": f'Token token="{SECRET}", nonce="0"'}, SECRET),
        ("/", {"Authorization": f"Basic {LOGIN}"}, SECRET),
        ("/", {"Cookie": f"session={SECRET}; theme=d"}, SECRET),
        ("/", {"X-Access": SECRET}, SECRET),
        ("/?key=ab%2Bcdefgh12", {}, "ab%2Bcdefgh12"),
        ("/services/T0/B0/a1b2c3d4e5f6g7", {}, "a1b2c3d4e5f6g7"),
        ("ada", {}, LOGIN),
    ],
    ids=["token", "quoted", "basic", "cookie", "other header", "query as sent", "path", "login of the address"],
)
async def test_whatever_of_a_credential_an_endpoint_echoes_is_not_kept(
    path: str, headers: dict[str, str], echoed: str, target: Target
) -> None:
    target.says = f"{echoed} is not valid"
    url = f"http://ada:{SECRET}@{target.url.partition('//')[2]}/" if path == "ada" else target.url + path
    run = await send(url, Settings(allow_private_targets=True), headers=headers)

    assert isinstance(run.outcome, Dead)
    assert run.outcome.error == "403 *** is not valid: *** is not valid"
