"""OpenAPI 3.1: what HTTP routes take and answer, as data, and the document made of it.

Each service describes its own routes; whoever puts a document together imports the descriptions, so that services
need not know each other. Schemas come from the types that the code reads and writes itself.

Source: https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from penstock.config import Duration

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
TEXT: Final = "text/plain"
_REFERENCE: Final = "#/components/schemas/{name}"

_PROBLEMS: Final[Mapping[int, str]] = {
    400: "The request, or a parameter of it, is malformed; `detail` says which and how.",
    401: "Nobody knows the caller: a client's secret, or a valid signature, is missing.",
    403: "The caller may not do this; `detail` says what is missing.",
    404: "There is no such thing.",
    405: "This address does not take this method.",
    408: "The body did not arrive in time.",
    409: "Several things have this name; `detail` says how to tell which one is meant.",
    413: "The body is too large.",
    415: "The body is not JSON, or compressed.",
    422: "The body is JSON, but not what belongs here; `detail` names the place.",
    429: "Too much waits already: try again after Retry-After.",
    503: "Redis is away, or the process is not ready: try again after Retry-After.",
}

Type = Any  # anything msgspec makes a JSON Schema of; a tuple of such where it is any of them
Schemas = Mapping[Type, dict[str, Any]]


class ProblemDetails(msgspec.Struct, frozen=True):
    """An error (RFC 9457); `detail` is a sentence for the person who wrote the client."""

    type: str
    title: str
    status: int
    detail: str


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter of a request; one in the path is always required."""

    name: str
    description: str
    place: Literal["path", "query", "header"] = "query"
    type: Type = str
    required: bool = False


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """A body: its type by media type."""

    description: str
    types: Mapping[str, Type]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What one method of one route does. `name` is the operationId; `errors` are the problems it may answer with."""

    name: str
    method: Literal["get", "post", "delete", "options"] = "get"
    path: str
    summary: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Content | None = None
    answers: Mapping[int, Content]
    errors: tuple[int, ...] = ()

    @property
    def types(self) -> Iterator[Type]:
        """Every type that needs a schema."""
        yield from (parameter.type for parameter in self.parameters)
        for content in (self.body, *self.answers.values()):
            for type_ in content.types.values() if content else ():
                yield from type_ if isinstance(type_, tuple) else (type_,)


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """The routes of one service, and the port it has unless set otherwise."""

    service: str
    port: int
    about: str
    operations: tuple[Operation, ...]


def answer(type_: Type, description: str, *, media_type: str = JSON) -> Content:
    """Return a body of one media type."""
    return Content(description=description, types={media_type: type_})


def document(title: str, version: str, description: str, apis: Sequence[Api]) -> dict[str, Any]:
    """Return the OpenAPI document of several services.

    A route that several of them have is described once, for all their servers.

    Raises:
        ValueError: services describe the same route differently.
    """
    types = {ProblemDetails, *(type_ for api in apis for operation in api.operations for type_ in operation.types)}
    ordered = sorted(types, key=str)
    schemas, components = msgspec.json.schema_components(ordered, schema_hook=_schema, ref_template=_REFERENCE)
    known = dict(zip(ordered, schemas, strict=True))
    return {
        "openapi": "3.1.1",
        "info": {
            "title": title,
            "version": version,
            "description": description,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [_server(api) for api in apis],
        "tags": [{"name": api.service, "description": api.about} for api in apis],
        "paths": _paths(apis, known),
        "components": {"schemas": dict(sorted(components.items()))},
    }


def _paths(apis: Sequence[Api], schemas: Schemas) -> dict[str, Any]:
    """Describe every route once, with the services that have it as its tags and its servers."""
    paths: dict[str, Any] = {}
    for api in apis:
        for operation in api.operations:
            methods = paths.setdefault(operation.path, {})
            described = _described(operation, schemas)
            there = methods.setdefault(operation.method, {**described, "tags": [], "servers": []})
            if {**there, **described} != there:
                raise ValueError(f"{operation.method} {operation.path}: {api.service} describes it differently")
            there["tags"].append(api.service)
            there["servers"].append(_server(api))
    return paths


def _server(api: Api) -> dict[str, str]:
    return {"url": f"http://127.0.0.1:{api.port}", "description": api.service}


def _described(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.description:
        described["description"] = operation.description
    if operation.parameters:
        described["parameters"] = [_parameter(parameter, schemas) for parameter in operation.parameters]
    if operation.body is not None:
        described["requestBody"] = {"required": True, **_content(operation.body, schemas)}
    problem = {PROBLEM: {"schema": schemas[ProblemDetails]}}
    described["responses"] = {
        **{str(status): _content(content, schemas) for status, content in operation.answers.items()},
        **{str(status): {"description": _PROBLEMS[status], "content": problem} for status in operation.errors},
    }
    return described


def _parameter(parameter: Parameter, schemas: Schemas) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "required": parameter.required or parameter.place == "path",
        "schema": schemas[parameter.type],
    }


def _content(content: Content, schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"description": content.description}
    if content.types:
        described["content"] = {media: {"schema": _any_of(type_, schemas)} for media, type_ in content.types.items()}
    return described


def _any_of(type_: Type, schemas: Schemas) -> dict[str, Any]:
    return {"anyOf": [schemas[each] for each in type_]} if isinstance(type_, tuple) else schemas[type_]


def _schema(kind: type) -> dict[str, Any]:
    """Describe what msgspec does not know: a duration is read from two forms."""
    if kind is Duration:
        text = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$"}
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, text]}
    raise NotImplementedError
