"""Every route of every service asks who calls: all of them are walked, over HTTP."""

from __future__ import annotations

import os

import pytest

from tests.ports import serving
from tests.routes import OWN
from tests.servers import Server

SECRETS = {name: f"{name}-secret-0123456789abcdef" for name in ("publish", "read", "operate", "admin", "bound")}
CLIENTS = """
clients:
  publish: {secret: SECRET_PUBLISH, scopes: [publish]}
  read: {secret: SECRET_READ, scopes: [read]}
  operate: {secret: SECRET_OPERATE, scopes: [operate]}
  admin: {secret: SECRET_ADMIN, scopes: [admin]}
  bound: {secret: SECRET_BOUND, scopes: [read, operate], tenant: acme}
"""
ENOUGH = {
    "scrape": {"read", "operate", "admin", "bound"},
    "publish": {"publish", "admin"},
    "read": {"read", "operate", "admin", "bound"},
    "operate": {"operate", "admin", "bound"},
    "admin": {"admin"},
}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(f"SECRET_{name.upper()}", secret)


@pytest.mark.parametrize("service", OWN)
async def test_on_loopback_no_page_of_another_site_and_no_foreign_name_gets_in(service: str, server: Server) -> None:
    async with serving(service, server) as port:
        for _, method, path in port.requests:
            assert await port(method, path) not in (401, 403, 421), path
            assert await port(method, path, Host="evil.example") == 421, path
            assert await port(method, path, Sec_Fetch_Site="cross-site") == 403, path
            assert await port(method, path, Sec_Fetch_Site="same-site") == 403, path
            assert await port(method, path, Origin="http://evil.example") == 403, path
            assert await port(method, path, Origin="null") == 403, path


@pytest.mark.parametrize("service", OWN)
async def test_nor_does_a_request_with_a_method_or_a_path_that_nobody_declared(service: str, server: Server) -> None:
    async with serving(service, server) as port:
        paths = {path for _, _, path in port.requests}
        declared = {(method, path) for _, method, path in port.requests}
        for path in sorted(paths | {"/", "/nowhere"}):
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"):
                if (method, path) in declared:
                    continue
                assert await port(method, path) in (404, 405), (method, path)
                assert await port(method, path, Origin="http://evil.example") == 403, (method, path)
                assert await port(method, path, Sec_Fetch_Site="cross-site") == 403, (method, path)
                assert await port(method, path, Host="evil.example") == 421, (method, path)


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:{port}", "http://localhost:{port}", 200),
        ("LOCALHOST.:{port}", "http://localhost.:{port}", 200),
        ("[::1]:{port}", "http://[::1]:{port}", 200),
        ("[::1]:{port}", "http://[::1]", 403),
        ("localhost", "http://localhost:1", 403),
        ("localhost", "http://localhost.", 403),
        ("localhost", "http://localhost.evil.example", 403),
        ("localhost", "http://localhost@evil.example", 403),
        ("localhost", "file://", 403),
        ("localhost", "", 403),
        ("localhost.evil.example", None, 421),
        ("127.0.0.1.evil.example:{port}", None, 421),
        ("[::1", None, 421),
        ("[::1].evil.example", None, 421),
        ("[localhost].evil.example", None, 421),
        ("localhost:80@evil.example", None, 421),
        ("0.0.0.0", None, 421),
        ("[::]", None, 421),
        ("2130706433", None, 421),
        ("", None, 421),
        ("", "null", 403),
    ],
)
async def test_a_host_is_compared_as_a_whole_and_so_is_an_origin(
    host: str, origin: str | None, status: int, server: Server
) -> None:
    async with serving("metrics", server) as port:
        said = "" if origin is None else f"Origin: {origin}\r\n"
        request = f"GET /v1/metrics HTTP/1.1\r\nHost: {host}\r\n{said}\r\n".replace("{port}", str(port.number))
        assert await port.raw(request.encode()) == status


@pytest.mark.parametrize("service", OWN)
async def test_what_a_proxy_passes_on_is_not_taken_for_this_machine(service: str, server: Server) -> None:
    async with serving(service, server, hosts="shop.example") as port:
        for route, method, path in port.requests:
            expected = {401} if route.scope != "public" else set(range(200, 600)) - {401}
            assert await port(method, path, X_Forwarded_For="192.0.2.1") in expected, path
            assert await port(method, path, Host="shop.example:8443") in expected, path


@pytest.mark.parametrize("service", OWN)
async def test_beyond_loopback_all_but_probes_and_webhooks_is_closed_until_there_are_clients(
    service: str, server: Server
) -> None:
    async with serving(service, server, host="0.0.0.0") as port:
        public = {path for route, _, path in port.requests if route.scope == "public"}
        assert public - {"/webhooks/x"} == {"/livez", "/readyz"}
        for route, method, path in port.requests:
            assert (await port(method, path) == 401) == (route.scope != "public"), path


@pytest.mark.parametrize("service", OWN)
async def test_who_says_so_has_everything_open(service: str, server: Server) -> None:
    async with serving(service, server, host="0.0.0.0", opened=True) as port:
        for _, method, path in port.requests:
            assert await port(method, path) not in (401, 403, 421), path


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("service", OWN)
async def test_clients_do_what_their_scopes_say_and_nothing_else(service: str, host: str, server: Server) -> None:
    async with serving(service, server, host=host, clients=CLIENTS) as port:
        for route, method, path in port.requests:
            if route.scope == "public":  # what stands there may be a webhook's secret, or a proxy's
                assert await port(method, path, Authorization="Bearer " + "x" * 30) not in (401, 403), path
                continue
            assert await port(method, path) == 401, path
            assert await port(method, path, Authorization="Bearer " + "x" * 30) == 401, path
            for name, secret in SECRETS.items():
                status = await port(method, path, Authorization=f"Bearer {secret}")
                enough = name in ENOUGH[route.scope] and (name != "bound" or route.own_tenant)
                assert (status not in (401, 403)) == enough, (name, path, status)


async def test_where_names_are_listed_no_other_name_gets_in_and_addresses_do(server: Server) -> None:
    async with serving("gateway", server, host="0.0.0.0", opened=True, hosts="gateway") as port:
        for host, status in (("gateway", 200), ("192.0.2.7:8080", 200), ("localhost", 200), ("evil.example", 421)):
            assert await port("GET", "/livez", Host=host) == status


async def test_prometheus_may_scrape_and_nothing_else(server: Server) -> None:
    scraper = "scrape-" + os.urandom(16).hex()
    async with serving("metrics", server, host="0.0.0.0", scrape_secret=scraper) as port:
        assert await port("GET", "/metrics", Authorization=f"Bearer {scraper}") == 200
        assert await port("GET", "/v1/metrics", Authorization=f"Bearer {scraper}") == 403
        assert await port("GET", "/metrics") == 401


async def test_a_link_from_elsewhere_may_open_the_trace_page_and_no_more(server: Server) -> None:
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    async with serving("gateway", server) as port:
        assert await port("GET", "/traces/abc", **followed) == 200
        assert await port("GET", "/v1/traces", **followed) == 403
        assert await port("GET", "/traces/abc", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
