"""Spans of HTTP, as a receiver of OTLP sees them: what was answered, refusals too, and what was asked of others."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.alerts import make_alert
from tests.gateways import Gateway, running_gateway
from tests.notifiers import Mesh
from tests.otlp import ReceivedSpan, Receiver, otlp_receiver
from tests.processes import eventually, service_process
from tests.servers import Server
from tests.standins import Reply, StandIn

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
OTHER = "11111111111111111111111111111111"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def gateway(_shared_server: Server, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    env = {
        **exporting(receiver),
        "PENSTOCK_GATEWAY_MAX_BODY": "1000",
        "PENSTOCK_GATEWAY_HEAD_TIMEOUT": "0.5",
        "PENSTOCK_DEMO_WEBHOOK": "true",
    }
    with running_gateway(_shared_server, tmp_path_factory.mktemp("gateway"), **env) as gateway:
        yield gateway


def exporting(receiver: Receiver) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }


def next_span(receiver: Receiver, known: int) -> ReceivedSpan:
    """Return the one server span that has arrived beyond those that were `known`."""
    eventually(lambda: len(servers(receiver)) > known, what="a server span")
    [span] = servers(receiver)[known:]
    return span


def servers(receiver: Receiver) -> list[ReceivedSpan]:
    return [span for span in receiver.spans if span.kind == "server"]


def request(head: str, body: str = "", **headers: str) -> bytes:
    given = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{head} HTTP/1.1\r\n{lines}\r\n{body}".encode()


JSON = {"Content-Type": "application/json"}
ANSWERS = {
    "accepted": (request("POST /v1/events", '{"type":"t"}', **JSON), 202, "POST /v1/events"),
    "no JSON": (request("POST /v1/events", '{"type":', **JSON), 400, "POST /v1/events"),
    "not valid": (request("POST /v1/events", '{"type":""}', **JSON), 422, "POST /v1/events"),
    "no such stream": (request("POST /v1/events?stream=x", '{"type":"t"}', **JSON), 422, "POST /v1/events"),
    "too large": (request("POST /v1/events", "x" * 2_000, **JSON), 413, "POST /v1/events"),
    "no media type": (request("POST /v1/events", '{"type":"t"}'), 415, "POST /v1/events"),
    "not signed": (request("POST /webhooks/demo", "{}", **JSON), 401, "POST /webhooks/{source}"),
    "another site's": (request("GET /v1/jobs/x", **{"Sec-Fetch-Site": "cross-site"}), 403, "GET /v1/jobs/{job_id}"),
    "another name": (request("GET /v1/jobs/x", Host="evil.example"), 421, "GET /v1/jobs/{job_id}"),
    "unknown job": (request("GET /v1/jobs/x"), 404, "GET /v1/jobs/{job_id}"),
    "nowhere": (request("GET /nowhere/at/all"), 404, "GET"),
    "wrong method": (request("PUT /v1/events"), 405, "PUT"),
    "odd method": (request("PURGE /v1/events"), 405, "HTTP"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_request_has_a_span_with_the_status_that_was_answered(
    gateway: Gateway, receiver: Receiver, raw: Any, case: str
) -> None:
    sent, status, name = ANSWERS[case]
    known = len(servers(receiver))
    method, target, _ = sent.decode().split(" ", 2)
    assert gateway.exchange(sent, method).status == status
    span = next_span(receiver, known)
    path, _, query = target.partition("?")
    host = "evil.example" if b"evil" in sent else "localhost"
    expected = {
        "http.request.method": "_OTHER" if method == "PURGE" else method,
        "http.response.status_code": status,
        "url.scheme": "http",
        "url.path": path,
        "network.protocol.version": "1.1",
        "server.address": host,
        "server.port": 80,
    }
    if " " in name:
        expected["http.route"] = name.partition(" ")[2]
    if query:
        expected["url.query"] = "stream=***"
    if method == "PURGE":
        expected["http.request.method_original"] = "PURGE"
    assert span.attributes == expected
    assert (span.name, span.service, span.failed) == (name, "gateway", False)
    assert span.start < span.end


def test_what_is_no_http_has_a_span(gateway: Gateway, receiver: Receiver) -> None:
    known = len(servers(receiver))
    assert gateway.exchange(b"\x16\x03\x01 hello\r\n\r\n").status == 400
    span = next_span(receiver, known)
    expected = {"http.request.method": "_OTHER", "url.scheme": "http", "http.response.status_code": 400}
    assert (span.name, span.attributes, span.failed) == ("HTTP", expected, False)
    assert 0 < span.start <= span.end


def test_headers_beyond_all_measure_have_a_span(gateway: Gateway, receiver: Receiver) -> None:
    known = len(servers(receiver))
    status = gateway.exchange(request("GET /v1/jobs/x", **{"X-Large": "x" * 20_000})).status
    assert status in (400, 431)
    assert next_span(receiver, known).attributes["http.response.status_code"] == status


def test_a_head_that_does_not_arrive_in_time_has_a_span(gateway: Gateway, receiver: Receiver) -> None:
    known = len(servers(receiver))
    assert gateway.exchange(b"POST /v1/ev").status == 408
    assert next_span(receiver, known).attributes["http.response.status_code"] == 408


def test_a_refusal_because_too_much_waits_has_a_span(
    server: Server, receiver: Receiver, raw: Any, tmp_path: Path
) -> None:
    for _ in range(3):
        raw.xadd("ingest", {"type": "t"})
    known = len(servers(receiver))
    with running_gateway(server, tmp_path, **exporting(receiver), PENSTOCK_GATEWAY_MAX_BACKLOG="1") as gateway:
        assert gateway.post({"type": "t"}).status == 429
        span = next_span(receiver, known)
    assert (span.attributes["http.response.status_code"], span.failed) == (429, False)


def test_probes_and_scrapes_have_none(gateway: Gateway, receiver: Receiver) -> None:
    known = len(servers(receiver))
    for path in ("/livez", "/readyz", "/metrics"):
        assert gateway.get(path).status == 200
    assert gateway.get("/openapi.json").status == 200
    assert next_span(receiver, known).name == "GET /openapi.json"


def test_a_host_and_a_path_that_are_no_text_cost_no_span(gateway: Gateway, receiver: Receiver) -> None:
    known = len(servers(receiver))
    sent = b"GET /v1/jobs/%ff HTTP/1.1\r\nHost: \xff\xfe:x\r\n\r\n"
    assert gateway.exchange(sent, "GET").status == 421
    span = next_span(receiver, known)
    assert span.attributes["url.path"] == "/v1/jobs/%ff"


# What comes of a request


def spans_named(receiver: Receiver, trace_id: str, name: str) -> list[ReceivedSpan]:
    return [span for span in receiver.spans if (span.trace_id, span.name) == (trace_id, name)]


def wait_for(receiver: Receiver, trace_id: str, name: str, count: int = 1) -> list[ReceivedSpan]:
    eventually(lambda: len(spans_named(receiver, trace_id, name)) >= count, what=f"{count} x {name} of {trace_id}")
    return spans_named(receiver, trace_id, name)


def test_a_batch_has_one_span_and_below_it_one_for_each_event(gateway: Gateway, receiver: Receiver, raw: Any) -> None:
    events = [{"type": "t"}, {"type": "t"}, {"type": "t", "traceparent": f"00-{OTHER}-{PARENT}-01"}]
    answer = gateway.post(events, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert answer.status == 202
    jobs = answer.json["jobs"]
    sent = wait_for(receiver, TRACE, "send ingest", 2)
    [server] = wait_for(receiver, TRACE, "POST /v1/events")
    assert server.parent == PARENT
    assert {span.parent for span in sent} == {server.span_id}
    assert {span.attributes["messaging.message.id"] for span in sent} == {job["job_id"] for job in jobs[:2]}
    [own] = wait_for(receiver, OTHER, "send ingest")
    assert (own.parent, own.links) == (PARENT, [(TRACE, server.span_id)]), "it stays in the trace it names"
    assert own.attributes["messaging.message.id"] == jobs[2]["job_id"]
    assert own.attributes["server.address"]
    assert [job["trace_id"] for job in jobs] == [TRACE, TRACE, OTHER]


def test_events_of_a_batch_without_a_trace_have_one_each(gateway: Gateway, receiver: Receiver, raw: Any) -> None:
    known = len(servers(receiver))
    jobs = gateway.post([{"type": "t"}, {"type": "t"}]).json["jobs"]
    server = next_span(receiver, known)
    traces = {job["trace_id"] for job in jobs}
    assert len(traces | {server.trace_id}) == 3
    for trace_id in traces:
        [sent] = wait_for(receiver, trace_id, "send ingest")
        assert (sent.parent, sent.links) == ("", [(server.trace_id, server.span_id)])


def test_an_event_alone_is_in_the_trace_of_its_request(gateway: Gateway, receiver: Receiver, raw: Any) -> None:
    trace_id = gateway.post({"type": "t"}).json["trace_id"]
    [sent] = wait_for(receiver, trace_id, "send ingest")
    [server] = wait_for(receiver, trace_id, "POST /v1/events")
    assert (server.parent, sent.parent) == ("", server.span_id)


def test_503_is_a_failure_and_kept_though_its_trace_is_not_sampled(
    own_server: Server, receiver: Receiver, tmp_path: Path
) -> None:
    env = {**exporting(receiver), "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    known = len(servers(receiver))
    with running_gateway(own_server, tmp_path, **env) as gateway:
        assert gateway.post({"type": "t"}).status == 202
        own_server.stop()
        answer = gateway.post({"type": "t"})
        assert answer.status == 503
        span = next_span(receiver, known)
    assert span.attributes["http.response.status_code"] == 503
    assert span.attributes["error.type"]
    assert (span.failed, span.error) == (True, answer.detail)


# What is asked of others


def test_what_a_job_asks_of_others_is_said_without_its_secrets(server: Server, receiver: Receiver, raw: Any) -> None:
    env = {**exporting(receiver), "REDIS_URL": server.url, "PENSTOCK_ALLOWED_TARGETS": "127.0.0.0/8"}
    secret = "t0ken-of-mine"
    with StandIn() as target, service_process("-m", "penstock_services.worker", env=env):
        target.script.append(Reply(503, f"{secret} is fine, but I am not"))
        port = target.base.rpartition(":")[2]
        url = f"http://{secret}@127.0.0.1:{port}/hook?key={secret}"
        fields = {"type": "http.request", "traceparent": f"00-{TRACE}-{PARENT}-01"}
        raw.xadd("ingest", {**fields, "data": json.dumps({"url": url, "method": "POST"})})
        [call] = wait_for(receiver, TRACE, "POST")
        raw.xadd("ingest", {**fields, "data": json.dumps({"url": f"http://{secret}@127.0.0.1:0/", "method": "HEAD"})})
        [wrong] = wait_for(receiver, TRACE, "HEAD")
    expected = {
        "http.request.method": "POST",
        "url.full": f"http://***@127.0.0.1:{port}/hook?key=***",
        "server.address": "127.0.0.1",
        "server.port": int(port),
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert call.attributes == expected
    assert (call.failed, call.error) == (True, "503 Service Unavailable: *** is fine, but I am not")
    assert wrong.failed
    assert wrong.attributes["error.type"] != "TryAgain"
    assert secret not in repr(receiver.spans)


def test_the_span_of_a_delivery_holds_no_secret_of_its_channel(
    server: Server, receiver: Receiver, raw: Any, tmp_path: Path
) -> None:
    with StandIn() as target:
        notify = f'channels:\n  hook: {{type: webhook, url: "{target.url}"}}\nroutes: [{{channels: [hook]}}]\n'
        mesh = Mesh(server, raw, tmp_path, notify, **exporting(receiver))
        target.script.append(Reply(500, f"{target.path} is out of order"))
        with mesh.notifier():
            mesh.tell(make_alert())
            found = functools.partial(deliveries, receiver)
            eventually(found)
    [call] = found()
    assert (call.attributes["error.type"], call.failed) == ("500", True)
    assert call.error.startswith("500: ")
    assert "secret-part-of-the-address" not in repr(receiver.spans)


def deliveries(receiver: Receiver) -> list[ReceivedSpan]:
    return [span for span in receiver.spans if span.name == "deliver hook" and span.failed]
