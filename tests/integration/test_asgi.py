"""What web applications over ASGI have, in a real uvicorn: traces, a client for their life, the mesh's status."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from penstock import Penstock
from penstock.asgi import Lifespan, TraceMiddleware
from penstock.telemetry.current import parent
from penstock.topology import parse
from tests.hands import fields_of
from tests.integration.asgi_apps import MESH, bare, lively
from tests.otlp import ReceivedSpan, Receiver, otlp_receiver
from tests.processes import eventually
from tests.servers import Server
from tests.uvicorns import Site, serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENDER = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
APPS = "tests.integration.asgi_apps"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "streams.yaml").write_text(MESH)
    return tmp_path


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as receiver:
        yield receiver


@pytest.fixture
def site(server: Server, folder: Path, receiver: Receiver) -> Iterator[Site]:
    receiver.spans.clear()
    with serving(f"{APPS}:app", folder, folder / "log", **traced(server, receiver)) as site:
        yield site


def traced(server: Server, receiver: Receiver) -> dict[str, str]:
    return {"REDIS_URL": server.url, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}


def span_of(receiver: Receiver, path: str) -> ReceivedSpan:
    """Wait for the server span of a path."""

    def found() -> list[ReceivedSpan]:
        return [one for one in receiver.spans if one.attributes.get("url.path") == path]

    eventually(found, what=f"a span of {path}")
    (span,) = found()
    return span


def test_what_a_request_submits_is_of_its_senders_trace(site: Site, receiver: Receiver, raw: Any) -> None:
    answer = site.post("/order?token=secret", **SENDER)

    assert answer.status == 202
    (entry,) = fields_of(raw, "orders")
    assert (entry["id"], entry["source"], entry["tracestate"]) == (answer.body.decode(), "web", "vendor=1")
    span = span_of(receiver, "/order")
    eventually(lambda: [one for one in receiver.spans if one.name == "send orders"])
    (sent,) = [one for one in receiver.spans if one.name == "send orders"]
    assert (span.service, span.kind, span.name, span.trace_id, span.parent) == ("web", "server", "POST", TRACE, SPAN)
    assert (sent.trace_id, sent.parent) == (TRACE, span.span_id)
    assert entry["traceparent"] == f"00-{TRACE}-{sent.span_id}-01"
    assert span.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 202,
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": site.port,
        "url.path": "/order",
        "url.query": span.attributes["url.query"],
        "url.scheme": "http",
    }
    assert "secret" not in span.attributes["url.query"]


def test_a_failure_is_of_its_trace_and_the_next_request_of_another(site: Site, receiver: Receiver, raw: Any) -> None:
    assert site.post("/wrong", **SENDER).status == 500
    assert site.post("/order").status == 202

    span = span_of(receiver, "/wrong")
    assert (span.failed, span.error, span.attributes["error.type"]) == (True, "ValueError: this is wrong", "ValueError")
    assert span.attributes["http.response.status_code"] == 500
    (entry,) = fields_of(raw, "orders")
    assert entry["traceparent"].split("-")[1] == span_of(receiver, "/order").trace_id != TRACE
    assert "tracestate" not in entry


def test_a_websocket_is_of_its_trace_from_handshake_to_end(site: Site, receiver: Receiver, raw: Any) -> None:
    with connect(f"ws://127.0.0.1:{site.port}/ws", additional_headers=SENDER) as socket:
        for price in range(2):
            socket.send(str(price))
            assert socket.recv()
        span = span_of(receiver, "/ws")  # while it is open
    with pytest.raises(InvalidStatus):
        connect(f"ws://127.0.0.1:{site.port}/refused")

    assert (span.trace_id, span.parent, span.attributes["http.response.status_code"]) == (TRACE, SPAN, 101)
    assert span.attributes["url.scheme"] == "ws"
    assert span_of(receiver, "/refused").attributes["http.response.status_code"] == 403
    assert [entry["traceparent"].split("-")[1] for entry in fields_of(raw, "orders")] == [TRACE, TRACE]


def test_the_status_of_the_mesh_is_there_where_it_is_mounted(site: Site, raw: Any) -> None:
    site.post("/order")
    status = site.get("/mesh/status")
    assert (status.status, status.json["status"]) == (200, "critical")
    assert status.json["reasons"] == ["no process of shop is alive, and 1 events wait for it: start it"]
    assert status.json["services"] == [{"name": "shop", "alive": False, "processes": 0}]
    assert site.get("/mesh/metrics").json["windows"] == []
    assert site.get("/mesh/alerts").json["firing"] == []
    head = site.request("HEAD", "/mesh/status")
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", "application/json")
    assert (site.get("/mesh/else").status, site.get("/mesh").status, site.get("/mesh/").status) == (404, 404, 404)
    refused = site.post("/mesh/status")
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")


def test_an_application_keeps_a_lifespan_of_its_own(server: Server, folder: Path, raw: Any) -> None:
    with serving(f"{APPS}:lively_app", folder, folder / "log", REDIS_URL=server.url) as site:
        assert site.get("/").body == b"hello of ['orders']"
        assert raw.xlen("events") == 0
        site.stop()

    assert [entry["type"] for entry in fields_of(raw, "events")] == ["app.ended"]
    assert "Traceback" not in (folder / "log").read_text()


def test_a_span_names_the_route_that_the_framework_found(server: Server, folder: Path, receiver: Receiver) -> None:
    receiver.spans.clear()
    with serving(f"{APPS}:starlette", folder, folder / "log", **traced(server, receiver)) as site:
        assert [site.post(path, **SENDER).status for path in ("/orders/1", "/sub/orders/2")] == [202, 202]
        spans = [span_of(receiver, path) for path in ("/orders/1", "/sub/orders/2")]

    assert [span.name for span in spans] == ["POST /orders/{name}", "POST /sub/orders/{name}"]
    assert [span.attributes["http.route"] for span in spans] == ["/orders/{name}", "/sub/orders/{name}"]


@pytest.mark.parametrize(
    ("env", "says"),
    [({"FAIL_AT_START": "1"}, "not today"), ({"REDIS_URL": "unix:///nowhere"}, "streams.yaml")],
    ids=["its own lifespan fails", "no client can be opened"],
)
def test_a_start_that_fails_says_why(server: Server, folder: Path, env: dict[str, str], says: str) -> None:
    if "REDIS_URL" in env:
        (folder / "streams.yaml").unlink()
    with (
        pytest.raises(AssertionError, match=says),
        serving(f"{APPS}:lively_app", folder, folder / "log", **{"REDIS_URL": server.url, **env}),
    ):
        pass
    assert "Traceback" not in (folder / "log").read_text()


@pytest.mark.parametrize("path", ["/fine", "/wrong"])
async def test_the_trace_of_a_request_ends_with_it(path: str) -> None:
    seen: list[str] = []

    async def site(scope: Any, _: Any, __: Any) -> None:
        now = parent()
        assert now is not None
        seen.append(now.trace.trace_id)
        if scope["path"] == "/wrong":
            raise ValueError("this is wrong")

    headers = [(name.encode(), value.encode()) for name, value in SENDER.items()]
    with contextlib.suppress(ValueError):  # as a test client would, within one task
        await TraceMiddleware(site)({"type": "http", "path": path, "headers": headers}, Mock(), Mock())

    assert (seen, parent()) == ([TRACE], None)


@pytest.mark.parametrize("inner", [lively, bare], ids=["with a lifespan of its own", "without one"])
async def test_the_server_is_told_that_all_is_over_once_the_client_is_closed(server: Server, inner: Any) -> None:
    said: list[str] = []
    meshes: list[Penstock] = []
    words = iter(["lifespan.startup", "lifespan.shutdown"])
    scope: dict[str, Any] = {"type": "lifespan", "state": {}}

    async def receive() -> dict[str, Any]:
        return {"type": next(words)}

    async def send(message: Any) -> None:
        said.append(message["type"])
        meshes.append(scope["state"]["mesh"])
        if said == ["lifespan.startup.complete"]:
            assert meshes[0].topology.work == ["orders"]
        else:
            with pytest.raises(RuntimeError, match="not open"):
                _ = meshes[0].topology

    await Lifespan(inner, url=server.url, topology=parse(MESH))(scope, receive, send)

    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
