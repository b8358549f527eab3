"""A proxy that ends TLS in front of the gateway, set up as docs/security.md says."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.topology import Webhook
from penstock_services.gateway.schemes import SCHEMES
from tests.gateways import running_gateway
from tests.processes import ROOT
from tests.servers import Server

CERTIFICATE, NAME = ROOT / "tests" / "self_signed.pem", "somebody.example"
SECRET, HOOK = "shop-secret-0123456789abcdef", "a secret of some length"
TOPOLOGY = """
streams: {ingest: {}}
services: {gateway: {publishes: [ingest]}}
webhooks: {hub: {scheme: github, secret: HOOK, type: push}}
"""
CLIENTS = "clients: {shop: {secret: SHOP_SECRET, scopes: [publish]}}\n"
Ask = Callable[..., Awaitable[int]]


@contextlib.asynccontextmanager
async def through_tls(port: int) -> AsyncIterator[Ask]:
    """End TLS in front of a port: `Host` is passed on as it came, and X-Forwarded-For added."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, onward = await asyncio.open_connection("127.0.0.1", port)
        head = await reader.readuntil(b"\r\n\r\n")
        onward.write(head[:-2] + b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n\r\n")
        sending = asyncio.create_task(pipe(reader, onward))
        await pipe(upstream, writer)
        sending.cancel()
        onward.close()

    ends = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ends.load_cert_chain(CERTIFICATE)
    begins = ssl.create_default_context(cafile=CERTIFICATE)
    begins.check_hostname = False  # it names no alternative
    proxy = await asyncio.start_server(forward, "127.0.0.1", 0, ssl=ends)
    address = f"https://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    connector = aiohttp.TCPConnector(ssl=begins, force_close=True)
    async with proxy, aiohttp.ClientSession(connector=connector, headers={"Host": NAME}) as session:

        async def ask(method: str, path: str, *, body: bytes | None = None, **headers: str) -> int:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            sent |= {"Content-Type": "application/json", "Connection": "close"}
            async with session.request(method, address + path, data=body, headers=sent) as answer:
                return answer.status

        yield ask


def env(folder: Path, topology: str) -> dict[str, str]:
    (folder / "streams.yaml").write_text(topology)
    given = {"PENSTOCK_TOPOLOGY": str(folder / "streams.yaml"), "PENSTOCK_HOSTS": NAME}
    return given | {"SHOP_SECRET": SECRET, "HOOK": HOOK}


@pytest.mark.parametrize("declared", [True, False])
async def test_who_comes_through_the_proxy_is_a_client_or_a_signed_webhook(
    server: Server, raw: Any, tmp_path: Path, declared: bool
) -> None:
    bearer = f"Bearer {SECRET}"
    hook = Webhook(scheme="github", secret="HOOK", type="push")
    signature = SCHEMES["github"](HOOK, hook).sign(b"{}", 0).headers
    topology = TOPOLOGY + CLIENTS if declared else TOPOLOGY
    with running_gateway(server, tmp_path, **env(tmp_path, topology)) as gateway:
        async with through_tls(gateway.port) as ask:
            event = b'{"type":"t"}'
            assert await ask("POST", "/v1/events", body=event) == 401
            wanted = 202 if declared else 401
            assert await ask("POST", "/v1/events", body=event, Authorization=bearer) == wanted
            own_page = {"Authorization": bearer, "Origin": f"https://{NAME}", "Sec_Fetch_Site": "same-origin"}
            assert await ask("POST", "/v1/events", body=event, **own_page) == wanted
            assert await ask("POST", "/webhooks/hub", body=b"{}", **signature) == 202
            assert await ask("POST", "/webhooks/hub", body=b"{ }", **signature) == 401
            assert await ask("GET", "/readyz") == 200
            assert await ask("GET", "/readyz", Host="evil.example") == 421
    assert raw.xlen("ingest") == (3 if declared else 1)
