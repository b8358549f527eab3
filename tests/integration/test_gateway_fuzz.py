"""No request gets a 5xx while Redis is up, whatever it is made of."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock_services.gateway.submission import CONTROL
from tests.gateways import DEMO_SECRET, Answer, Gateway, running_gateway
from tests.processes import ROOT
from tests.servers import Server

GITHUB_SECRET = "fuzz-fuzz-fuzz-fuzz"
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine


ENV = {
    "GITHUB_WEBHOOK_SECRET": GITHUB_SECRET,
    "PENSTOCK_DEMO_WEBHOOK": "true",
    "META_VERIFY_TOKEN": "as-told-to-Meta",
}
META = "webhooks:\n  meta: {scheme: github, secret: GITHUB_WEBHOOK_SECRET, type: meta, verify_token: META_VERIFY_TOKEN}"


@pytest.fixture(scope="module")
def gateway(_shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(_shared_server, tmp_path_factory.mktemp("gateway"), **ENV) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def hasty(_shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway for requests most of which never end; on a busy machine it gives up others too."""
    hurry = dict.fromkeys(("PENSTOCK_GATEWAY_HEAD_TIMEOUT", "PENSTOCK_GATEWAY_BODY_TIMEOUT"), "0.05")
    folder = tmp_path_factory.mktemp("hasty")
    (folder / "streams.yaml").write_text((ROOT / "streams.yaml").read_text().replace("\nwebhooks:", f"\n{META}"))
    with running_gateway(
        _shared_server, folder, **ENV, **hurry, PENSTOCK_TOPOLOGY=str(folder / "streams.yaml")
    ) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def stored(_shared_server: Server) -> Iterator[Callable[[], dict[bytes, bytes]]]:
    """What the newest entry holds."""
    with _shared_server.client() as client:
        yield lambda: client.xrevrange("ingest", count=1)[0][1]


def answered(gateway: Gateway, data: bytes, method: bytes = b"POST") -> None:
    """Send bytes, and read how they are answered, as far as they are: a live stream goes on for ever."""
    with contextlib.suppress(HTTPException, ConnectionError), gateway.connect() as client:
        client.sendall(data)
        with contextlib.closing(HTTPResponse(client, method=method.decode())) as response:
            response.begin()
            assert response.status < 500, (data, response.status, response.read())


def exchange(gateway: Gateway, data: bytes, method: bytes = b"POST") -> Answer | None:
    """Send bytes; None if the gateway hangs up without an answer."""
    with contextlib.suppress(HTTPException, ConnectionError):
        answer = gateway.exchange(data, method.decode())
        assert answer.status < 500, (data, answer)
        return answer
    return None


