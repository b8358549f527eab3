"""No request makes a 5xx at any route of any service: whatever stands in its address, its query or its body."""

from __future__ import annotations

import pytest

from tests.hands import Raw
from tests.ports import serving
from tests.routes import OWN
from tests.servers import Server

NINES = "9" * 5_000
VALUES = (
    *("", "%00", "%ff", "%ed%a0%80", "%", "%e2%80%ae", "%0d%0aX:%20y", NINES, f"0000000001{NINES}", "00000001000000"),
    *(
        f"{NINES}d",
        "1e999",
        "nan",
        "-1",
        "%c2%b2",
        "%d9%a1",
        "0001-01-01T00:00:00%2B14:00",
        "9999-12-31T23:59:59-14:00",
    ),
    *("\xff", "\xed\xa0\x80"),  # sent as the bytes that they stand for
)
PARAMETERS = {
    "gateway": ("source", "tenant", "stream", "type", "subject", "hub.challenge", "hub.verify_token"),
    "metrics": ("window", "since", "until", "name", "service"),
    "alerts": ("limit", "state", "by", "comment"),
    "notifier": ("limit", "status", "channel", "fingerprint"),
    "worker": ("limit",),
}
DEEP = {"within the limit": b"[" * 99_000, "beyond it": b"[" * 400_000, "objects": b'{"a":' * 15_000}


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


@pytest.mark.parametrize("service", OWN)
async def test_no_query_and_no_path_makes_a_5xx(service: str, server: Server) -> None:
    async with serving(service, server) as port:
        for route, method, path in port.requests:
            if route.path.endswith("/stream") and method == "GET":  # that goes on for as long as somebody reads
                continue
            for value in VALUES:
                addresses = [f"{path}?{parameter}={value}" for parameter in PARAMETERS[service]]
                for address in addresses if route.path == path else [path.replace("/x", f"/{value[:100]}"), *addresses]:
                    assert await port.raw(request(method, address)) < 500, (method, address[:200])


@pytest.mark.parametrize("data", [b'{"channel":"\xff"}', b'{"x":' + b"[" * 5_000, b"{"])
async def test_an_entry_of_deliveries_that_is_none_is_passed_over(data: bytes, server: Server, raw: Raw) -> None:
    raw.xadd("deliveries", {"type": "notification.sent", "data": data})
    async with serving("notifier", server) as port:
        assert await port("GET", "/v1/deliveries") == 200


@pytest.mark.parametrize("body", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("service", OWN)
async def test_what_is_nested_too_deep_is_a_4xx_wherever_it_is_sent(service: str, body: bytes, server: Server) -> None:
    async with serving(service, server) as port:
        for route, method, path in port.requests:
            if method not in ("GET", "HEAD", "OPTIONS") and path != "/v1/tickets":  # which reads no body
                status = await port.raw(request(method, path, body, "Content-Type: application/json"))
                assert 400 <= status < 500, (method, route.path)
