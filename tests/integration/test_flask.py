"""Flask: the extension, with Flask's own test client."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flask
import pytest
from flask.testing import FlaskClient

from penstock.flask import Penstock
from penstock.sync import Penstock as SyncPenstock
from penstock.telemetry.current import parent
from penstock.topology import parse
from tests.hands import fields_of
from tests.integration.test_asgi import SENDER, TRACE
from tests.integration.test_sync import MESH
from tests.servers import Server

penstock = Penstock(source="web")


def made(server: Server) -> flask.Flask:
    app = flask.Flask("shop")
    app.config.update(PENSTOCK_REDIS_URL=server.url, PENSTOCK_TOPOLOGY=parse(MESH), TESTING=True)
    penstock.init_app(app)

    @app.post("/orders")
    def order() -> tuple[dict[str, str], int]:
        return {"job": penstock.mesh.submit("order.placed", flask.request.json).id}, 202

    return app


def closed(app: flask.Flask) -> None:
    mesh: SyncPenstock = app.extensions["penstock"]
    mesh.close()


@pytest.fixture
def client(server: Server) -> Iterator[FlaskClient]:
    app = made(server)
    yield app.test_client()
    closed(app)


def test_what_a_request_submits_is_of_its_senders_trace_and_of_no_other(client: FlaskClient, raw: Any) -> None:
    answers = []
    for headers in (SENDER, {}, {"traceparent": "x"}):
        answers += [client.post("/orders", json={"price": 7}, headers=headers)]
        assert parent() is None  # a thread answers one request after the other

    assert [answer.status_code for answer in answers] == [202] * 3
    entries = fields_of(raw, "orders")
    assert [entry["id"] for entry in entries] == [answer.json["job"] for answer in answers if answer.json]
    traces = [entry["traceparent"].split("-")[1] for entry in entries]
    assert traces[0] == TRACE
    assert len(set(traces)) == 3
    assert [entry.get("tracestate") for entry in entries] == ["vendor=1", None, None]
    assert {entry["source"] for entry in entries} == {"web"}


def test_many_threads_of_requests_share_one_client(client: FlaskClient, raw: Any) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda price: client.application.test_client().post("/orders", json=price), range(100)))

    assert sorted(int(entry["data"]) for entry in fields_of(raw, "orders")) == list(range(100))
    assert len([one for one in raw.client_list() if one["name"].startswith("penstock-client-web")]) <= 2


def test_while_redis_is_away_it_answers_503_and_then_goes_on(own_server: Server) -> None:
    app = made(own_server)
    client = app.test_client()
    own_server.kill()
    answer = client.post("/orders", json={"price": 7})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json is not None
    assert answer.json["detail"].startswith("Redis is unavailable")
    own_server.restart()
    assert client.post("/orders", json={"price": 7}).status_code == 202
    closed(app)
