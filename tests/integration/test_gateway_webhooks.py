"""`POST /webhooks/{source}`: who gets in, and what becomes of what they send."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from standardwebhooks import Webhook as Judge

from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.topology import parse
from penstock.web.body import FORM
from penstock_services.gateway.service import build
from tests.gateways import DEMO_SECRET, Answer, Gateway, read_answer, running_gateway
from tests.otlp import otlp_receiver
from tests.processes import eventually
from tests.servers import Server

GITHUB_SECRET = "It's a Secret to Everybody"
OLD, NEW = "whsec_" + "b2xkLW9s" * 4, "whsec_" + "bmV3LW5l" * 4
TOPOLOGY = """
streams: {ingest: {}, hooks: {}}
services: {gateway: {publishes: [ingest, hooks]}}
webhooks:
  demo:
    scheme: standard-webhooks
    secret: DEMO_SECRET
    default_secret: whsec_cGVuc3RvY2stZGVtby1zZWNyZXQtMDAwMQ==
    type: "{body:type}"
  github: {scheme: github, secret: GITHUB_SECRET, type: "github.{header:X-GitHub-Event}", tenant: acme}
  rotating: {scheme: standard-webhooks, secret: ROTATING_SECRET, type: fixed, stream: hooks}
  closed: {scheme: github, secret: CLOSED_SECRET, type: closed}
  other:
    {scheme: standard-webhooks, secret: DEMO_SECRET, type: other,
     default_secret: whsec_cGVuc3RvY2stZGVtby1zZWNyZXQtMDAwMQ==}
  slack: {scheme: slack, secret: GITHUB_SECRET, type: slack}
  meta: {scheme: github, secret: GITHUB_SECRET, type: meta, verify_token: META_VERIFY_TOKEN}
  grid: {scheme: token, secret: GITHUB_SECRET, type: grid, token: {header: X-Key}}
  azure: {scheme: token, secret: GITHUB_SECRET, type: azure, token: {query: code}}
  desk: {scheme: token, secret: GITHUB_SECRET, type: desk, token: {user: hook}}
  small: {scheme: github, secret: GITHUB_SECRET, type: small, max_body: 1000}
clients:
  shop: {secret: SHOP_SECRET, scopes: [publish], max_body: 5000000}
