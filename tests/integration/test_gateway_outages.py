"""Redis away, full, read-only, frozen or behind; the gateway asked to stop, or unable to start."""

from __future__ import annotations

import hashlib
import hmac
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from penstock.redis.connection import client
from penstock.streams.lag import LagCounter
from penstock.topology import load
from penstock_services.gateway.schemes import SCHEMES
from penstock_services.gateway.upstream import backlog
from tests.gateways import Answer, Gateway, read_answer, running_gateway
from tests.processes import eventually, service_process
from tests.servers import Server, free_port, required_kinds

EVENT = {"type": "t"}
HEAD = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"
on_every_server = pytest.mark.parametrize("own_server", required_kinds(), indirect=True)


def assert_unavailable(answer: Answer, reason: str) -> None:
    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert reason in answer.detail


@on_every_server
def test_while_redis_is_down_all_is_503_but_livez_and_then_all_goes_on(own_server: Server, tmp_path: Path) -> None:
    with running_gateway(own_server, tmp_path) as gateway:
        own_server.stop()
        assert_unavailable(gateway.post(EVENT), "cannot connect")
        assert_unavailable(gateway.post([EVENT, EVENT], {"Idempotency-Key": "k"}), "cannot connect")
        assert_unavailable(gateway.get("/v1/jobs/ingest-1-0"), "cannot connect")
        eventually(lambda: gateway.get("/readyz").status == 503)
        assert_unavailable(gateway.get("/readyz"), "cannot connect")
        assert gateway.get("/livez").status == 200
        own_server.start()
        assert gateway.post(EVENT).status == 202, "the next request finds it back"
        eventually(gateway.ready)
        with own_server.client() as raw:
            assert raw.xlen("ingest") == 1


def test_more_requests_at_once_than_there_are_connections_to_redis_are_all_answered(
    own_server: Server, tmp_path: Path
) -> None:
    with running_gateway(own_server, tmp_path) as gateway, own_server.client() as raw:
        path = f"/v1/jobs/{gateway.post(EVENT).json['job_id']}"
        raw.execute_command("CLIENT PAUSE", 1_000, "ALL")  # so that they are all there before one is answered
        with ThreadPoolExecutor(150) as threads:
            answers = list(threads.map(lambda _: gateway.get(path), range(150)))

    assert [answer.body for answer in answers if answer.status != 200] == []


@on_every_server
def test_out_of_memory_is_503_and_nothing_is_half_enqueued(own_server: Server, tmp_path: Path) -> None:
    key = {"Idempotency-Key": "k"}
    with running_gateway(own_server, tmp_path) as gateway, own_server.client() as raw:
        raw.config_set("maxmemory", 1)
        assert_unavailable(gateway.post(EVENT, key), "out of memory")
        assert_unavailable(gateway.post([EVENT, {**EVENT, "id": "e-1"}]), "out of memory")
        assert raw.keys("dedupe:*") == []
        assert not raw.exists("ingest")
        raw.config_set("maxmemory", 0)
        answer = gateway.post(EVENT, key)
        assert (answer.status, "duplicate" in answer.json) == (202, False)
        assert raw.xlen("ingest") == 1


@on_every_server
def test_a_read_only_replica_is_503(own_server: Server, tmp_path: Path) -> None:
    with running_gateway(own_server, tmp_path) as gateway, own_server.client() as raw:
        raw.replicaof("127.0.0.1", free_port())
        assert_unavailable(gateway.post(EVENT), "read-only")
        raw.replicaof("NO", "ONE")
        assert gateway.post(EVENT).status == 202


def test_a_frozen_redis_is_503_and_a_key_makes_the_next_try_safe(own_server: Server, tmp_path: Path) -> None:
    key = {"Idempotency-Key": "k"}
    with running_gateway(own_server, tmp_path) as gateway:
        assert own_server.process is not None
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            eventually(lambda: gateway.get("/readyz").status == 503)
            assert_unavailable(gateway.post(EVENT, key), "Redis is unavailable")
        finally:
            own_server.process.send_signal(signal.SIGCONT)
        assert gateway.post(EVENT, key).status == 202
        with own_server.client() as raw:
            assert raw.xlen("ingest") == 1


