"""What the gateway tells of itself and of the whole mesh, from Redis alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.keys import Keys
from penstock.mesh.alerts import ALERTS, SERVICE, AlertRecord
from penstock.metrics.windows import mesh
from penstock.schemas import Series
from penstock.times import rfc3339
from tests.gateways import Gateway, running_gateway
from tests.processes import eventually, service_process
from tests.servers import Server

KEYS = Keys()


@pytest.fixture
def gateway(server: Server, tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(server, tmp_path) as gateway:
        yield gateway


def told(gateway: Gateway, path: str) -> Any:
    answer = gateway.get(path)
    assert answer.status == 200, answer
    return answer.json


def bury(raw: Any, count: int, **fields: str) -> None:
    """Add dead letters as the commit writes them."""
    letter = {
        "type": "ticket.created",
        "data": "{}",
        "dlq.stream": "ingest",
        "dlq.group": "worker",
        "dlq.entry": "1-0",
        "dlq.reason": "failed",
        "dlq.error": "ConnectionError: refused",
        "dlq.fingerprint": "cause-1",
        "dlq.attempts": "5",
        "dlq.time": rfc3339(time.time()),
        "dlq.traceback": "Traceback\n" * 100,
        **fields,
    }
    pipeline = raw.pipeline(transaction=False)
    for _ in range(count):
        pipeline.xadd("dlq", letter)
    pipeline.execute()


def commands(raw: Any) -> dict[str, int]:
    """Return how often each command was called that reads a dead letter."""
    stats = raw.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("xrevrange", "xrange")}


def test_it_has_metrics_of_its_own(gateway: Gateway) -> None:
    answer = gateway.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert answer.status == 200
    list(text_string_to_metric_families(answer.body.decode()))  # raises unless it is well-formed


@pytest.mark.parametrize(
    ("count", "status", "attention"),
    [
        (0, "healthy", False),
        (9, "healthy", False),
        (10, "warning", True),
        (49, "warning", True),
        (50, "critical", True),
    ],
)
def test_dead_letters_are_judged_by_their_number(
    gateway: Gateway, raw: Any, count: int, status: str, attention: bool
) -> None:
    bury(raw, count)
    health = told(gateway, "/health/dlq")
    assert health["status"] == status
    assert health["statistics"]["total_failed_tasks"] == count
    assert health["health_indicators"] == {
        "requires_attention": attention,
        "warning_threshold": 10,
        "critical_threshold": 50,
    }


def test_without_dead_letters_there_is_nothing_to_do(gateway: Gateway) -> None:
    assert told(gateway, "/health/dlq")["recommendations"] == ["There are no dead letters: nothing to do."]


def test_ten_thousand_dead_letters_are_told_by_cause_and_read_once_for_all_who_ask(gateway: Gateway, raw: Any) -> None:
    bury(raw, 6_000)
    bury(raw, 3_000, **{"type": "crm.sync", "dlq.reason": "invalid", "dlq.error": "no id", "dlq.fingerprint": "c2"})
    bury(
        raw, 999, **{"type": "new.kind", "dlq.reason": "unhandled", "dlq.error": "no handler", "dlq.fingerprint": "c3"}
    )
    bury(raw, 1, **{"type": "bomb", "dlq.reason": "crashed", "dlq.error": "killed", "dlq.fingerprint": "c4"})
    raw.hset(KEYS.replayed, raw.xrange("dlq", count=1)[0][0], rfc3339(time.time()))

    health = told(gateway, "/health/dlq")

    assert health["status"] == "critical"
    assert health["statistics"] == {
        "total_failed_tasks": 9_999,  # one was replayed
        "recent_failures_24h": 9_999,
        "failures_by_task_type": {"ticket.created": 5_999, "crm.sync": 3_000, "new.kind": 999, "bomb": 1},
    }
    failing, invalid, unhandled = health["recommendations"]  # the three most frequent causes
    assert failing.startswith("5999 x ticket.created (ConnectionError: refused): every attempt failed")
    assert "--fingerprint 'cause-1' --canary 1" in failing
    assert "the producer sends what the handler cannot read" in invalid
    assert "no handler takes this type" in unhandled

    before = commands(raw)
    answers = [told(gateway, "/health/dlq") for _ in range(20)]
    looks = (commands(raw)["xrevrange"] - before["xrevrange"]) / (10_000 / 500 + 1)
    assert len(answers) > 2 * looks, "probes cost more than a look every 2 s"


def test_old_dead_letters_are_not_recent(gateway: Gateway, raw: Any) -> None:
    raw.xadd("dlq", {"type": "t", "dlq.fingerprint": "c"}, id=f"{round(time.time() * 1000) - 86_400_000 - 1}-0")
    bury(raw, 1)
    assert told(gateway, "/health/dlq")["statistics"]["recent_failures_24h"] == 1


@pytest.mark.parametrize(
    ("state", "status", "healthy"),
    [("closed", "healthy", True), ("half_open", "warning", False), ("open", "critical", False)],
)
def test_breakers_are_told_with_a_status(gateway: Gateway, raw: Any, state: str, status: str, healthy: bool) -> None:
    breaker(raw, "crm", state)
    assert told(gateway, "/health/circuit-breakers") == {
        "status": status,
        "circuit_breakers": {
            "crm": {"state": state, "failure_count": 7, "success_count": 2, "healthy": healthy},
        },
        "summary": {
            "total_breakers": 1,
            "open_circuits": int(state == "open"),
            "closed_circuits": int(state == "closed"),
            "all_healthy": healthy,
        },
    }


def test_a_mesh_without_breakers_is_healthy(gateway: Gateway) -> None:
    health = told(gateway, "/health/circuit-breakers")
    assert (health["status"], health["summary"]["total_breakers"]) == ("healthy", 0)


def breaker(raw: Any, name: str, state: str) -> None:
    raw.sadd(KEYS.breakers, name)
    raw.hset(KEYS.breaker(name), mapping={"state": state, "failure_count": 7, "success_count": 2})


def alert(raw: Any, rule: str, **fields: Any) -> None:
    record = AlertRecord(fingerprint=rule, rule=rule, since=time.time(), **fields)
    raw.hset(KEYS.state(SERVICE, ALERTS), rule, msgspec.json.encode(record))


TOPOLOGY = """
streams: {ingest: {}, events: {}, dlq: {}}
services:
  gateway: {run: penstock_services.gateway, publishes: [ingest]}
  worker: {run: penstock_services.worker, consumes: {ingest: {}}, publishes: [events]}
  cron: {publishes: [ingest]}
