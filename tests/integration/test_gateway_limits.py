"""What the gateway does with clients that are slow, large, many, or do not speak HTTP."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways import Gateway, read_answer, running_gateway
from tests.processes import eventually
from tests.servers import Server

MOST = 2_000
LIMITS = {
    "PENSTOCK_GATEWAY_HEAD_TIMEOUT": "0.3",
    "PENSTOCK_GATEWAY_BODY_TIMEOUT": "0.3",
    "PENSTOCK_GATEWAY_MAX_BODY": str(MOST),
}
HEAD = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
EVENT = b'{"type":"t"}'
REQUEST = HEAD + b"Content-Length: 12\r\n\r\n" + EVENT


@pytest.fixture(scope="module")
def gateway(_shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(_shared_server, tmp_path_factory.mktemp("gateway"), **LIMITS) as gateway:
        yield gateway


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def silent(client: socket.socket, seconds: float) -> bool:
    """Whether neither an answer nor an end comes within that time."""
    return not select.select([client], [], [], seconds)[0]


# Size


def test_a_body_of_just_the_limit_is_taken(gateway: Gateway) -> None:
    body = json.dumps({"type": "t", "data": ""}).encode()
    full = body.replace(b'""', b'"' + b"x" * (MOST - len(body)) + b'"')
    assert len(full) == MOST
    assert gateway.post(full).status == 202
    assert gateway.post(full + b" ").status == 413


def test_a_larger_content_length_is_413_before_the_body_is_sent(gateway: Gateway) -> None:
    answer = gateway.exchange(HEAD + b"Content-Length: 2001\r\n\r\n")
    assert (answer.status, answer.headers["Connection"]) == (413, "close")


def test_a_larger_body_without_a_length_is_413_by_its_bytes(gateway: Gateway, raw: Any) -> None:
    answer = gateway.exchange(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b" " * 1500) * 2)
    assert (answer.status, answer.headers["Connection"]) == (413, "close")
    assert not raw.exists("ingest")


def test_a_chunked_body_within_the_limit_is_taken(gateway: Gateway, raw: Any) -> None:
    answer = gateway.exchange(
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(EVENT[:5]) + chunk(EVENT[5:]) + chunk(b"")
    )
    assert answer.status == 202
    assert raw.xlen("ingest") == 1


def test_the_answer_to_a_far_too_large_body_reaches_a_client_that_is_still_sending(gateway: Gateway) -> None:
    assert gateway.exchange(HEAD + b"Content-Length: 3000000\r\n\r\n" + b"x" * 3_000_000).status == 413


# Slowness


@pytest.mark.parametrize("start", [b"P", HEAD, HEAD + b"X-A: b"], ids=["method", "headers", "header"])
def test_a_head_that_does_not_end_is_408(gateway: Gateway, start: bytes) -> None:
    answer = gateway.exchange(start)
    assert (answer.status, answer.headers["Connection"]) == (408, "close")


def test_a_head_that_dribbles_in_gains_no_time(gateway: Gateway) -> None:
    with gateway.connect() as client:
        client.sendall(HEAD + b"X-Long: ")
        while silent(client, 0.02):
            client.sendall(b"x")
        assert read_answer(client).status == 408


def test_a_connection_that_says_nothing_is_closed_without_a_word(gateway: Gateway) -> None:
    with gateway.connect() as client:
        assert client.recv(1) == b""


@pytest.mark.parametrize("start", [b"", EVENT[:5]], ids=["nothing", "half"])
def test_a_body_that_does_not_come_is_408(gateway: Gateway, raw: Any, start: bytes) -> None:
    answer = gateway.exchange(HEAD + b"Content-Length: 12\r\n\r\n" + start)
    assert (answer.status, answer.headers["Connection"]) == (408, "close")
    assert not raw.exists("ingest")


def test_a_body_that_dribbles_in_gains_no_time(gateway: Gateway) -> None:
    with gateway.connect() as client:
        client.sendall(HEAD + b"Content-Length: 1999\r\n\r\n")
        while silent(client, 0.02):
            client.sendall(b" ")
        assert read_answer(client).status == 408


def test_an_idle_connection_outlives_the_deadline_for_heads(gateway: Gateway) -> None:
    with gateway.connect() as client:
        for _ in range(2):
            client.sendall(REQUEST)
            assert read_answer(client).status == 202
            assert silent(client, 0.5)
        client.sendall(HEAD)
        assert read_answer(client).status == 408, "a later head has the same deadline"


def test_requests_in_a_row_are_answered_in_a_row(gateway: Gateway) -> None:
    with gateway.connect() as client:
        client.sendall(REQUEST * 3 + HEAD.replace(b"POST", b"GET") + b"Connection: close\r\n\r\n")
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.count(b"HTTP/1.1 202") == 3
    assert received.count(b"HTTP/1.1 405") == 1


# Asking first


def test_a_client_that_waits_for_100_continue_gets_it(gateway: Gateway) -> None:
    with gateway.connect() as client:
        client.sendall(HEAD + b"Content-Length: 12\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(EVENT)
        assert read_answer(client).status == 202


def test_a_client_that_waits_for_100_continue_is_spared_a_body_that_will_be_refused(gateway: Gateway) -> None:
    assert gateway.exchange(HEAD + b"Content-Length: 9999\r\nExpect: 100-continue\r\n\r\n").status == 413
    form = HEAD.replace(b"application/json", b"text/plain")
    assert gateway.exchange(form + b"Content-Length: 12\r\nExpect: 100-continue\r\n\r\n").status == 415


# Not HTTP


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\nnonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\n\r\n",
        b"GET /readyz HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nNo colon\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nA: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: 12\r\nContent-Length: 13\r\n\r\n" + EVENT,
        HEAD + b"Content-Length: 12\r\nTransfer-Encoding: chunked\r\n\r\n" + EVENT,
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    ],
    ids=lambda data: repr(data[-25:]),
)
def test_what_is_not_http_is_400(gateway: Gateway, raw: Any, data: bytes) -> None:
    assert gateway.exchange(data).status == 400
    assert not raw.exists("ingest")


def test_a_body_with_broken_chunks_is_refused(gateway: Gateway, raw: Any) -> None:
    assert gateway.exchange(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\n{\r\n").status in (400, 408)
    assert gateway.exchange(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n").status in (400, 408)
    assert not raw.exists("ingest")


def test_a_client_that_leaves_in_the_middle_harms_nobody(gateway: Gateway, raw: Any) -> None:
    for start in (b"", HEAD, HEAD + b"Content-Length: 12\r\n\r\n", HEAD + b"Content-Length: 12\r\n\r\n" + EVENT[:5]):
        with gateway.connect() as client:
            client.sendall(start)
    assert gateway.post({"type": "t"}).status == 202
    assert raw.xlen("ingest") == 1


# Number


def test_connections_above_the_cap_get_429_until_one_ends(server: Server, tmp_path: Path) -> None:
    with (
        running_gateway(
            server,
            tmp_path,
            PENSTOCK_GATEWAY_MAX_CONNECTIONS="3",
            PENSTOCK_GATEWAY_MAX_PEER_CONNECTIONS="3",
        ) as gateway,
        contextlib.ExitStack() as stack,
    ):

        def connected() -> bool:
            client = stack.enter_context(gateway.connect())
            client.sendall(REQUEST)
            return read_answer(client).status == 202

        for _ in range(3):
            eventually(connected, what="the connections of before are gone")
        with gateway.connect() as fourth:
            refusal = read_answer(fourth)  # nothing was sent
            assert (refusal.status, refusal.headers["Retry-After"]) == (429, "1")
            for _ in range(2):
                fourth.sendall(REQUEST)  # no reset: one that is sending meanwhile reads its answer
        stack.close()
        eventually(lambda: gateway.post({"type": "t"}).status == 202, what="there is room again")


def test_probes_are_answered_however_many_connections_there_are(server: Server, tmp_path: Path) -> None:
    limits = {"PENSTOCK_GATEWAY_MAX_CONNECTIONS": "50", "PENSTOCK_GATEWAY_MAX_PEER_CONNECTIONS": "50"}
    with running_gateway(server, tmp_path, **limits) as gateway, contextlib.ExitStack() as stack:
        for _ in range(150):  # more than there is room for, spare room included; none of them sends anything
            stack.enter_context(gateway.connect())
        for path in ("/livez", "/readyz"):
            assert gateway.get(path).status == 200
        assert gateway.post({"type": "t"}).status == 429


def test_who_does_not_read_the_answers_makes_room_for_others(server: Server, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path) as gateway, contextlib.ExitStack() as stack:
        look = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for number in range(1_000):  # all that there may be
            client = stack.enter_context(contextlib.closing(socket.socket()))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.bind((f"127.0.0.{2 + number % 5}", 0))
            client.connect(("127.0.0.1", gateway.port))
            client.sendall(look * 10)  # each answer has a hundred kilobytes, and nobody reads them
            if number % 100 == 99:
                assert [gateway.get(path).status for path in ("/livez", "/readyz")] == [200, 200], number
        eventually(lambda: gateway.post({"type": "t"}).status == 202, what="one of them has made room")
        for _ in range(5):
            assert gateway.post({"type": "t"}).status == 202
        for path in ("/livez", "/readyz"):
            assert gateway.get(path).status == 200


def test_a_client_that_reads_nothing_is_not_waited_for(server: Server, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path, PENSTOCK_GATEWAY_SEND_TIMEOUT="0.3") as gateway, gateway.connect() as client:
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)

        def ended() -> bool:
            try:
                client.sendall(b"\r\n")
            except OSError:
                return True
            return False

        eventually(ended, what="the connection is ended")


def test_one_address_cannot_have_every_connection(server: Server, tmp_path: Path) -> None:
    limits = {"PENSTOCK_GATEWAY_MAX_CONNECTIONS": "10", "PENSTOCK_GATEWAY_MAX_PEER_CONNECTIONS": "4"}
    with running_gateway(server, tmp_path, **limits) as gateway, contextlib.ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(contextlib.closing(socket.socket()))
            client.bind(("127.0.0.2", 0))
            client.connect(("127.0.0.1", gateway.port))
        assert gateway.post({"type": "t"}).status == 202
