"""FastAPI: the lifespan, the client as a dependency, traces, the operations router; in a real uvicorn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hands import fields_of
from tests.integration.asgi_apps import MESH
from tests.integration.test_asgi import APPS, SENDER, SPAN, TRACE
from tests.otlp import ReceivedSpan, otlp_receiver
from tests.processes import eventually
from tests.servers import Server
from tests.uvicorns import Site, serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "streams.yaml").write_text(MESH)
    return tmp_path


@pytest.fixture
def site(server: Server, folder: Path) -> Iterator[Site]:
    with serving(f"{APPS}:shop", folder, folder / "log", REDIS_URL=server.url) as site:
        yield site


def test_the_lifespan_opens_a_client_around_the_applications_own(site: Site, raw: Any) -> None:
    assert site.get("/stock").json == 1
    answer = site.post("/orders/A-1", **SENDER)
    assert answer.status == 202
    (entry,) = fields_of(raw, "orders")
    assert (entry["id"], entry["subject"], entry["source"]) == (answer.json, "A-1", "web")
    assert entry["traceparent"].split("-")[1] == TRACE
    assert entry["tracestate"] == "vendor=1"
    site.stop()
    assert [entry["type"] for entry in fields_of(raw, "events")] == ["app.ended"]
    assert "Traceback" not in site.log.read_text()


def test_operations_are_for_whom_the_application_lets_in(site: Site) -> None:
    for name in ("status", "metrics", "alerts"):
        path = f"/api/v1/orchestrator/{name}"
        assert site.get(path).status == 403
        assert "as_of" in site.get(f"{path}?key=secret").json
        assert site.get(f"/mesh/{name}").status == 200  # which is mounted for everybody
        assert path in site.get("/openapi.json").json["paths"]


def test_while_redis_is_away_it_answers_503_and_then_goes_on(own_server: Server, folder: Path) -> None:
    with serving(f"{APPS}:shop", folder, folder / "log", REDIS_URL=own_server.url) as site:
        own_server.kill()
        for answer in (site.post("/orders/A-1"), site.get("/mesh/status")):
            assert (answer.status, answer.headers["retry-after"]) == (503, "2")
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json["detail"].startswith("Redis is unavailable: cannot connect")
        own_server.restart()
        assert site.post("/orders/A-1").status == 202


def test_spans_name_the_route_and_those_of_its_own_are_below(server: Server, folder: Path) -> None:
    with otlp_receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with serving(f"{APPS}:shop", folder, folder / "log", REDIS_URL=server.url, **env) as site:
            site.post("/orders/A-1", **SENDER)
            site.post("/sub/own/A-2", **SENDER)
            site.post("/wrong", **SENDER)
        names = {"POST /orders/{name}", "POST /sub/own/{name}", "POST /wrong", "packing"}
        eventually(lambda: names <= {span.name for span in receiver.spans}, what=f"{names}")
    spans = {span.name: span for span in receiver.spans if span.trace_id == TRACE}
    assert {spans[name].parent for name in names - {"packing"}} == {SPAN}
    own = spans["POST /sub/own/{name}"]
    assert own.attributes["http.route"] == "/sub/own/{name}"
    assert own.attributes["url.path"] == "/sub/own/A-2"
    assert own.span_id in above(spans["packing"], receiver.spans)  # newer FastAPIs have spans of their own in between
    assert spans["packing"].span_id in {span.parent for span in receiver.spans if span.name == "send orders"}
    assert (spans["POST /wrong"].attributes["error.type"], spans["POST /wrong"].failed) == ("ValueError", True)


def above(span: ReceivedSpan, spans: list[ReceivedSpan]) -> list[str]:
    """Return the ids of the spans above one."""
    parents = {one.span_id: one.parent for one in spans}
    found = [span.parent]
    while found[-1] in parents:
        found.append(parents[found[-1]])
    return found