"""


@pytest.fixture
def small(server: Server, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of a mesh of its own: a worker reads, and a service that reads nothing."""
    (tmp_path / "streams.yaml").write_text(TOPOLOGY)
    with running_gateway(server, tmp_path, PENSTOCK_TOPOLOGY=str(tmp_path / "streams.yaml")) as gateway:
        yield gateway


def test_a_mesh_whose_services_all_run_is_healthy(small: Gateway, server: Server, tmp_path: Path) -> None:
    env = {"REDIS_URL": server.url, "PENSTOCK_TOPOLOGY": str(tmp_path / "streams.yaml")}
    with service_process("-m", "penstock_services.worker", env=env):
        eventually(lambda: status(small)["status"] == "healthy", what="the worker is seen")
        found = status(small)
    assert found["reasons"] == []
    assert found["services"] == [
        {"name": "gateway", "alive": True, "processes": None},
        {"name": "worker", "alive": True, "processes": 1},
        {"name": "cron", "alive": None, "processes": None},
    ]
    assert found["redis"]["name"] in ("Redis", "Valkey")
    assert {stream["name"] for stream in found["streams"]} == {"ingest", "events", "dlq"}
    (group,) = found["groups"]
    assert (group["stream"], group["group"], group["consumers"], group["exists"]) == ("ingest", "worker", 1, True)


def status(gateway: Gateway) -> Any:
    return told(gateway, "/api/v1/orchestrator/status")