"""
SHOP_SECRET = "shop-secret-0123456789abcdef"


@pytest.fixture(scope="module")
def gateway(_shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "streams.yaml").write_text(TOPOLOGY)
    (folder / "secret").write_text(GITHUB_SECRET + "\n")
    env = {
        "PENSTOCK_TOPOLOGY": str(folder / "streams.yaml"),
        "GITHUB_SECRET_FILE": str(folder / "secret"),
        "ROTATING_SECRET": f"{OLD}\n{NEW}",
        "SHOP_SECRET": SHOP_SECRET,
        "META_VERIFY_TOKEN": "as told to Meta",
        "PENSTOCK_DEMO_WEBHOOK": "true",
    }
    with running_gateway(_shared_server, folder, **env) as gateway:
        yield gateway


def signed(body: bytes, *, secret: str = DEMO_SECRET, message_id: str = "msg_1", age: float = 0.0) -> dict[str, str]:
    """Headers as the reference library of Standard Webhooks makes them."""
    at = datetime.fromtimestamp(int(time.time()), UTC) - timedelta(seconds=age)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Judge(secret).sign(message_id, at, body.decode()),
    }


def hub(body: bytes, **headers: str) -> dict[str, str]:
    digest = hmac.new(GITHUB_SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Event": "push", "X-GitHub-Delivery": "d-1", **headers}


def slack(body: bytes) -> dict[str, str]:
    now = str(int(time.time()))
    digest = hmac.new(GITHUB_SECRET.encode(), f"v0:{now}:".encode() + body, hashlib.sha256).hexdigest()
    return {"X-Slack-Request-Timestamp": now, "X-Slack-Signature": f"v0={digest}"}


def send(gateway: Gateway, source: str, body: bytes, headers: dict[str, str]) -> Answer:
    return gateway.post(body, headers, path=f"/webhooks/{source}")


def only(raw: Any, stream: str = "ingest") -> dict[str, str]:
    ((entry_id, fields),) = raw.xrange(stream)
    return {name.decode(): value.decode() for name, value in fields.items()} | {"entry": entry_id.decode()}


BODY = b'{"type":"ticket.created","ticket_id":"T-1"}'


def test_a_signed_request_becomes_an_event_of_the_type_its_body_names(gateway: Gateway, raw: Any) -> None:
    answer = send(gateway, "demo", BODY, signed(BODY))
    entry = only(raw)
    assert (answer.status, answer.json["job_id"]) == (202, entry["id"])
    assert (entry["type"], entry["source"], entry["delivery"]) == ("ticket.created", "webhook/demo", "msg_1")
    assert entry["data"].encode() == BODY
    assert entry["traceparent"].split("-")[1] == answer.json["trace_id"]


def test_a_redelivery_gives_the_same_job_and_enqueues_nothing(gateway: Gateway, raw: Any) -> None:
    first = send(gateway, "demo", BODY, signed(BODY, age=10))
    again = send(gateway, "demo", BODY, signed(BODY))
    assert first.json["job_id"] == again.json["job_id"]
    assert (again.json["duplicate"], again.headers["Idempotency-Replayed"]) == (True, "true")
    assert raw.xlen("ingest") == 1


def test_a_delivery_id_holds_for_one_source_only(gateway: Gateway, raw: Any) -> None:
    for source in ("demo", "other"):
        assert send(gateway, source, BODY, signed(BODY)).json.get("duplicate") is None
    assert raw.xlen("ingest") == 2


def test_github_s_request_becomes_an_event_named_after_its_header(gateway: Gateway, raw: Any) -> None:
    body = b'{"ref": "refs/heads/main"}'
    first, again = send(gateway, "github", body, hub(body)), send(gateway, "github", body, hub(body))
    entry = only(raw)
    assert first.json["job_id"] == again.json["job_id"] == entry["id"]
    assert (entry["type"], entry["tenant"], entry["delivery"]) == ("github.push", "acme", "d-1")


@pytest.mark.parametrize(
    "changed", [{"X-GitHub-Delivery": ""}, {"X-GitHub-Delivery": "d-2"}, {"X-GitHub-Event": "release"}]
)
def test_who_has_seen_a_request_of_github_cannot_send_it_as_another(
    gateway: Gateway, raw: Any, changed: dict[str, str]
) -> None:
    first = send(gateway, "github", BODY, hub(BODY))
    again = send(gateway, "github", BODY, hub(BODY, **changed))
    assert (again.status, again.json) == (
        202,
        {"status": "accepted", "job_id": first.json["job_id"], "duplicate": True},
    )
    assert raw.xlen("ingest") == 1


PING = b'{"zen":"Keep it logically awesome.","hook_id":1,"hook":{}}'


@pytest.mark.parametrize("event", ["ping", "push"])  # the header is not signed: whoever has seen a ping may change it
def test_githubs_ping_is_answered_and_is_no_event(gateway: Gateway, raw: Any, event: str) -> None:
    ping = hub(PING, **{"X-GitHub-Event": event})
    assert send(gateway, "github", PING, ping).json == {"status": "pong"}
    assert send(gateway, "github", PING, {**ping, "X-Hub-Signature-256": "sha256=0"}).status == 401
    assert not raw.exists("ingest")


def test_a_push_as_large_as_github_sends_is_taken(gateway: Gateway, raw: Any) -> None:
    body = b'{"ref":"' + b"x" * 20_000_000 + b'"}'
    assert send(gateway, "github", body, hub(body)).status == 202
    assert len(only(raw)["data"]) == len(body)
    assert send(gateway, "demo", body[:2_000_000], signed(b"{}")).status == 413


def test_a_push_that_does_not_say_how_large_it_is_is_taken_up_to_its_source_s_limit(gateway: Gateway, raw: Any) -> None:
    body = b'{"ref":"' + b"x" * 300_000 + b'"}'
    for source, status in (("github", 202), ("small", 413)):
        head = f"POST /webhooks/{source} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in hub(body).items())
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:200_000], body[200_000:], b""))
        assert gateway.exchange(head.encode() + b"\r\n" + chunks).status == status
    assert only(raw)["data"].encode() == body


def test_no_more_than_four_large_bodies_are_in_memory_at_once_and_small_ones_go_on(gateway: Gateway, raw: Any) -> None:
    body = b'"' + b"x" * 300_000 + b'"'
    head = f"POST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in hub(body).items()) + "Expect: 100-continue\r\n\r\n"
    with contextlib.ExitStack() as stack:
        sending = [stack.enter_context(gateway.connect()) for _ in range(4)]
        for client in sending:
            client.sendall(head.encode())
            assert b"100 Continue" in client.recv(100), "it is being read"
        refused = gateway.exchange(head.encode())
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        assert send(gateway, "github", BODY, hub(BODY)).status == 202
        sending[0].sendall(body)
        assert read_answer(sending[0]).status == 202
        client = stack.enter_context(gateway.connect())
        client.sendall(head.encode())
        assert b"100 Continue" in client.recv(100), "there is room again"
    assert raw.xlen("ingest") == 2


def test_what_stands_in_authorization_is_the_source_s_alone(gateway: Gateway, raw: Any) -> None:
    password = base64.b64encode(f"hook:{GITHUB_SECRET}".encode()).decode()
    assert send(gateway, "desk", BODY, {"Authorization": f"Basic {password}"}).status == 202
    assert send(gateway, "desk", BODY, {"Authorization": f"Bearer {SHOP_SECRET}"}).status == 401
    assert only(raw)["type"] == "desk"
    large = b"[" + b" " * 1000 + b"]"
    assert send(gateway, "small", large, {**hub(large), "Authorization": f"Bearer {SHOP_SECRET}"}).status == 413


def test_half_a_character_is_kept_as_it_was_signed(gateway: Gateway, raw: Any) -> None:
    body = rb'{"type":"t","text":"\ud83d"}'
    assert send(gateway, "demo", body, signed(body)).status == 202
    assert only(raw)["data"].encode() == body


def test_half_a_character_is_no_way_past_the_strict_reader(gateway: Gateway, raw: Any) -> None:
    for body, why in ((rb'["\ud83d",NaN]', "not JSON"), (rb'["\ud83d",' + b"[" * 101 + b"]" * 102, "nested")):
        answer = send(gateway, "github", body, hub(body))
        assert (answer.status, why in answer.detail) == (400, True)
    assert not raw.exists("ingest")
    hello = rb'{"type":"url_verification","challenge":"\ud83d\ude00\ud83d"}'
    assert send(gateway, "slack", hello, slack(hello)).json == {"challenge": "\U0001f600\ufffd"}


def test_a_secret_with_commas_and_edge_blanks_is_one_secret(server: Server, raw: Any, tmp_path: Path) -> None:
    secret = " It's a Secret, to Everybody "
    with running_gateway(server, tmp_path, GITHUB_WEBHOOK_SECRET=secret) as gateway:
        digest = hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()
        assert send(gateway, "github", BODY, {**hub(BODY), "X-Hub-Signature-256": f"sha256={digest}"}).status == 202
        for part in secret.split(","):
            digest = hmac.new(part.encode(), BODY, hashlib.sha256).hexdigest()
            assert send(gateway, "github", BODY, {**hub(BODY), "X-Hub-Signature-256": f"sha256={digest}"}).status == 401


def test_a_form_of_slack_is_data_by_its_fields_and_its_handshake_is_answered(gateway: Gateway, raw: Any) -> None:
    form = b"command=%2Fdeploy&text=now"
    headers = {**slack(form), "Content-Type": "application/x-www-form-urlencoded"}
    assert send(gateway, "slack", form, headers).status == 202
    assert json.loads(only(raw)["data"])["fields"] == {"command": "/deploy", "text": "now"}
    hello = b'{"type":"url_verification","challenge":"c-1"}'
    assert send(gateway, "slack", hello, slack(hello)).json == {"challenge": "c-1"}
    assert raw.xlen("ingest") == 1


def test_a_hub_challenge_is_answered_to_who_knows_the_token_for_it(gateway: Gateway) -> None:
    path = "/webhooks/meta?hub.mode=subscribe&hub.challenge=c%3Cb%3E&hub.verify_token="
    answer = gateway.get(path + quote("as told to Meta"))
    assert (answer.status, answer.body) == (200, b"c<b>")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert gateway.get(path + "no").status == 403
    assert gateway.get(path + quote(GITHUB_SECRET)).status == 403, "what signs has no place in an address"
    assert gateway.get(path.replace("meta", "github")).status == 405, "no token, no challenge"
    assert gateway.get("/webhooks/meta").status == 405


def test_event_grid_and_cloudevents_are_answered_what_they_ask(gateway: Gateway) -> None:
    hello = b'[{"data":{"validationCode":"v-1"}}]'
    headers = {"aeg-event-type": "SubscriptionValidation", "X-Key": GITHUB_SECRET}
    assert send(gateway, "grid", hello, headers).json == {"validationResponse": "v-1"}
    assert send(gateway, "grid", hello, {**headers, "X-Key": "no"}).status == 401
    allowed = gateway.request("OPTIONS", "/webhooks/grid", headers={"WebHook-Request-Origin": "events.example"})
    assert (allowed.status, allowed.headers["WebHook-Allowed-Origin"]) == (200, "events.example")


def test_a_secret_in_the_address_lets_event_grid_in_and_is_told_to_nobody(
    server: Server, raw: Any, tmp_path: Path
) -> None:
    (tmp_path / "streams.yaml").write_text(TOPOLOGY)
    secret = "between-us-and-azure/+="
    with otlp_receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        env |= {
            "PENSTOCK_TOPOLOGY": str(tmp_path / "streams.yaml"),
            "GITHUB_SECRET": secret,
            "SHOP_SECRET": SHOP_SECRET,
        }
        with running_gateway(server, tmp_path, **env) as gateway:
            place = f"azure?code={quote(secret, safe='')}"
            hello = b'[{"data":{"validationCode":"v-1"}}]'
            greeted = send(gateway, place, hello, {"aeg-event-type": "SubscriptionValidation"})
            assert greeted.json == {"validationResponse": "v-1"}
            assert send(gateway, place, b'[{"id":"1"}]', {"aeg-event-type": "Notification"}).status == 202
            assert send(gateway, place + "0", BODY, {}).status == 401
            eventually(lambda: len([one for one in receiver.spans if one.kind == "server"]) == 3, what="the spans")
            told = f"{receiver.spans} {gateway.log.read_text()} {raw.xrange('ingest')}"
        assert "url.query" in told
        assert "webhook refused" in told
        assert secret not in told
        assert quote(secret, safe="") not in told


@pytest.mark.parametrize("secret", [OLD, NEW])
def test_while_a_secret_rotates_both_are_taken(gateway: Gateway, raw: Any, secret: str) -> None:
    assert send(gateway, "rotating", BODY, signed(BODY, secret=secret)).status == 202
    assert only(raw, "hooks")["type"] == "fixed"


def test_every_failed_verification_gets_the_same_401(gateway: Gateway, raw: Any) -> None:
    good = signed(BODY)
    answers = [
        send(gateway, "demo", BODY, {}),
        send(gateway, "demo", BODY + b" ", good),
        send(gateway, "demo", BODY, signed(BODY, age=301)),
        send(gateway, "demo", BODY, signed(BODY, age=-301)),
        send(gateway, "demo", BODY, signed(BODY, secret=OLD)),
        send(gateway, "demo", BODY, {**good, "webhook-timestamp": "soon"}),
        send(gateway, "demo", BODY, {**good, "webhook-signature": "v1"}),
        send(gateway, "demo", b"not json", good),
        send(gateway, "github", BODY, {}),
        send(gateway, "github", BODY, {**hub(BODY), "X-Hub-Signature-256": "sha256="}),
        send(gateway, "closed", BODY, hub(BODY)),
        send(gateway, "closed", BODY, {}),
        send(gateway, "azure?code=no", BODY, {}),
        send(gateway, "azure", BODY, {"code": GITHUB_SECRET, "Authorization": GITHUB_SECRET}),
    ]
    assert {(answer.status, answer.body) for answer in answers} == {(401, answers[0].body)}
    assert answers[0].headers["WWW-Authenticate"]
    assert not raw.exists("ingest")


def test_an_hmac_under_the_empty_key_opens_no_source_without_a_secret(gateway: Gateway) -> None:
    digest = hmac.new(b"", BODY, hashlib.sha256).hexdigest()
    assert send(gateway, "closed", BODY, {"X-Hub-Signature-256": f"sha256={digest}"}).status == 401


def test_a_source_without_a_secret_is_named_at_the_start(gateway: Gateway) -> None:
    warnings = [line for line in gateway.logged() if line["level"] == "warning" and line.get("source") == "closed"]
    assert "CLOSED_SECRET" in warnings[0]["event"]
    assert not [line for line in gateway.logged() if "until" in line["event"] and line["source"] != "closed"]


def test_the_operator_reads_in_the_log_why_a_webhook_is_refused(gateway: Gateway) -> None:
    send(gateway, "rotating", BODY, signed(BODY, secret=OLD, age=400))
    said = [line for line in gateway.logged() if line["event"] == "webhook refused" and line["source"] == "rotating"]
    assert "clocks" in said[0]["reason"]


def test_the_body_is_judged_after_the_signature(gateway: Gateway, raw: Any) -> None:
    assert send(gateway, "github", b"Hello, World!", hub(b"Hello, World!")).status == 400
    assert send(gateway, "github", b"Hello, World!", hub(b"Hello, World")).status == 401
    assert not raw.exists("ingest")


@pytest.mark.parametrize(
    ("source", "body", "missing"),
    [
        ("demo", b"{}", "type"),
        ("demo", b'{"type":7}', "type"),
        ("demo", b"[1]", "type"),
        ("demo", b'{"type":""}', "type"),
    ],
)
def test_a_body_without_the_type_is_422(gateway: Gateway, raw: Any, source: str, body: bytes, missing: str) -> None:
    answer = send(gateway, source, body, signed(body))
    assert answer.status == 422
    assert f"body {missing}" in answer.detail
    assert not raw.exists("ingest")


def test_a_request_without_the_header_of_the_type_is_422(gateway: Gateway) -> None:
    answer = send(gateway, "github", BODY, hub(BODY, **{"X-GitHub-Event": ""}))
    assert (answer.status, "X-GitHub-Event" in answer.detail) == (422, True)
    assert send(gateway, "github", BODY, hub(BODY, **{"X-GitHub-Event": "x" * 256})).status == 422


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/xml; charset=utf-8", "<a>\u00e4\x00</a>\r\n".encode()),
        ("text/xml; charset=iso-8859-1", b"<a>\xe4</a>"),
        ("text/plain", b'\xef\xbb\xbf{"type":"t"}'),
        ("application/octet-stream", bytes(range(256))),
        ("application/x-www-form-urlencoded", b"b=1&a=%2F+%FF&b=&c"),
        ('multipart/form-data; boundary="x"', b"--x\r\n\r\n1\r\n--x--"),
        ("", b"Hello, World!"),
        ("application/octet-stream", b""),
    ],
)
def test_what_is_not_json_is_kept_byte_for_byte_as_it_was_signed(
    gateway: Gateway, raw: Any, kind: str, body: bytes
) -> None:
    assert send(gateway, "github", body, {**hub(body), "Content-Type": kind}).status == 202
    data = json.loads(only(raw)["data"])
    assert data["content_type"] == kind
    kept = data["body"].encode() if "body" in data else base64.b64decode(data["body_base64"])
    assert kept == body
    fields = {"b": ["1", ""], "a": "/ \ufffd", "c": ""} if kind.endswith("urlencoded") else None
    assert data.get("fields") == fields


def test_json_is_data_also_where_its_type_is_not_said(gateway: Gateway, raw: Any) -> None:
    assert send(gateway, "github", BODY, {**hub(BODY), "Content-Type": ""}).status == 202
    assert only(raw)["data"].encode() == BODY


def test_the_type_of_an_event_may_stand_in_a_form_and_not_in_a_text(gateway: Gateway, raw: Any) -> None:
    form, text = b"type=order", b"type: order"
    assert send(gateway, "demo", form, {**signed(form), "Content-Type": FORM}).status == 202
    assert only(raw)["type"] == "order"
    refused = send(gateway, "demo", text, {**signed(text), "Content-Type": "text/plain"})
    assert (refused.status, "body type" in refused.detail) == (422, True)


def test_bytes_that_are_no_text_in_unsigned_headers_do_no_harm(gateway: Gateway, raw: Any) -> None:
    lines = {**hub(BODY), "X-GitHub-Delivery": "\udcff\udcfe", "X-GitHub-Event": "p\udcffsh", "tracestate": "\udcff"}
    lines["traceparent"] = f"00-{'1' * 32}-{'2' * 16}-01"
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode(errors="surrogateescape")
    start = "POST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    length = f"Content-Length: {len(BODY)}\r\n"
    answer = gateway.exchange(start.encode() + length.encode() + head + b"\r\n" + BODY)
    assert answer.status == 202
    assert only(raw)["type"] == r"github.p\udcffsh"
    assert "tracestate" not in only(raw)


def test_control_characters_in_what_becomes_the_type_are_written_out(gateway: Gateway, raw: Any) -> None:
    body = json.dumps({"type": "a\nb\x9bc\u2028d"}).encode()
    assert send(gateway, "demo", body, signed(body)).status == 202
    assert only(raw)["type"] == r"a\nb\x9bc\u2028d"


def test_the_demo_source_of_the_shipped_topology_takes_what_the_readme_shows(
    server: Server, raw: Any, tmp_path: Path
) -> None:
    body = json.dumps({"type": "ticket.created", "ticket_id": "T-1"}).encode()
    with running_gateway(server, tmp_path, PENSTOCK_DEMO_WEBHOOK="true") as shipped:
        assert send(shipped, "demo", body, signed(body)).status == 202
        assert send(shipped, "github", body, hub(body)).status == 401
    assert only(raw)["type"] == "ticket.created"


def test_the_demo_secret_opens_nothing_where_nobody_asked_for_the_demo(server: Server, tmp_path: Path) -> None:
    with running_gateway(server, tmp_path) as shipped:
        assert send(shipped, "demo", BODY, signed(BODY)).status == 401


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scheme": "none"}, r"webhooks\.shop\.scheme: .*none.*github, gitlab, .*standard-webhooks"),
        ({"scheme": "standard-webhooks"}, "SHOP_SECRET: .*whsec_"),
        ({"scheme": "twilio"}, "SHOP_SECRET: .*`url`"),
        ({"secret": "SHORT_SECRET"}, "SHORT_SECRET: .*at least 16 characters"),
        ({"type": "{boby:type}"}, r"webhooks\.shop\.type"),
        ({"type": "{body:type"}, r"webhooks\.shop\.type"),
        ({"type": ""}, r"webhooks\.shop\.type"),
        ({"stream": "events"}, r"services\.gateway\.publishes does not list events"),
    ],
)
def test_a_source_that_cannot_work_is_a_sentence_at_the_start(
    change: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SECRET", "this is no base64!")
    monkeypatch.setenv("SHORT_SECRET", "short")
    shop = {"scheme": "github", "secret": "SHOP_SECRET", "type": "t", **change}
    topology = parse(
        json.dumps(
            {
                "streams": {"ingest": {}, "events": {}},
                "services": {"gateway": {"publishes": ["ingest"]}},
                "webhooks": {"shop": shop},
            }
        )
    )
    with pytest.raises(ConfigurationError, match=said):
        build(Settings(), topology)
