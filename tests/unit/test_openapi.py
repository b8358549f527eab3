"""The OpenAPI document holds exactly the routes that are served."""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec
import pytest

from docs.openapi import APIS, FILE, text
from penstock.redis.connection import client
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.telemetry.spans import NullTelemetry
from penstock.topology import load
from penstock.web import server as http
from penstock.web.openapi import Api, Operation, answer, document
from penstock_services.alerts import api as alerts
from penstock_services.gateway.app import App
from penstock_services.metrics import api as metrics
from penstock_services.notifier import api as notifier

Routes = set[tuple[str, str]]
OWN: dict[str, Any] = {
    "metrics": metrics.routes,
    "alerts": alerts.routes,
    "notifier": notifier.routes,
    "worker": lambda _: [],  # as penstock_services.worker.service serves it
}


def served(service: str) -> Routes:
    """Return the routes in the table that the service answers from; parameters have no names."""
    runtime = Runtime(
        service,
        settings=Settings(),
        topology=load(),
        redis=client("redis://127.0.0.1:1/0"),
        publisher=cast(Any, None),
        telemetry=NullTelemetry(),
    )
    if service == "gateway":
        table = App(runtime, {}, cast(Any, None)).routes
    else:
        router = http.application(runtime, OWN[service](runtime)).router
        table = {(route.method, route.resource.canonical) for route in router.routes() if route.resource}
    return {(method, nameless(path)) for method, path in table}


def described(api: Api) -> Routes:
    """Return the routes that are described, with the HEAD that GET implies."""
    routes = {(operation.method.upper(), nameless(operation.path)) for operation in api.operations}
    return routes | {("HEAD", path) for method, path in routes if method == "GET"}


def nameless(path: str) -> str:
    return re.sub(r"\{\w*\}$", "", path)


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.service)
def test_every_route_that_is_served_is_described_and_the_reverse(api: Api) -> None:
    assert described(api) == served(api.service)


def test_every_service_of_the_mesh_is_described_at_its_own_port() -> None:
    assert {api.service for api in APIS} == set(load().services)
    assert len({api.port for api in APIS}) == len(APIS)


def test_the_document_that_the_gateway_serves_is_current() -> None:
    assert FILE.read_text() == text(), "run: just docs"


def test_every_reference_leads_somewhere_and_no_schema_is_left_over() -> None:
    written = FILE.read_text()
    schemas = set(msgspec.json.decode(written)["components"]["schemas"])
    assert set(re.findall(r'"#/components/schemas/(\w+)"', written)) == schemas


def test_operation_ids_are_unique() -> None:
    names = {(one.name, one.method, one.path) for api in APIS for one in api.operations}
    assert len({name for name, _, _ in names}) == len(names)


def test_path_parameters_are_those_of_the_path() -> None:
    for api in APIS:
        for one in api.operations:
            named = {parameter.name for parameter in one.parameters if parameter.place == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", one.path)), one.path


def test_two_services_cannot_describe_one_route_differently() -> None:
    def api(service: str, summary: str) -> Api:
        operation = Operation(name="x", path="/x", summary=summary, answers={200: answer(str, "It is.")})
        return Api(service=service, port=1, about="", operations=(operation,))

    shared = document("t", "1", "", [api("a", "same"), api("b", "same")])
    assert shared["paths"]["/x"]["get"]["tags"] == ["a", "b"]
    with pytest.raises(ValueError, match="get /x: b describes it differently"):
        document("t", "1", "", [api("a", "one"), api("b", "other")])