def test_a_service_that_is_down_is_a_warning_until_events_wait_for_it(small: Gateway, raw: Any) -> None:
    assert status(small)["reasons"] == ["no process of worker is alive: start it"]
    assert status(small)["status"] == "warning"
    raw.xadd("ingest", {"type": "t"})
    raw.zadd(KEYS.delayed("ingest", "worker"), {"later": 1e15})
    eventually(lambda: status(small)["status"] == "critical", what="2 s have passed")
    assert status(small)["reasons"] == ["no process of worker is alive, and 2 events wait for it: start it"]
    (group,) = status(small)["groups"]
    counts = ("lag", "pending", "delayed", "retry", "dead", "consumers")
    assert {name: group[name] for name in counts} == dict.fromkeys(counts, 0) | {"lag": 1, "delayed": 1}


def test_the_worst_reason_decides_and_comes_first(small: Gateway, raw: Any) -> None:
    bury(raw, 12)
    breaker(raw, "crm", "open")
    breaker(raw, "mail", "half_open")
    alert(raw, "error-rate", state="firing", severity="critical", summary="half of all jobs fail")
    alert(raw, "slow", state="firing", severity="warning", reason="p95 is 4 s")
    alert(raw, "note", state="firing", severity="info", summary="not worth a word here")
    alert(raw, "soon", state="pending", severity="critical", summary="not yet")

    found = status(small)

    assert found["status"] == "critical"
    assert found["reasons"] == [
        "circuit breaker crm is open: events that need it wait",
        "alert error-rate fires: half of all jobs fail",
        "no process of worker is alive: start it",
        "12 dead letters wait for a decision: /health/dlq has their causes",
        "circuit breaker mail is half-open: it is being tried",
        "alert slow fires: p95 is 4 s",
    ]


def test_many_alerts_are_counted_rather_than_named(small: Gateway, raw: Any) -> None:
    for number in range(14):
        alert(raw, f"a{number:02}", state="firing", severity="warning", summary="x")
    reasons = status(small)["reasons"]
    assert len([reason for reason in reasons if reason.startswith("alert ")]) == 10
    assert reasons[-1] == "4 more alerts fire: /api/v1/orchestrator/alerts has them"


def test_alerts_are_told_by_state(gateway: Gateway, raw: Any) -> None:
    alert(raw, "a", state="firing", severity="critical", labels={"service": "worker"}, fired=time.time())
    alert(raw, "b", state="pending")
    alert(raw, "c", state="resolved", resolved=time.time())
    found = told(gateway, "/api/v1/orchestrator/alerts")
    (firing,), (pending,) = found["firing"], found["pending"]
    assert (firing["rule"], firing["severity"], firing["labels"]) == ("a", "critical", {"service": "worker"})
    assert firing["fired"].endswith("Z")
    assert pending["rule"] == "b"


def test_the_newest_closed_window_of_each_length_is_told(gateway: Gateway, raw: Any) -> None:
    now = int(raw.time()[0])
    for seconds in (10, 60):
        for back in (2, 1):
            start = now // seconds * seconds - back * seconds
            series = [Series(name="lag", labels={"stream": "ingest", "group": "worker"}, value=float(back))]
            raw.set(KEYS.state("metrics", mesh(seconds, start)), msgspec.json.encode(series))
    windows = told(gateway, "/api/v1/orchestrator/metrics")["windows"]
    assert [(window["seconds"], window["series"][0]["value"]) for window in windows] == [(10, 1.0), (60, 1.0)]


def test_without_windows_there_are_none_to_tell(gateway: Gateway) -> None:
    assert told(gateway, "/api/v1/orchestrator/metrics")["windows"] == []


def test_while_redis_is_away_the_mesh_cannot_be_told(own_server: Server, tmp_path: Path) -> None:
    with running_gateway(own_server, tmp_path) as gateway:
        own_server.stop()
        eventually(lambda: gateway.get("/readyz").status == 503)
        for path in ("/health/dlq", "/health/circuit-breakers", *(f"/api/v1/orchestrator/{what}" for what in MESH)):
            assert gateway.get(path).status == 503, path
        assert gateway.get("/metrics").status == 200
        own_server.start()
        eventually(lambda: gateway.get("/api/v1/orchestrator/status").status == 200)


MESH = ("status", "metrics", "alerts")
