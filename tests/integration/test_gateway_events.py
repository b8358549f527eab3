"""`POST /v1/events` and `GET /v1/jobs/{id}`, against a real gateway process and a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.jobs.record import Job
from penstock.keys import Keys
from tests.gateways import JSON, Gateway, running_gateway
from tests.processes import service_process
from tests.servers import Server, free_port

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def gateway(_shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(_shared_server, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def entries(raw: Any, stream: str = "ingest") -> list[dict[str, str]]:
    return [
        {name.decode(): value.decode() for name, value in fields.items()} | {"entry": entry_id.decode()}
        for entry_id, fields in raw.xrange(stream)
    ]


# One event


def test_an_event_is_in_the_stream_when_202_arrives(gateway: Gateway, raw: Any) -> None:
    answer = gateway.post({"type": "ticket.created", "data": {"ticket_id": "T-1"}})
    (entry,) = entries(raw)
    assert answer.status == 202
    assert answer.json == {
        "status": "accepted",
        "job_id": entry["id"],
        "trace_id": entry["traceparent"].split("-")[1],
    }
    assert entry["type"] == "ticket.created"
    assert entry["data"] == '{"ticket_id": "T-1"}'
    assert entry["source"] == "gateway"
    assert re.fullmatch(r"[0-9a-f]{32}", entry["id"])


def test_every_attribute_reaches_the_stream_as_it_was_sent(gateway: Gateway, raw: Any) -> None:
    event = {
        "type": "order.paid",
        "id": "o-1",
        "source": "shop",
        "time": "2026-11-22T10:00:00+01:00",
        "subject": "order/1",
        "tenant": "acme",
        "cause": "c-1",
        "causesource": "crm",
        "region": "eu",
        "größe": "ü",
    }
    answer = gateway.post(b'{"data": [1.10, 12345678901234567890123],' + json.dumps(event).encode()[1:])
    (entry,) = entries(raw)
    assert answer.json["job_id"] == entry["id"]
    told = {**event, "source": "gateway/shop", "id": entry["id"], "sender_id": "o-1"}
    assert entry | told == entry
    assert entry["data"] == "[1.10, 12345678901234567890123]"


def test_numbers_and_booleans_of_your_own_become_text_and_null_is_absent(gateway: Gateway, raw: Any) -> None:
    assert gateway.post({"type": "t", "count": 3, "urgent": True, "none": None, "id": None}).status == 202
    (entry,) = entries(raw)
    assert (entry["count"], entry["urgent"]) == ("3", "true")
    assert not {"none", "sender_id"} & set(entry)


@pytest.mark.parametrize(
    ("event", "named"),
    [
        ({}, "type"),
        ({"type": ""}, "type"),
        ({"type": 1}, "type"),
        ({"type": None}, "type"),
        ({"type": "x" * 256}, "type"),
        ({"type": "t", "id": ""}, "id"),
        ({"type": "t", "id": 7}, "id"),
        ({"type": "t", "time": "yesterday"}, "time"),
        ({"type": "t", "time": "2026-11-22T10:00:00"}, "time"),
        ({"type": "t", "payload": {"ticket_id": "T-1"}}, "payload"),
        ({"type": "t", **{f"x{n}": "" for n in range(101)}}, "attributes"),
        ([], "array"),
        ([{"type": "t"}] * 501, "array"),
        (["t"], "[0]"),
        ([[{"type": "t"}]], "[0]"),
        ("t", "object"),
        (3, "object"),
        (None, "object"),
    ],
)
def test_what_is_no_event_is_422_and_says_where(gateway: Gateway, raw: Any, event: Any, named: str) -> None:
    answer = gateway.post(event)
    assert answer.status == 422
    assert named in answer.detail
    assert not raw.exists("ingest")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"ticket",
        b'{"type":"t"} x',
        b'{"type":"t","data":NaN}',
        b'{"type":"t","data":Infinity}',
        b'{"type":"t","data":1e999}',
        b'{"type":"t","data":01}',
        b'{"type":"t","data":"\xff"}',
        b'{"type":"t","data":{"\xff":1}}',
        b'{"type":"t","data":"\xc0\x80"}',
        b'{"type":"t","data":"\xed\xa0\x80"}',
        b'{"type":"t","data":"\\ud800"}',
        b'{"type":"\\udfff"}',
        b'\xef\xbb\xbf{"type":"t"}',
        '{"type":"t"}'.encode("utf-16"),
        b'{"type":"t","data":' + b"[" * 40_000 + b"]" * 40_000 + b"}",
        b'{"type":"t","data":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"a":' * 16_000 + b"1" + b"}" * 16_000,
        b"[" * 99_000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_not_strict_json_is_400(gateway: Gateway, raw: Any, body: bytes) -> None:
    assert gateway.post(body).status == 400
    assert not raw.exists("ingest")


def test_data_may_be_nested_and_of_two_equal_names_the_last_counts(gateway: Gateway, raw: Any) -> None:
    data = b"[" * 99 + b"]" * 99
    assert gateway.post(b'{"type":"first","type":"last","data":1,"data":' + data + b"}").status == 202
    (entry,) = entries(raw)
    assert (entry["type"], entry["data"]) == ("last", data.decode())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/cloudevents+xml"},
        {**JSON, "Content-Encoding": "gzip"},
    ],
)
def test_other_media_types_and_compressed_bodies_are_415(gateway: Gateway, headers: dict[str, str]) -> None:
    assert gateway.request("POST", "/v1/events", b'{"type":"t"}', headers).status == 415


def test_parameters_and_suffixes_of_the_media_type_are_welcome(gateway: Gateway) -> None:
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.shop+json"):
        assert gateway.post({"type": "t"}, {"Content-Type": kind}).status == 202


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/events", "POST"),
        ("DELETE", "/v1/events", "POST"),
        ("OPTIONS", "/v1/events", "POST"),
        ("GET", "/webhooks/demo", "POST, OPTIONS"),
        ("POST", "/v1/jobs/ingest-1-0", "GET, HEAD"),
        ("PUT", "/readyz", "GET, HEAD"),
    ],
)
def test_another_method_is_405_and_allow_says_which(gateway: Gateway, method: str, path: str, allowed: str) -> None:
    answer = gateway.request(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/events/", "/v1/jobs/", "/webhooks/", "/webhooks/none", "//", "/%ff"])
def test_an_unknown_address_is_404(gateway: Gateway, path: str) -> None:
    assert gateway.request("POST", path).status == 404


# Arrays


def test_an_array_is_answered_in_its_order(gateway: Gateway, raw: Any) -> None:
    answer = gateway.post([{"type": "a"}, {"type": "b", "id": "b-1"}, {"type": "c"}])
    stored = entries(raw)
    assert answer.status == 202
    assert [entry["type"] for entry in stored] == ["a", "b", "c"]
    assert [job["job_id"] for job in answer.json["jobs"]] == [entry["id"] for entry in stored]


@pytest.mark.parametrize("bad", [{"type": 1}, {"type": "t", "extra": []}, {"data": 1}])
def test_one_bad_event_refuses_the_whole_array_by_its_index(gateway: Gateway, raw: Any, bad: Any) -> None:
    answer = gateway.post([{"type": "a"}, {"type": "b"}, bad])
    assert answer.status == 422
    assert answer.detail.startswith("[2]")
    assert not raw.exists("ingest")


# Once


def test_an_id_seen_before_from_its_source_enqueues_nothing(gateway: Gateway, raw: Any) -> None:
    event = {"type": "t", "id": "e-1", "source": "shop"}
    first, again, other = gateway.post(event), gateway.post(event), gateway.post({**event, "source": "till"})
    assert [answer.status for answer in (first, again, other)] == [202, 202, 202]
    assert first.json["job_id"] == again.json["job_id"] != other.json["job_id"]
    assert "duplicate" not in first.json
    assert again.json["duplicate"] is True
    assert "trace_id" not in again.json, "the first one's trace is the job's"
    assert [entry["source"] for entry in entries(raw)] == ["gateway/shop", "gateway/till"]


def test_sources_and_ids_are_not_mixed_up(gateway: Gateway, raw: Any) -> None:
    for source, event_id in (('a","b', "c"), ("a", 'b","c'), ("a:b", "c"), ("a", "b:c")):
        gateway.post({"type": "t", "source": source, "id": event_id})
    assert raw.xlen("ingest") == 4


@pytest.mark.parametrize("again", ['"order-42"', "order-42"])
def test_an_idempotency_key_seen_before_gives_the_same_job(gateway: Gateway, raw: Any, again: str) -> None:
    event = {"type": "t", "data": {"n": 1}}
    first = gateway.post(event, {"Idempotency-Key": '"order-42"'})
    second = gateway.post(event, {"Idempotency-Key": again, "traceparent": TRACEPARENT})
    assert (first.status, second.status) == (202, 202)
    assert first.json["job_id"] == second.json["job_id"]
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert raw.xlen("ingest") == 1


def test_an_idempotency_key_with_another_body_is_422(gateway: Gateway, raw: Any) -> None:
    key = {"Idempotency-Key": "k"}
    assert gateway.post({"type": "t"}, key).status == 202
    for other in ({"type": "u"}, {"type": "t", "data": 1}, {"type": "t", "id": "x"}, [{"type": "t"}, {"type": "t"}]):
        assert gateway.post(other, key).status == 422
    assert raw.xlen("ingest") == 1


def test_an_idempotency_key_holds_for_a_whole_array(gateway: Gateway, raw: Any) -> None:
    key = {"Idempotency-Key": "k"}
    batch = [{"type": "a"}, {"type": "b"}, {"type": "c"}]
    first, again = gateway.post(batch, key), gateway.post(batch, key)
    jobs = [[job["job_id"] for job in answer.json["jobs"]] for answer in (first, again)]
    assert jobs[0] == jobs[1]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert gateway.post([*batch, {"type": "d"}], key).status == 422
    assert raw.xlen("ingest") == 3


def test_an_array_cut_off_in_the_middle_is_completed_by_sending_it_again(gateway: Gateway, raw: Any) -> None:
    key = {"Idempotency-Key": "k"}
    batch = [{"type": "a"}, {"type": "b"}, {"type": "c"}]
    gateway.post(batch, key)
    last = raw.xrevrange("ingest", count=1)[0][0]
    raw.xdel("ingest", last)  # as if the connection to Redis had broken before the last one
    assert raw.delete('dedupe:idempotency:["gateway","k",2]') == 1
    assert gateway.post(batch, key).status == 202
    assert [entry["type"] for entry in entries(raw)] == ["a", "b", "c"]


def test_key_and_id_both_count(gateway: Gateway, raw: Any) -> None:
    event = {"type": "t", "id": "e-1"}
    first = gateway.post(event)
    again = gateway.post(event, {"Idempotency-Key": "k"})
    assert again.json == {"status": "accepted", "job_id": first.json["job_id"], "duplicate": True}
    assert gateway.post({"type": "t", "id": "e-2"}, {"Idempotency-Key": "k"}).status == 422, "the key is taken now"
    assert raw.xlen("ingest") == 1


@pytest.mark.parametrize(
    "key", ['"', '"a', '"a" ; b', "a b", '""', "", "ключ", '"ключ"', "x" * 256, '"' + "x" * 256 + '"']
)
def test_a_malformed_idempotency_key_is_400(gateway: Gateway, raw: Any, key: str) -> None:
    head = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n"
    answer = gateway.exchange(head + b"Idempotency-Key: " + key.encode() + b'\r\n\r\n{"type":"t"}')
    assert answer.status == 400
    assert "Idempotency-Key" in answer.detail
    assert not raw.exists("ingest")


def test_escapes_in_a_quoted_key_are_undone(gateway: Gateway, raw: Any) -> None:
    assert gateway.post({"type": "t"}, {"Idempotency-Key": r'"a\"b\\c d"'}).status == 202
    assert raw.exists("dedupe:idempotency:" + json.dumps(["gateway", r'a"b\c d', 0], separators=(",", ":")))


@pytest.mark.parametrize("headers", [{"Idempotency-Key": "same"}, {}], ids=["key", "id"])
def test_of_fifty_equal_requests_at_once_one_enqueues(gateway: Gateway, raw: Any, headers: dict[str, str]) -> None:
    event = {"type": "t"} if headers else {"type": "t", "id": "same"}
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: gateway.post(event, headers), range(50)))
    assert [answer.status for answer in answers] == [202] * 50
    assert len({answer.json["job_id"] for answer in answers}) == 1
    assert sum("duplicate" in answer.json for answer in answers) == 49
    assert raw.xlen("ingest") == 1


# Traces


def test_the_trace_of_the_request_goes_on_with_a_span_of_its_own(gateway: Gateway, raw: Any) -> None:
    answer = gateway.post({"type": "t"}, {"traceparent": TRACEPARENT, "tracestate": "a=1"})
    (entry,) = entries(raw)
    version, trace, span, flags = entry["traceparent"].split("-")
    assert answer.json["trace_id"] == trace == TRACE
    assert (version, flags) == ("00", "01")
    assert span != "00f067aa0ba902b7"
    assert entry["tracestate"] == "a=1"


def test_an_event_s_own_trace_comes_before_that_of_the_request(gateway: Gateway, raw: Any) -> None:
    event = {"type": "t", "traceparent": TRACEPARENT, "tracestate": "own=1"}
    header = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-00", "tracestate": "request=1"}
    assert gateway.post(event, header).json["trace_id"] == TRACE
    assert entries(raw)[0]["tracestate"] == "own=1"


@pytest.mark.parametrize("bad", ["", "nonsense", f"ff-{TRACE}-00f067aa0ba902b7-01", f"00-{'0' * 32}-{'1' * 16}-00"])
def test_a_malformed_traceparent_starts_a_new_trace(gateway: Gateway, raw: Any, bad: str) -> None:
    answer = gateway.post({"type": "t", "traceparent": bad}, {"traceparent": bad, "tracestate": "a=1"})
    assert answer.status == 202
    assert entries(raw)[0]["traceparent"].split("-")[1] == answer.json["trace_id"] != TRACE
    assert "tracestate" not in entries(raw)[0]


# CloudEvents

CE = {"ce-specversion": "1.0", "ce-id": "e-1", "ce-source": "/shop", "ce-type": "order.paid"}


def test_a_cloudevent_in_binary_mode(gateway: Gateway, raw: Any) -> None:
    headers = {
        **CE,
        "ce-subject": "Z%C3%BCrich%20%22a%22",
        "CE-Region": '"e\\"u"',
        "ce-traceparent": TRACEPARENT,
        "ce-time": "2026-11-22T10:00:00Z",
    }
    answer = gateway.post({"total": 3}, headers)
    (entry,) = entries(raw)
    assert answer.json == {"status": "accepted", "job_id": entry["id"], "trace_id": TRACE}
    assert entry["data"] == '{"total": 3}'
    assert (entry["type"], entry["source"], entry["sender_id"]) == ("order.paid", "gateway//shop", "e-1")
    assert (entry["subject"], entry["region"]) == ('Zürich "a"', 'e"u')
    assert entry["time"] == "2026-11-22T10:00:00Z"
    assert "specversion" not in entry


def test_a_cloudevent_in_binary_mode_needs_no_data(gateway: Gateway, raw: Any) -> None:
    assert gateway.request("POST", "/v1/events", None, CE).status == 202
    assert entries(raw)[0]["data"] == "null"
    assert gateway.request("POST", "/v1/events", b"x", CE).status == 415, "data is JSON, and says so"


def test_cloudevents_in_structured_and_batched_mode(gateway: Gateway, raw: Any) -> None:
    event = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "order.paid", "data": 1, "priority": 2}
    structured = gateway.post(event, {"Content-Type": "application/cloudevents+json; charset=utf-8"})
    batch = gateway.post([event, {**event, "id": "e-2"}], {"Content-Type": "application/cloudevents-batch+json"})
    first, second = batch.json["jobs"]
    assert structured.json["job_id"] == first["job_id"] != second["job_id"]
    assert (first["duplicate"], "duplicate" in second) == (True, False)
    assert [(entry["sender_id"], entry["priority"]) for entry in entries(raw)] == [("e-1", "2"), ("e-2", "2")]


def test_an_empty_batch_of_cloudevents_is_valid(gateway: Gateway) -> None:
    answer = gateway.post([], {"Content-Type": "application/cloudevents-batch+json"})
    assert (answer.status, answer.json) == (202, {"status": "accepted", "jobs": []})


@pytest.mark.parametrize(
    ("headers", "event", "named"),
    [
        ({**CE, "ce-specversion": "0.3"}, {}, "specversion"),
        ({name: value for name, value in CE.items() if name != "ce-id"}, {}, "id"),
        ({name: value for name, value in CE.items() if name != "ce-specversion"}, {}, "specversion"),
        ({**CE, "ce-subject": "%C0%80"}, {}, "ce-subject"),
        ({**CE, "ce-subject": "%FF"}, {}, "ce-subject"),
        ({**CE, "ce-source": ""}, {}, "source"),
        ({"Content-Type": "application/cloudevents+json"}, {"type": "t"}, "`"),
        (
            {"Content-Type": "application/cloudevents+json"},
            {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data_base64": "AA=="},
            "data_base64",
        ),
        (
            {"Content-Type": "application/cloudevents+json"},
            {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "datacontenttype": "text/xml"},
            "datacontenttype",
        ),
        ({"Content-Type": "application/cloudevents-batch+json"}, {"type": "t"}, "array"),
        ({"Content-Type": "application/cloudevents+json"}, [], "object"),
    ],
)
def test_what_is_no_cloudevent_is_422(
    gateway: Gateway, raw: Any, headers: dict[str, str], event: Any, named: str
) -> None:
    answer = gateway.post(event, headers)
    assert answer.status == 422
    assert named in answer.detail
    assert not raw.exists("ingest")


# Jobs


def test_a_job_is_queued_until_somebody_has_begun_it_then_running_and_settled_without_a_record(
    gateway: Gateway, raw: Any
) -> None:
    job_id = gateway.post({"type": "t"}).json["job_id"]
    own = gateway.post({"type": "u", "id": "my/own id"}).json["job_id"]
    assert gateway.get(f"/v1/jobs/{job_id}").json == {"job_id": job_id, "state": "queued", "type": "t"}
    raw.xgroup_create("ingest", "worker", "0")
    assert gateway.get(f"/v1/jobs/{own}").json == {"job_id": own, "state": "queued", "type": "u"}
    assert gateway.get("/v1/jobs/my%2Fown%20id").status == 404, "a sender's own word names no job"
    raw.xreadgroup("worker", "w-1", {"ingest": ">"})
    assert gateway.get(f"/v1/jobs/{job_id}").json["state"] == "running"
    assert gateway.get(f"/v1/jobs/{own}").json["state"] == "running"
    raw.xack("ingest", "worker", *(row["message_id"] for row in raw.xpending_range("ingest", "worker", "-", "+", 9)))
    assert gateway.get(f"/v1/jobs/{own}").json == {"job_id": own, "state": "settled", "type": "u"}


def test_an_id_that_several_sources_have_is_409_until_one_is_named(gateway: Gateway, raw: Any) -> None:
    for source in ("a", "b c"):
        record = msgspec.json.encode(Job(state="completed", type="t", result=source))
        raw.hset(Keys().job("o-1"), source, b"ingest-1-0 " + record)

    answer = gateway.get("/v1/jobs/o-1")
    assert answer.status == 409
    assert answer.detail == "2 sources have an event o-1: a, b c; say which one is meant with ?source="
    assert gateway.get("/v1/jobs/o-1?source=b%20c").json["result"] == "b c"
    assert gateway.get("/v1/jobs/o-1?source=d").status == 404


@pytest.mark.parametrize("state", ["retrying", "completed", "dead"])
def test_the_worker_s_record_of_a_job_is_told_as_it_is(gateway: Gateway, raw: Any, state: Any) -> None:
    job = Job(state=state, type="t", attempts=2, result={"n": 1}, error="E", next_attempt_at="2026-11-22T10:00:00Z")
    raw.hset(Keys().job("j-1"), "redis-cli", b"ingest-1-0 " + msgspec.json.encode(job))
    answer = gateway.get("/v1/jobs/j-1")
    assert answer.status == 200
    assert answer.json == {"job_id": "j-1", **msgspec.to_builtins(job)}


@pytest.mark.parametrize(
    "job_id",
    [
        "none",
        "ingest-1-0",
        "ingest-99999999999999999999-0",
        "ingest-%D9%A1-0",
        "ingest-1-0-0",
        "%00",
        "%20",
        "a" * 6000,
    ],
)
def test_an_unknown_job_is_404(gateway: Gateway, job_id: str) -> None:
    assert gateway.get(f"/v1/jobs/{job_id}").status == 404


# Health


def test_livez_and_readyz_answer_200_and_head_works(gateway: Gateway) -> None:
    for path in ("/livez", "/readyz"):
        assert gateway.get(path).status == 200
        head = gateway.request("HEAD", path)
        assert (head.status, head.body) == (200, b"")


# Clients

CLIENTS = """
streams: {ingest: {}, orders: {kind: work}}
services: {gateway: {publishes: [ingest]}, seller: {consumes: {orders: {}}}}
clients:
  seller: {secret: SELLER, scopes: [publish], streams: [orders], max_body: 200000}
  shop: {secret: SHOP, scopes: [publish, read], tenant: acme, types: ["order.*"], max_body: 200}
  till: {secret: TILL, scopes: [publish, read], tenant: bolt}
  slow: {secret: SLOW, scopes: [publish], rate: 5}
  ops: {secret: OPS, scopes: [publish, read]}
