"""OpenAPI 3.1: what HTTP routes take and answer, as data, and the document made of it.

Each service describes its own routes; whoever puts a document together imports the descriptions, so that services
need not know each other. Schemas come from the types that the code reads and writes itself.

Source: https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec

from penstock.config import Duration
from penstock.web.scopes import Scope

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
TEXT: Final = "text/plain"
_REFERENCE: Final = "#/components/schemas/{name}"

_PROBLEMS: Final[Mapping[int, str]] = {
    400: "The request, or a parameter of it, is malformed; `detail` says which and how.",
    401: "Nobody knows the caller: a client's secret, or a valid signature, is missing.",
    403: "The caller may not do this, or a page of another site asks; `detail` says which.",
    404: "There is no such thing.",
    405: "This address does not take this method.",
    408: "The body did not arrive in time.",
    409: "Several things have this name; `detail` says how to tell which one is meant.",
    413: "The body is too large.",
    415: "The body is not JSON, or compressed.",
    421: "The service is asked under a name that it does not know as its own (PENSTOCK_HOSTS).",
    422: "The body is JSON, but not what belongs here; `detail` names the place.",
    426: "This address speaks WebSocket.",
    429: "Too much waits already, or comes from this caller: try again after Retry-After.",
    503: "Redis is away, or the process is not ready: try again after Retry-After.",
}
_OF_ALL: Final = (403, 421)
_OF_CALLERS: Final = (401, 429)
_SECURITY: Final = {
    "secret": {
        "type": "http",
        "scheme": "bearer",
        "description": "A client's of streams.yaml. While there are none, callers on this machine need none.",
    },
    "password": {"type": "http", "scheme": "basic", "description": "The same, as the password of any user."},
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
    """What one method of one route does.

    `name` is the operationId; `errors` are the problems it may answer with, beside those that who asks brings about.
    """

    name: str
    method: Literal["get", "post", "delete", "options"] = "get"
    path: str
    scope: Scope = "read"
    summary: str
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Content | None = None
    answers: Mapping[int, Content]
    errors: tuple[int, ...] = ()

    @property
    def problems(self) -> list[int]:
        """Every problem that it may answer with."""
        return sorted({*self.errors, *_OF_ALL, *(_OF_CALLERS if self.scope != "public" else ())})

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


def look(name: str, path: str, summary: str, what: Type, told: str, **more: Any) -> Operation:
    """Return what most operations are: a question that Redis answers. `errors` are what else may go wrong."""
    errors = (*more.pop("errors", ()), 503)
    answers = {200: answer(what, told, media_type=more.pop("media_type", JSON))}
    return Operation(name=name, path=path, summary=summary, answers=answers, errors=errors, **more)


def limit(usual: int) -> Parameter:
    """Return the parameter that bounds a list."""
    number = Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    return Parameter(name="limit", description=f"At most so many; {usual} if absent.", type=number)


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
        "components": {"schemas": dict(sorted(components.items())), "securitySchemes": _SECURITY},
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
    if operation.scope != "public":
        described["security"] = [{scheme: [operation.scope]} for scheme in _SECURITY]
    if operation.parameters:
        described["parameters"] = [_parameter(parameter, schemas) for parameter in operation.parameters]
    if operation.body is not None:
        described["requestBody"] = {"required": True, **_content(operation.body, schemas)}
    problem = {PROBLEM: {"schema": schemas[ProblemDetails]}}
    described["responses"] = {
        **{str(status): _content(content, schemas) for status, content in operation.answers.items()},
        **{str(status): {"description": _PROBLEMS[status], "content": problem} for status in operation.problems},
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
