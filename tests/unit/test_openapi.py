"""The OpenAPI document holds exactly the routes that are served."""

from __future__ import annotations

import re

import msgspec
import pytest

from docs.openapi import APIS, FILE, text
from penstock.topology import load
from penstock.web.openapi import Api, Operation, answer, document
from tests.routes import routes

Routes = set[tuple[str, str]]


def served(service: str) -> Routes:
    """Return the routes in the table that the service answers from; parameters have no names."""
    table = {(route.method, route.path) for route in routes(service)}
    table |= {("HEAD", path) for method, path in table if method == "GET"}
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


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.service)
def test_every_route_is_described_with_the_scope_that_it_asks_for(api: Api) -> None:
    asked = {(route.method.lower(), nameless(route.path)): route.scope for route in routes(api.service)}
    assert {(one.method, nameless(one.path)): one.scope for one in api.operations} == asked


def test_who_may_not_is_told_so_by_every_route_that_asks_who_it_is() -> None:
    for api in APIS:
        for one in api.operations:
            assert {403, 421} <= set(one.problems)
            assert (one.scope == "public") or {401, 429} <= set(one.problems)
    paths = msgspec.json.decode(text())["paths"]
    assert paths["/v1/silences"]["post"]["security"] == [{"secret": ["operate"]}, {"password": ["operate"]}]
    assert "security" not in paths["/livez"]["get"]


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
