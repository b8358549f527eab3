"""The gateway's answers are those that its OpenAPI document promises, whatever is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from docs.openapi import FILE
from penstock.keys import Keys
from penstock.mesh.alerts import ALERTS, SERVICE, AlertRecord
from penstock.metrics.windows import mesh
from penstock.schemas import Series
from penstock_services.gateway.cloudevents import BATCH
from penstock_services.gateway.submission import MOST_EVENTS
from tests.gateways import Gateway, running_gateway
from tests.servers import Server

EXAMPLES = 25  # for each route
CLOUD_EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "t"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
document = msgspec.json.decode(FILE.read_text())
# Cases at the bounds are made when pytest collects, in every worker. To make a list of more events than may be takes
# seconds: a short bound does for them, and the real one has cases of its own below.
brief = msgspec.json.decode(FILE.read_text().replace(f'"maxItems": {MOST_EVENTS}', '"maxItems": 2'))
# A stream has no end, and so no whole answer to look at, and a WebSocket none: test_gateway_live.py, _websocket.py.
routes = schemathesis.openapi.from_dict(brief).include(tag="gateway").exclude(path=["/v1/stream", "/v1/ws"])


@pytest.fixture(scope="module")
def gateway(_shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway of a mesh that has something to tell."""
    with _shared_server.client() as raw:
        raw.flushall()
        furnish(raw)
        with running_gateway(_shared_server, tmp_path_factory.mktemp("gateway")) as gateway:
            yield gateway
        raw.flushall()


def furnish(raw: Any) -> None:
    keys = Keys()
    raw.xadd("ingest", {"type": "t", "id": "order-1"})
    raw.hset(
        keys.job("order-2"),
        "redis-cli",
        b"ingest-1-0 " + msgspec.json.encode({"state": "completed", "type": "t", "result": [1]}),
    )
    raw.xadd("dlq", {"type": "t", "dlq.stream": "ingest", "dlq.group": "worker", "dlq.reason": "failed"})
    raw.sadd(keys.breakers, "crm")
    raw.hset(keys.breaker("crm"), mapping={"state": "open"})
    record = AlertRecord(fingerprint="f", rule="r", state="firing", since=time.time())
    raw.hset(keys.state(SERVICE, ALERTS), "f", msgspec.json.encode(record))
    start = int(time.time()) // 10 * 10 - 10
    gauges = [Series(name="lag", labels={"stream": "ingest", "group": "worker"}, value=3.0)]
    raw.set(keys.state("metrics", mesh(10, start)), msgspec.json.encode(gauges))


def test_the_document_is_served(gateway: Gateway) -> None:
    answer = gateway.get("/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json == document


@routes.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=timedelta(seconds=10),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_one_that_the_document_promises(case: Case[Any], gateway: Gateway) -> None:
    case.call_and_validate(base_url=f"http://127.0.0.1:{gateway.port}", checks=CHECKS)


@pytest.mark.parametrize(
    ("method", "path", "given", "status"),
    [
        ("GET", "/v1/jobs/{job_id}", {"path_parameters": {"job_id": "order-1"}}, 200),
        ("GET", "/v1/jobs/{job_id}", {"path_parameters": {"job_id": "order-2"}}, 200),
        ("GET", "/v1/traces/{id}", {"path_parameters": {"id": "order-1"}}, 200),
        ("GET", "/api/v1/orchestrator/status", {}, 200),
        ("GET", "/api/v1/orchestrator/metrics", {}, 200),
        ("GET", "/api/v1/orchestrator/alerts", {}, 200),
        ("GET", "/health/circuit-breakers", {}, 200),
        ("GET", "/health/dlq", {}, 200),
        ("POST", "/v1/events", {"body": {"type": "t"}, "media_type": "application/json"}, 202),
        ("POST", "/v1/events", {"body": [{"type": "t"}], "media_type": "application/json"}, 202),
        ("POST", "/v1/events", {"body": {"type": ""}, "media_type": "application/json"}, 422),
        ("POST", "/v1/events", {"body": [{"type": "t"}] * (MOST_EVENTS + 1), "media_type": "application/json"}, 422),
        ("POST", "/v1/events", {"body": [CLOUD_EVENT] * (MOST_EVENTS + 1), "media_type": BATCH}, 422),
        (
            "POST",
            "/webhooks/{source}",
            {"path_parameters": {"source": "demo"}, "body": {}, "media_type": "application/json"},
            401,
        ),
    ],
)
def test_so_are_the_answers_to_what_is_there(
    gateway: Gateway, method: str, path: str, given: dict[str, Any], status: int
) -> None:
    case = routes[path][method].Case(**given)
    answer = case.call_and_validate(base_url=f"http://127.0.0.1:{gateway.port}", checks=CHECKS)
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Sec-Fetch-Site": "cross-site"}, 403), ({"Host": "evil.example"}, 421), ({"X-Forwarded-For": "192.0.2.1"}, 401)],
    ids=str,
)
def test_so_are_the_answers_to_whoever_may_not(gateway: Gateway, headers: dict[str, str], status: int) -> None:
    asked = 0
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "gateway" in operation["tags"] and ("security" in operation or status != 401):
                given = {one["name"]: "x" for one in operation.get("parameters", ()) if one["in"] == "path"}
                sent = {"body": {"type": "t"}, "media_type": "application/json"}
                body: dict[str, Any] = sent if method == "post" else {}
                case = routes[path][method.upper()].Case(path_parameters=given, **body)
                base_url = f"http://127.0.0.1:{gateway.port}"
                answer = case.call_and_validate(base_url=base_url, checks=CHECKS, headers=headers)
                assert answer.status_code == status, path
                asked += 1
    assert asked > 10