"""
SHOP, TILL, OPS, SLOW, SELLER = ({"Authorization": f"Bearer {letter * 24}"} for letter in "stowe")
JSON = {"Content-Type": "application/json"}
ORDER = {"type": "order.placed", "id": "o-1"}


@pytest.fixture(scope="module")
def guarded(_shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "streams.yaml").write_text(CLIENTS)
    env = {
        "PENSTOCK_TOPOLOGY": str(folder / "streams.yaml"),
        "SHOP": "s" * 24,
        "TILL": "t" * 24,
        "OPS": "o" * 24,
        "SLOW": "w" * 24,
        "SELLER": "e" * 24,
    }
    with running_gateway(_shared_server, folder, **env) as gateway:
        yield gateway


def test_who_sent_an_event_and_whose_it_is_is_not_the_sender_s_to_say(guarded: Gateway, raw: Any) -> None:
    assert guarded.post({**ORDER, "source": "webhook/github", "sender_id": "x"}, SHOP).status == 422
    assert guarded.post({**ORDER, "source": "webhook/github"}, SHOP).status == 202
    assert guarded.post({**ORDER, "tenant": "bolt"}, SHOP).status == 403
    (entry,) = entries(raw)
    assert (entry["source"], entry["tenant"], entry["sender_id"]) == ("client/shop/webhook/github", "acme", "o-1")


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k-1"}], ids=["id", "key"])
def test_nobody_can_claim_what_another_will_send(guarded: Gateway, raw: Any, key: dict[str, str]) -> None:
    first, other = guarded.post(ORDER, {**TILL, **key}), guarded.post(ORDER, {**SHOP, **key})
    assert "duplicate" not in other.json
    assert first.json["job_id"] != other.json["job_id"]
    assert guarded.post(ORDER, {**SHOP, **key}).json["duplicate"] is True


def test_a_job_of_another_tenant_does_not_exist(guarded: Gateway, raw: Any) -> None:
    job = guarded.post(ORDER, SHOP).json["job_id"]
    record = msgspec.json.encode(Job(state="completed", type="t", tenant="acme", result="theirs"))
    for _ in range(2):  # while it waits, and by its record
        found = {name: guarded.request("GET", f"/v1/jobs/{job}", headers=who).status for name, who in WHO.items()}
        assert found == {"shop": 200, "till": 404, "ops": 200, "nobody": 401}
        raw.hset(Keys().job(job), "redis-cli", b"ingest-1-0 " + record)


def test_a_client_publishes_its_types_within_its_size_and_rate(guarded: Gateway, raw: Any) -> None:
    assert guarded.post({"type": "http.request"}, SHOP).status == 403
    assert guarded.post([ORDER, {"type": "http.request"}], SHOP).status == 403
    assert guarded.post({**ORDER, "data": "x" * 200}, SHOP).status == 413
    assert guarded.post(ORDER).status == 401
    assert not raw.exists("ingest")
    answers = [guarded.post([{"type": "t"}] * 5, SLOW) for _ in range(2)]
    assert [answer.status for answer in answers] == [202, 429]
    assert "5 events a second" in answers[1].detail


def test_a_client_publishes_to_its_streams_only(guarded: Gateway, raw: Any) -> None:
    sent = {
        (stream, name): guarded.request("POST", f"/v1/events?stream={stream}", b'{"type":"t"}', {**JSON, **who})
        for stream in ("ingest", "orders")
        for name, who in (("seller", SELLER), ("ops", OPS))
    }
    assert {key: answer.status for key, answer in sent.items()} == {
        ("ingest", "seller"): 403,
        ("orders", "seller"): 202,
        ("ingest", "ops"): 202,
        ("orders", "ops"): 403,
    }
    assert (raw.xlen("ingest"), raw.xlen("orders")) == (1, 1)


def test_a_client_s_own_size_holds_instead_of_the_gateway_s_also_where_it_is_larger(guarded: Gateway, raw: Any) -> None:
    for size, statuses in ((150_000, (202, 413)), (200_000, (413, 413))):
        body = b'{"type":"t","data":"%b"}' % (b"x" * size)
        sent = [
            guarded.request("POST", f"/v1/events?stream={stream}", body, {**JSON, **who})
            for stream, who in (("orders", SELLER), ("ingest", OPS))
        ]
        assert tuple(answer.status for answer in sent) == statuses


WHO: dict[str, dict[str, str]] = {"shop": SHOP, "till": TILL, "ops": OPS, "nobody": {}}


@pytest.mark.parametrize("attribute", ["type", "id", "subject", "source", "tenant"])
def test_a_line_break_forges_no_line(gateway: Gateway, raw: Any, attribute: str) -> None:
    for text in ("a\nb", "a\n", "\x7f", "\x00", "a\x85b", "\x9b31m", "a\u2028b", "\u2029"):
        answer = gateway.post({"type": "t", attribute: text})
        assert (answer.status, f"{attribute}: holds control characters" in answer.detail) == (422, True)


@pytest.mark.parametrize("name", ["retry.entry", "dlq.reason", "delivery", "links"])
def test_what_the_mesh_sets_itself_no_sender_sets(gateway: Gateway, raw: Any, name: str) -> None:
    assert gateway.post({"type": "t", name: "x"}).status == 422


def test_an_address_that_everybody_reaches_is_refused_until_somebody_says_so(server: Server, tmp_path: Path) -> None:
    env = {"REDIS_URL": server.url, "PENSTOCK_GATEWAY_PORT": str(free_port()), "PENSTOCK_GATEWAY_HOST": "0.0.0.0"}
    log = tmp_path / "log"
    with service_process("-m", "penstock_services.gateway", env=env, log=log) as process:
        assert process.wait(20) == 2
    assert "PENSTOCK_GATEWAY_OPEN=true" in log.read_text()
    with running_gateway(server, tmp_path, PENSTOCK_GATEWAY_HOST="0.0.0.0", PENSTOCK_GATEWAY_OPEN="true") as opened:
        assert opened.post({"type": "t"}).status == 202
        assert any(line["event"].startswith("OPEN") for line in opened.logged())


def test_an_event_may_say_when_it_is_due_in_a_way_that_makes_sense(gateway: Gateway, raw: Any) -> None:
    assert gateway.post({"type": "t", "in": 60}).status == 202
    refused = gateway.post({"type": "t", "at": "tomorrow"})

    assert (refused.status, "at: 'tomorrow' is not a time such as" in refused.detail) == (422, True)
    ((_, fields),) = raw.xrange("ingest")
    assert fields[b"in"] == b"60"
