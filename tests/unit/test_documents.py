"""What is generated from the code is current, and says all there is to say."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from penstock.web.common import COMMON
from tests.processes import ROOT
from tests.routes import OWN, routes

COMMON_PATHS = {operation.path for operation in COMMON}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_documents_are_current(generate: ModuleType) -> None:
    for path, text in generate.documents().items():
        assert path.read_text() == text, f"{path.name} is not current: run `just docs`"


def test_every_event_type_in_the_code_is_in_the_catalogue(generate: ModuleType) -> None:
    known = {one for kind in generate.KINDS for one in kind.types}
    pattern = re.compile(r"(job|alert|alerts|breaker|metrics|delivery|notification|ticket|demo|engine)\.[a-z_]+")
    found = {
        node.value
        for folder in ("libs", "services")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.fullmatch(node.value)
    }
    assert {one for one in found if not one.endswith((".yaml", ".html"))} - known == {
        "alert.test"
    }  # a webhook's, not an event's


def test_asyncapi_names_every_stream_group_and_message() -> None:
    document = yaml.safe_load((ROOT / "asyncapi.yaml").read_text())
    topology = yaml.safe_load((ROOT / "streams.yaml").read_text())
    assert list(document["channels"]) == list(topology["streams"])
    for name, channel in document["channels"].items():
        readers = [service for service, spec in topology["services"].items() if name in spec.get("consumes", {})]
        assert channel["x-redis-streams"]["groups"] == readers
        for message in channel["messages"].values():
            assert _resolve(document, message["$ref"])["name"]
    for operation in document["operations"].values():
        assert _resolve(document, operation["channel"]["$ref"])


def test_security_names_every_route_and_its_scope() -> None:
    written = (ROOT / "docs/security.md").read_text()
    table = [
        f"| {service} | `{route.method} {route.path}` | {route.scope} |"
        for service in OWN
        for route in routes(service)
        if service == "gateway" or route.path not in COMMON_PATHS
    ]
    assert [line for line in written.splitlines() if line.startswith(tuple(f"| {name} | `" for name in OWN))] == table


def test_every_test_that_a_page_names_is_there() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "deploy" / "README.md"]
    named = {name for page in pages for name in re.findall(r"\btest_\w+\.py", page.read_text())}
    assert len(named) > 10
    assert named - {file.name for file in (ROOT / "tests").rglob("test_*.py")} == set()


def _resolve(document: object, reference: str) -> dict[str, object]:
    at = document
    for part in Path(reference.removeprefix("#/")).parts:
        assert isinstance(at, dict)
        at = at[part]
    assert isinstance(at, dict)
    return at