def test_a_webhook_is_answered_within_the_time_of_its_source_and_the_next_try_is_the_same_job(
    own_server: Server, tmp_path: Path
) -> None:
    (tmp_path / "streams.yaml").write_text(
        "streams: {ingest: {}}\n"
        "services: {gateway: {publishes: [ingest]}}\n"
        "webhooks: {hasty: {scheme: github, secret: HASTY_SECRET, type: push, answer_within: 100ms}}\n"
    )
    secret, body = "a secret of some length", b"{}"
    signature = {"X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}
    env = {"PENSTOCK_TOPOLOGY": str(tmp_path / "streams.yaml"), "HASTY_SECRET": secret}
    with running_gateway(own_server, tmp_path, **env) as gateway:
        assert own_server.process is not None
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            refused = gateway.post(body, signature, path="/webhooks/hasty")
        finally:
            own_server.process.send_signal(signal.SIGCONT)
        assert_unavailable(refused, "did not take it in time")
        assert gateway.post(body, signature, path="/webhooks/hasty").status == 202
        with own_server.client() as raw:
            assert raw.xlen("ingest") == 1


# Slack gives up after 3 s and Shopify after 5 s. Redis is given 5 s for a reply, which the patient one waits for.
def test_a_source_that_gives_up_sooner_than_others_is_answered_sooner(own_server: Server, tmp_path: Path) -> None:
    (tmp_path / "streams.yaml").write_text(
        "streams: {ingest: {}}\n"
        "services: {gateway: {publishes: [ingest]}}\n"
        "webhooks:\n"
        "  slack: {scheme: slack, secret: HOOK, type: t}\n"
        "  shopify: {scheme: shopify, secret: HOOK, type: t}\n"
        "  patient: {scheme: slack, secret: HOOK, type: t, answer_within: 30s}\n"
    )
    env = {"PENSTOCK_TOPOLOGY": str(tmp_path / "streams.yaml"), "HOOK": "a secret of some length"}
    hooks = load(tmp_path / "streams.yaml").webhooks
    with running_gateway(own_server, tmp_path, **env) as gateway, ThreadPoolExecutor() as pool:

        def send(name: str) -> Answer:
            signed = SCHEMES[hooks[name].scheme](env["HOOK"], hooks[name]).sign(b"{}", time.time())
            return gateway.post(b"{}", signed.headers, path=f"/webhooks/{name}")

        assert own_server.process is not None
        own_server.process.send_signal(signal.SIGSTOP)
        try:
            answers = dict(zip(hooks, pool.map(send, hooks), strict=True))
        finally:
            own_server.process.send_signal(signal.SIGCONT)
        for name in ("slack", "shopify"):
            assert_unavailable(answers[name], "did not take it in time")
        assert_unavailable(answers["patient"], "Redis is unavailable")
        assert send("slack").status == 202


def test_a_backlog_above_the_mark_is_429_until_it_is_worked_off(server: Server, raw: Any, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path, PENSTOCK_GATEWAY_MAX_BACKLOG="2") as gateway:

        def refused() -> Answer | None:
            answer = gateway.post(EVENT)
            return answer if answer.status == 429 else None

        eventually(refused, what="nobody reads: every entry waits")
        raw.xgroup_create("ingest", "worker", "0")
        ((_, rows),) = raw.xreadgroup("worker", "w-1", {"ingest": ">"})
        answer = refused()
        assert answer is not None
        assert int(answer.headers["Retry-After"]) > 0
        assert "ingest" in answer.detail
        assert raw.xlen("ingest") == len(rows), "a refused event is not enqueued"
        raw.xack("ingest", "worker", *(entry_id for entry_id, _ in rows))
        eventually(lambda: gateway.post(EVENT).status == 202)


async def test_the_backlog_is_that_of_the_group_that_is_farthest_behind(server: Server, raw: Any) -> None:
    async with client(server.url) as redis:
        lags = LagCounter(redis)
        assert await backlog(redis, lags, "ingest", ["worker"]) == 0, "there is no stream yet"
        for _ in range(5):
            raw.xadd("ingest", {"type": "t"})
        assert await backlog(redis, lags, "ingest", ["worker"]) == 5, "there is no group yet"
        assert await backlog(redis, lags, "ingest", []) == 0, "nobody wants them"
        raw.xgroup_create("ingest", "worker", "0")
        raw.xgroup_create("ingest", "audit", "$")
        raw.xreadgroup("worker", "w-1", {"ingest": ">"}, count=3)
        assert await backlog(redis, lags, "ingest", ["worker"]) == 5, "what is in flight is not done either"
        raw.xack("ingest", "worker", raw.xrange("ingest")[0][0])
        assert await backlog(redis, lags, "ingest", ["audit", "worker"]) == 4
        assert await backlog(redis, lags, "ingest", ["audit"]) == 0
        raw.xgroup_setid("ingest", "worker", raw.xrange("ingest")[2][0])
        raw.xdel("ingest", raw.xrange("ingest")[1][0])
        assert await backlog(redis, lags, "ingest", ["worker"]) == 4, "it is counted where Redis cannot tell"


def test_a_stream_key_of_another_kind_is_503_and_says_so(server: Server, raw: Any, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path) as gateway:
        raw.set("ingest", "no stream")
        assert_unavailable(gateway.post(EVENT), "ingest holds a string")


# Stopping


def refuses(gateway: Gateway) -> bool:
    try:
        gateway.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_lets_a_request_under_way_end_and_takes_no_other(server: Server, raw: Any, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path) as gateway, gateway.connect() as slow, gateway.connect() as idle:
        for client, start in ((slow, HEAD + b'{"typ'), (idle, HEAD + b'{"type":"u"}')):
            client.sendall(start)
        assert read_answer(idle).status == 202
        gateway.process.terminate()
        eventually(lambda: refuses(gateway))
        idle.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = read_answer(idle)
        assert (answer.status, answer.headers["Connection"]) == (503, "close")
        assert "stopping" in answer.detail
        slow.sendall(b'e":"t"}')
        answer = read_answer(slow)
        assert (answer.status, answer.headers["Connection"]) == (202, "close")
        assert gateway.process.wait(20) == 0
    assert raw.xlen("ingest") == 2


def test_a_request_that_never_ends_delays_the_end_by_the_grace_time_only(server: Server, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path, PENSTOCK_DRAIN_TIMEOUT="0.2") as gateway, gateway.connect() as slow:
        slow.sendall(HEAD + b'{"typ')
        eventually(lambda: slow_is_under_way(gateway))
        gateway.process.terminate()
        assert gateway.process.wait(20) == 0
        assert any("grace time is over" in line["event"] for line in gateway.logged())


def slow_is_under_way(gateway: Gateway) -> bool:
    """One round trip later the gateway has read what was sent before."""
    return gateway.get("/livez").status == 200


# Starting


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_taken_port_is_a_sentence_that_names_the_variable(server: Server, tmp_path: Path, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = failure(server, tmp_path, PENSTOCK_GATEWAY_HOST=host, PENSTOCK_GATEWAY_PORT=str(port))
    assert f"PENSTOCK_GATEWAY_PORT: {host}:{port} is taken" in said


def test_an_address_of_another_machine_is_a_sentence_that_names_the_variable(server: Server, tmp_path: Path) -> None:
    env = {"PENSTOCK_GATEWAY_HOST": "192.0.2.1", "PENSTOCK_GATEWAY_OPEN": "true"}
    said = failure(server, tmp_path, PENSTOCK_GATEWAY_PORT=str(free_port()), **env)
    assert "PENSTOCK_GATEWAY_HOST: cannot listen on 192.0.2.1" in said


def failure(server: Server, folder: Path, **env: str) -> str:
    """Run a gateway that cannot start; return what it says."""
    log = folder / "log"
    with service_process("-m", "penstock_services.gateway", env={"REDIS_URL": server.url, **env}, log=log) as process:
        assert process.wait(20) == 2
    assert "Traceback" not in log.read_text()
    return log.read_text()
