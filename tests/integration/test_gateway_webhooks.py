"""`POST /webhooks/{source}`: who gets in, and what becomes of what they send."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook as Judge

from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.topology import parse
from penstock_services.gateway.service import build
from tests.gateways import DEMO_SECRET, Answer, Gateway, running_gateway
from tests.servers import Server

GITHUB_SECRET = "It's a Secret to Everybody"
OLD, NEW = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZC0=", "whsec_bmV3LW5ldy1uZXctbmV3LW5ldy0="
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
"""


@pytest.fixture(scope="module")
def gateway(_shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "streams.yaml").write_text(TOPOLOGY)
    (folder / "secret").write_text(GITHUB_SECRET + "\n")
    env = {
        "PENSTOCK_TOPOLOGY": str(folder / "streams.yaml"),
        "GITHUB_SECRET_FILE": str(folder / "secret"),
        "ROTATING_SECRET": f"{OLD}, {NEW}",
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


def send(gateway: Gateway, source: str, body: bytes, headers: dict[str, str]) -> Answer:
    return gateway.post(body, headers, path=f"/webhooks/{source}")


def only(raw: Any, stream: str = "ingest") -> dict[str, str]:
    ((entry_id, fields),) = raw.xrange(stream)
    return {name.decode(): value.decode() for name, value in fields.items()} | {"entry": entry_id.decode()}


BODY = b'{"type":"ticket.created","ticket_id":"T-1"}'


def test_a_signed_request_becomes_an_event_of_the_type_its_body_names(gateway: Gateway, raw: Any) -> None:
    answer = send(gateway, "demo", BODY, signed(BODY))
    entry = only(raw)
    assert (answer.status, answer.json["job_id"]) == (202, f"ingest-{entry['entry']}")
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
    send(gateway, "demo", BODY, signed(BODY, message_id="d-1"))
    send(gateway, "github", BODY, hub(BODY))
    assert raw.xlen("ingest") == 2


def test_github_s_request_becomes_an_event_named_after_its_header(gateway: Gateway, raw: Any) -> None:
    body = b'{"ref": "refs/heads/main"}'
    first, again = send(gateway, "github", body, hub(body)), send(gateway, "github", body, hub(body))
    entry = only(raw)
    assert first.json["job_id"] == again.json["job_id"]
    assert (entry["type"], entry["tenant"], entry["delivery"]) == ("github.push", "acme", "d-1")


def test_without_a_delivery_id_each_request_is_one_of_its_own(gateway: Gateway, raw: Any) -> None:
    for _ in range(2):
        assert send(gateway, "github", BODY, hub(BODY, **{"X-GitHub-Delivery": ""})).status == 202
    assert raw.xlen("ingest") == 2


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


def test_a_form_is_415_and_says_what_to_choose(gateway: Gateway) -> None:
    headers = {**hub(b"payload=%7B%7D"), "Content-Type": "application/x-www-form-urlencoded"}
    answer = send(gateway, "github", b"payload=%7B%7D", headers)
    assert (answer.status, "choose application/json" in answer.detail) == (415, True)


def test_bytes_that_are_no_text_in_unsigned_headers_do_no_harm(gateway: Gateway, raw: Any) -> None:
    lines = {**hub(BODY), "X-GitHub-Delivery": "\udcff\udcfe", "X-GitHub-Event": "p\udcffsh", "tracestate": "\udcff"}
    lines["traceparent"] = f"00-{'1' * 32}-{'2' * 16}-01"
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode(errors="surrogateescape")
    start = "POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    length = f"Content-Length: {len(BODY)}\r\n"
    answer = gateway.exchange(start.encode() + length.encode() + head + b"\r\n" + BODY)
    assert answer.status == 202
    assert only(raw)["type"] == r"github.p\udcffsh"
    assert "tracestate" not in only(raw)


def test_the_demo_source_of_the_shipped_topology_takes_what_the_readme_shows(
    server: Server, raw: Any, tmp_path: Path
) -> None:
    body = json.dumps({"type": "ticket.created", "ticket_id": "T-1"}).encode()
    with running_gateway(server, tmp_path) as shipped:
        assert send(shipped, "demo", body, signed(body)).status == 202
        assert send(shipped, "github", body, hub(body)).status == 401
    assert only(raw)["type"] == "ticket.created"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scheme": "gitlab"}, r"webhooks\.shop\.scheme: .*gitlab.*github, standard-webhooks"),
        ({"scheme": "standard-webhooks"}, "SHOP_SECRET: .*whsec_"),
        ({"type": "{boby:type}"}, r"webhooks\.shop\.type"),
        ({"type": "{body:type"}, r"webhooks\.shop\.type"),
        ({"type": ""}, r"webhooks\.shop\.type"),
        ({"stream": "events"}, r"services\.gateway\.publishes does not list events"),
    ],
)
def test_a_source_that_cannot_work_is_a_sentence_at_the_start(
    change: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SECRET", "no base64!")
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