METHODS = st.sampled_from(["GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "TRACE", "*", "pOST"]).map(str.encode)
PATHS = st.sampled_from(
    [
        *("/v1/traces", "/v1/traces/x", "/v1/traces/%ff?source=%00", "/traces/%00", "/openapi.json", "/metrics"),
        *("/api/v1/orchestrator/status", "/api/v1/orchestrator/metrics", "/api/v1/orchestrator/alerts", "/health/dlq"),
        *(
            "/webhooks/meta?hub.mode=subscribe&hub.challenge=%00%ff&hub.verify_token=as-told-to-Meta",
            "/webhooks/%00",
            "/webhooks/",
        ),
        *("/v1/jobs/ingest-1-0/events", "/v1/jobs/%00/events?source=%ff", "/v1/stream?tenant=%ff&tenant=", "/api/v1/%"),
        *("/v1/events", "/v1/jobs/", "/v1/jobs/ingest-1-0", "/webhooks/demo", "/webhooks/github", "/livez", "/readyz"),
        *(
            "/",
            "*",
            "//",
            "/v1/jobs/%",
            "/v1/jobs/%00%ff",
            "/v1/jobs/\udcff",
            "http://x/readyz",
            "x:443",
            "/?a=%",
            "/#",
        ),
    ]
).map(lambda path: path.encode(errors="surrogateescape")) | st.binary(max_size=30).map(lambda tail: b"/v1/jobs/" + tail)
NAMES = st.sampled_from(
    [
        *("Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Expect", "Connection", "Upgrade"),
        *("Host", "Idempotency-Key", "traceparent", "tracestate", "webhook-id", "webhook-timestamp", "Accept"),
        *("webhook-signature", "svix-id", "X-Hub-Signature-256", "X-GitHub-Event", "Sec-WebSocket-Key1", "Range"),
        *(
            "Last-Event-ID",
            "Origin",
            "Sec-Fetch-Site",
            "WebHook-Request-Origin",
            "WebHook-Request-Rate",
            "Authorization",
        ),
        *("ce-specversion", "ce-id", "ce-type", "ce-source", "ce-time", "ce-subject", "ce-data", "ce-", "CE-\xe9"),
    ]
).map(lambda name: name.encode("latin-1"))
VALUES = st.sampled_from(
    [
        *(b"application/json", b"application/cloudevents+json", b"application/cloudevents-batch+json", b"1.0"),
        *(b"chunked", b"gzip", b"12", b"0", b"-1", b"1e3", b"100-continue", b"close", b"upgrade", b"websocket"),
        *(b"h2c", b"", b'"', b'"key"', b"%ff", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01", b"v1,", b";;;=,"),
    ]
) | st.binary(max_size=40)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
ATTRIBUTES = st.sampled_from(
    ["type", "data", "id", "source", "time", "subject", "tenant", "cause", "traceparent", "tracestate", "specversion"]
)
EVENTS = st.dictionaries(ATTRIBUTES | st.text(), TREES) | st.fixed_dictionaries(
    {"type": st.text()}, optional={"id": st.text(), "source": st.text(), "subject": st.text(), "": st.text()}
)
BODIES = (
    st.binary(max_size=200)
    | (EVENTS | st.lists(EVENTS, max_size=3) | TREES).map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b'{"type":"t"}', b"5\r\nhello\r\n0\r\n\r\n", b"[" * 5000, b'{"a":' * 5000])
)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


def request(method: bytes, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"%b %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n%b" % (method, path, b"".join(lines), body)


@fuzz
@given(METHODS, PATHS, HEADERS, BODIES)
def test_no_method_path_header_or_body_makes_a_5xx(
    hasty: Gateway, method: bytes, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    answered(hasty, request(method, path, headers, body), method)


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS"])
@fuzz
@given(
    st.lists(st.tuples(st.sampled_from(["hub.mode", "hub.challenge", "hub.verify_token"]), st.text()), max_size=4),
    VALUES,
)
def test_no_handshake_makes_a_5xx(hasty: Gateway, method: bytes, query: list[tuple[str, str]], value: bytes) -> None:
    path = b"/webhooks/meta?" + urlencode(query, errors="replace").encode()
    answered(hasty, request(method, path, [(b"WebHook-Request-Origin", value)], b""), method)


@fuzz
@given(st.binary(max_size=60), st.sampled_from([b"/v1/stream", b"/v1/jobs/ingest-1-0/events"]))
def test_no_last_event_id_makes_a_5xx(gateway: Gateway, position: bytes, path: bytes) -> None:
    answered(gateway, request(b"GET", path, [(b"Last-Event-ID", position)], b""), b"GET")


@fuzz
@given(st.binary(min_size=1, max_size=300))
def test_no_bytes_at_all_make_a_5xx(hasty: Gateway, data: bytes) -> None:
    answered(hasty, data + b"\r\n\r\n")


@fuzz
@given(BODIES, HEADERS, st.sampled_from([b"application/json", b"application/cloudevents+json"]))
def test_no_event_makes_a_5xx(
    gateway: Gateway, body: bytes, headers: list[tuple[bytes, bytes]], media_type: bytes
) -> None:
    length = b"%d" % len(body)
    given = [(b"Content-Type", media_type), (b"Content-Length", length), *without_framing(headers)]
    answer = exchange(gateway, request(b"POST", b"/v1/events", given, body))
    assert answer is not None
    assert answer.status in (202, 400, 415, 422)


@fuzz
@given(BODIES, HEADERS)
def test_no_signed_webhook_makes_a_5xx(gateway: Gateway, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    for path, signature in ((b"/webhooks/demo", standard(body)), (b"/webhooks/github", hub(body))):
        given = [
            *((b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body))),
            *signature,
            *without_framing(headers),
        ]
        answer = exchange(gateway, request(b"POST", path, given, body))
        assert answer is not None
        assert answer.status in (202, 400, 415, 422)


def without_framing(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Leave out what makes a request another one, or none; what is left are values from anywhere."""
    changing = {b"content-length", b"transfer-encoding", b"host", b"connection", b"sec-websocket-key1"}
    changing |= {b"origin", b"sec-fetch-site"}
    return [(name, value) for name, value in headers if name.lower() not in changing]


def standard(body: bytes) -> list[tuple[bytes, bytes]]:
    key = base64.b64decode(DEMO_SECRET.removeprefix("whsec_"))
    now = b"%d" % time.time()
    digest = hmac.new(key, b"msg_1." + now + b"." + body, hashlib.sha256).digest()
    return [
        (b"webhook-id", b"msg_1"),
        (b"webhook-timestamp", now),
        (b"webhook-signature", b"v1," + base64.b64encode(digest)),
    ]


def hub(body: bytes) -> list[tuple[bytes, bytes]]:
    digest = hmac.new(GITHUB_SECRET.encode(), body, hashlib.sha256).hexdigest()
    return [(b"X-Hub-Signature-256", b"sha256=" + digest.encode())]


SHOWN = {"type", "id", "source", "subject", "tenant", "cause"}


@pytest.mark.parametrize("key", ["type", "data", "id", "source", "subject", "tenant", "cause", "tracestate", "own"])
@fuzz
@given(text=st.text(min_size=1, max_size=200))
def test_every_text_that_is_accepted_is_stored_as_it_is(
    gateway: Gateway, stored: Callable[[], dict[bytes, bytes]], key: str, text: str
) -> None:
    event: dict[str, Any] = {"type": "t", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01", key: text}
    answer = gateway.post(event, {"Idempotency-Key": hashlib.sha256(f"{key}{text}".encode()).hexdigest()})
    if key in SHOWN and re.search(CONTROL, text):
        assert answer.status == 422
        return
    assert answer.status == 202
    if "duplicate" not in answer.json:
        value = stored()[b"sender_id" if key == "id" else key.encode()].decode()
        if key == "source":
            value = value.removeprefix("gateway/")
        assert (json.loads(value) if key == "data" else value) == text
